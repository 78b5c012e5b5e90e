"""Entries in the forms that other systems read, each with what is needed to check them against the log."""

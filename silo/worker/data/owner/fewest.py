"""How many rows a value must be shared by before it is shown to whoever owns the data."""

MINIMUM_CELL = 10
"""Fewest rows, or patients, of which a value, a class or a code is listed without a finding."""

"""The gate: holds the silo's identity, speaks to the coordinator, decides, keeps the audit log, never opens data."""

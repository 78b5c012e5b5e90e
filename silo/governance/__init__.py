"""What people decide at a silo before a run: which policy is active, and which app may run. Signed, with their keys."""

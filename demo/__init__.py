"""The demonstration: a federation of hospitals on one machine, through the same processes and files as a real one."""

"""A run in one process: the silos' own training and the coordinator's own strategies, without gates, TLS and logs."""

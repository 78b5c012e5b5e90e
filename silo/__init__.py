"""A silo: a gate that reaches the network and decides, a worker that reads the data and trains."""

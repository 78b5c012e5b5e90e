"""The coordinator: gateway, authority, run executor, aggregation. Runs no submitted code and no TensorFlow."""

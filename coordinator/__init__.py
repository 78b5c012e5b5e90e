"""The coordinator: gateway, authority, run executor, aggregation. Runs no submitted code and no TensorFlow."""

import federation  # noqa: F401  it sets what Flower reads from the environment when it is first imported

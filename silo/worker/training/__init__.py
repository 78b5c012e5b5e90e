"""TensorFlow: the only package that imports it."""

"""TensorFlow: the only package that imports it."""

import sys

# Keras wraps these where it finds them, by importing them whole, which takes a quarter of the start and 90 MB. While it
# is imported they look as if they were not installed; an app may import them afterwards.
_hidden = [name for name in ("sklearn", "matplotlib") if name not in sys.modules]
sys.modules.update(dict.fromkeys(_hidden))  # type: ignore[arg-type]  # None is what makes an import fail
try:
    import keras  # noqa: F401  for what its import leaves out here
finally:
    for _name in _hidden:
        del sys.modules[_name]

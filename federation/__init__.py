"""What both sides of a federation share: identity, manifest, run description, wire records, limits, errors."""

__version__ = "0.1.0"

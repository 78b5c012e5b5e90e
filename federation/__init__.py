"""What both sides of a federation share: identity, manifest, run description, wire records, limits, errors."""

import os

from federation.limits import LIMITS

__version__ = "0.1.0"

# Flower reads these when it is first imported, and whoever imports it imports this package before.
os.environ.setdefault("FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", str(LIMITS.object_chunk))
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

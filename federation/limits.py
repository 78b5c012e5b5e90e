"""The size of everything that comes from outside, in one place."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Upper bounds on untrusted input; bytes unless the name says otherwise."""

    certificate: int = 64 * 1024
    """A PEM certificate or signing request."""
    key_file: int = 64 * 1024
    """A PEM private key."""
    document: int = MIB
    """A YAML document: manifest, run, silo, worker."""
    app: int = 10 * MIB
    """A Flower App Bundle (the same bound as Flower's own)."""
    app_unpacked: int = 64 * MIB
    """The files of an app bundle together, once unpacked."""
    app_files: int = 1000
    """The number of files in an app bundle."""
    control_request: int = 16 * MIB
    """A request to the control interface: a run with its app."""
    fleet_request: int = 33 * MIB
    """A request to the Fleet interface: one object and its envelope."""
    object_chunk: int = 16 * MIB
    """One chunk of weights on the wire."""
    model_values: int = 512 * 1024 * 1024
    """The number of float32 values in a model."""
    examples: int = 1_000_000_000
    """The number of training rows that one silo may announce."""
    reply_overhead: int = 8 * MIB
    """What a silo's reply may weigh beyond its model's values."""
    message_objects: int = 4096
    """The number of objects in one message."""
    channel_header: int = 4 * MIB
    """The JSON head of a frame between gate and worker."""
    members: int = 1000
    """The members of a federation."""
    event_line: int = MIB
    """One line of a run's event stream."""


LIMITS = Limits()

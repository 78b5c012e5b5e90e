"""The channel between gate and worker: frames of a JSON head and an optional payload over a Unix socket or TLS.

A frame is a four-byte big-endian head length, the head, and as many payload bytes as the head says.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from federation.errors import ConcordatError
from federation.limits import LIMITS
from federation.wire import Weights

_LENGTH = struct.Struct(">I")
MOST_PAYLOAD = max(4 * LIMITS.model_values, LIMITS.app)
ANSWERS = MappingProxyType(
    {
        "prepare": "prepared",
        "initial": "initial",
        "train": "trained",
        "evaluate": "evaluated",
        "summarise": "summarised",
    }
)
"""What a worker answers to what a gate asks; `error`, too, to each."""


class ChannelError(ConcordatError):
    """The other end went away or sent something that is not a frame."""


class NoFrameError(ChannelError):
    """The other end is there, and sent something that is not a frame or a larger one than may come now."""


@dataclass(frozen=True)
class Frame:
    """One message between gate and worker."""

    op: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    payload: bytes | bytearray | memoryview = b""

    def weights(self) -> Weights:
        """The payload as float32 values; raises ChannelError."""
        if not self.payload or len(self.payload) % 4:
            raise ChannelError(f"got a payload of {len(self.payload)} bytes, expected weights of four bytes each")
        return np.frombuffer(self.payload, dtype="<f4")


def payload_of(weights: Weights) -> memoryview:
    """Weights as a payload, without a copy where they are contiguous."""
    return np.ascontiguousarray(weights, dtype="<f4").data.cast("B")


def send(connection: socket.socket, frame: Frame) -> None:
    """Send a frame; raises ChannelError."""
    head = json.dumps({"op": frame.op, "payload": len(frame.payload), **frame.fields}).encode()
    if len(head) > LIMITS.channel_header or len(frame.payload) > MOST_PAYLOAD:
        raise ChannelError(f"a frame of {len(head)} + {len(frame.payload)} bytes is too large to send")
    try:
        connection.sendall(_LENGTH.pack(len(head)) + head)
        if frame.payload:
            connection.sendall(frame.payload)
    except OSError as error:
        raise ChannelError(f"the other end is gone: {error.strerror}") from None


def receive(connection: socket.socket, most: int = MOST_PAYLOAD) -> Frame:
    """Receive a frame with a payload of at most so many bytes; raises ChannelError where the connection ends.

    For what is no such frame it raises NoFrameError, before memory is taken for it.
    """
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > LIMITS.channel_header:
        raise NoFrameError(f"got a frame head of {length} bytes, expected at most {LIMITS.channel_header}")
    head = bytes(_exactly(connection, length))
    try:
        fields = json.loads(head, object_pairs_hook=_each_once)
        op, size = fields.pop("op"), fields.pop("payload")
        # A lone surrogate has no UTF-8 form: it could be neither logged nor sent on.
        json.dumps(fields, ensure_ascii=False).encode()
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise NoFrameError("got a frame head that is not JSON with op and payload") from None
    if not isinstance(op, str) or type(size) is not int or not 0 <= size <= most:
        raise NoFrameError(f"got a frame with payload {size!s:.20}, expected 0 to {most}")
    return Frame(op, fields, _exactly(connection, size) if size else b"")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; raises ValueError where a name comes twice, as two readers may take two values for it."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _exactly(connection: socket.socket, size: int) -> memoryview:
    # np.empty leaves the memory untouched, where bytearray(size) would first fill it with zeros.
    view = np.empty(size, dtype=np.uint8).data
    filled = 0
    while filled < size:
        try:
            got = connection.recv_into(view[filled:])
        except OSError as error:
            raise ChannelError(f"the other end is gone: {error.strerror or error}") from None
        if not got:
            raise ChannelError("the other end closed the connection")
        filled += got
    return view

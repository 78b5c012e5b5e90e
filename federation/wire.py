"""What crosses between executor and gate: an envelope, carried as a Flower message.

Weights travel as one flat little-endian float32 array, so that a message is a handful of objects however many layers a
model has. Flower addresses each object by the SHA-256 of its content (`<type> <children> <length>NUL<body>`), an array
being cut into chunks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from federation.errors import WireError
from federation.limits import LIMITS

if TYPE_CHECKING:
    from flwr.app import Array, Message, RecordDict

Weights = npt.NDArray[np.float32]
Packed = npt.NDArray[np.uint8]
"""An update in one of the encodings of `federation.encodings`."""
Scalar = str | int | float | bool

STYPE, PACKED_STYPE = "concordat.flat-float32", "concordat.packed"
_CONFIG, _METRICS, _WEIGHTS, _FLAT = "concordat", "metrics", "weights", "flat"
_DIVIDER = b"\0"
RELEASE = "release"
"""The setting by which a silo says that its policy has the final model kept until the silo releases it."""
MANIFEST, MANIFEST_SIGNATURE, MANIFEST_DIGEST = "manifest", "manifest_signature", "manifest_digest"
"""The settings in which a coordinator sends the newest manifest, and a silo says which one it has."""
EVIDENCE = "evidence"
"""The setting of an envelope in which coordinator and silos tell each other of their logs."""


class Kind:
    """What a message asks for; Flower's message types."""

    ADMIT = "query.admit"
    WITNESS = "query.witness"
    INITIAL = "query.initial"
    TRAIN = "train"
    EVALUATE = "evaluate"
    KEYS = "query.secure_keys"
    SHARES = "query.secure_shares"
    MASKED = "query.secure_masked"
    SURVIVORS = "query.secure_survivors"
    UNMASK = "query.secure_unmask"
    RELEASE = "query.release"
    STATISTICS = "query.statistics"
    MOMENTS = "query.moments"


SECURE_KINDS = (Kind.KEYS, Kind.SHARES, Kind.MASKED, Kind.SURVIVORS, Kind.UNMASK)
"""The steps of secure aggregation."""
SURVEY_KINDS = (Kind.STATISTICS, Kind.MOMENTS)
"""Questions for statistics of the data, of a run of their own or before a run's first round."""
MODEL_KINDS = (Kind.INITIAL, Kind.TRAIN, Kind.EVALUATE, Kind.RELEASE)
"""What is asked about a model."""
KINDS = (Kind.ADMIT, Kind.WITNESS, *MODEL_KINDS, *SURVEY_KINDS, *SECURE_KINDS)


@dataclass(frozen=True)
class Envelope:
    """One message's content: settings, metrics, and weights or a packed update."""

    config: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    weights: Weights | None = None
    packed: Packed | None = None

    @property
    def array_bytes(self) -> int:
        """What its weights or its packed update weigh."""
        return sum(int(array.nbytes) for array in (self.weights, self.packed) if array is not None)

    def text(self, name: str) -> str:
        """A setting that must be text; raises WireError."""
        value = self.config.get(name)
        if not isinstance(value, str):
            raise WireError(f"got {type(value).__name__} for {name}, expected text")
        return value

    def number(self, name: str) -> int:
        """A setting that must be an integer; raises WireError."""
        value = self.config.get(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise WireError(f"got {type(value).__name__} for {name}, expected an integer")
        return value


@dataclass(frozen=True)
class WireObject:
    """One content-addressed object of a message."""

    object_id: str
    children: tuple[str, ...]
    content: bytes

    @staticmethod
    def name(content: bytes) -> str:
        """The id of a content: its SHA-256 in hex."""
        return hashlib.sha256(content).hexdigest()


def weights_digest(weights: Weights) -> str:
    """The digest by which weights are named in logs: SHA-256 of the little-endian float32 values."""
    return "sha256:" + hashlib.sha256(np.ascontiguousarray(weights, dtype="<f4").data.cast("B")).hexdigest()


def to_records(envelope: Envelope) -> RecordDict:
    """The envelope as Flower records."""
    from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict  # noqa: PLC0415

    records = RecordDict({_CONFIG: ConfigRecord(dict(envelope.config))})
    if envelope.metrics:
        records[_METRICS] = MetricRecord(dict(envelope.metrics))
    array = envelope.weights if envelope.packed is None else envelope.packed
    if array is not None:
        # Set afterwards, as the constructor would make a copy.
        arrays = ArrayRecord()
        arrays[_FLAT] = _flat_array(array)
        records[_WEIGHTS] = arrays
    return records


def _flat_array(values: Weights | Packed) -> Array:
    """A Flower array over the values' own memory, its chunks named beforehand.

    Flower would copy each chunk twice to name it and twice more to send it; with the names in place it copies nothing.
    """
    from flwr.app import Array  # noqa: PLC0415
    from flwr.app.message.arraychunk import ArrayChunk  # noqa: PLC0415

    kind, stype = ("uint8", PACKED_STYPE) if values.dtype == np.uint8 else ("float32", STYPE)
    flat_values = np.ascontiguousarray(values, dtype=np.dtype(kind).newbyteorder("<"))
    data = flat_values.data.cast("B")
    flat = Array(dtype=kind, shape=(flat_values.size,), stype=stype, data=b"")
    chunks = []
    for start in range(0, len(data), LIMITS.object_chunk):
        part = data[start : start + LIMITS.object_chunk]
        name = hashlib.sha256(_chunk_head(len(part)))
        name.update(part)
        chunks.append((name.hexdigest(), ArrayChunk(part)))
    flat.__dict__["_chunks"] = chunks
    return flat


def _chunk_head(length: int) -> bytes:
    return b"ArrayChunk  %d" % length + _DIVIDER


def _content(node: Any) -> bytes:
    """A node's deflated content; a chunk's in one copy."""
    data = getattr(node, "data", None)
    if isinstance(data, memoryview):
        return b"".join((_chunk_head(len(data)), data))
    content: bytes = node.deflate()
    return content


def deflate(message: Message) -> list[WireObject]:
    """Every object of a message once, children before parents, the message last."""
    done: dict[str, WireObject] = {}

    def walk(object_id: str, node: Any, content: bytes) -> None:
        children = node.children or {}
        for child_id, child in children.items():
            if child_id not in done:
                walk(child_id, child, _content(child))
        done[object_id] = WireObject(object_id, tuple(children), content)

    content = message.deflate()
    walk(WireObject.name(content), message, content)
    return list(done.values())


def _head(content: bytes) -> tuple[str, list[str], int]:
    divider = content.find(_DIVIDER, 0, 256 * 1024)
    try:
        kind, children, length = content[:divider].decode("ascii").split(" ")
        if divider < 0 or int(length) != len(content) - divider - 1:
            raise ValueError(length)
    except (UnicodeDecodeError, ValueError):
        raise WireError("got an object whose head is not `<type> <children> <length>`") from None
    return kind, children.split(",") if children else [], divider + 1


def envelope_of(root: str, contents: Mapping[str, bytes]) -> Envelope:
    """Rebuild the envelope from a message's objects; raises WireError for anything that is not one."""
    from flwr.app import ConfigRecord, MetricRecord  # noqa: PLC0415
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    def body(object_id: str, kind: str) -> tuple[list[str], int]:
        if object_id not in contents:
            raise WireError(f"got a message without its object {object_id[:12]}")
        found, children, start = _head(contents[object_id])
        if found != kind:
            raise WireError(f"got an object of type {found[:40]}, expected {kind}")
        return children, start

    (records_id,) = _exactly(body(root, "Message")[0], 1, "message")
    children, start = body(records_id, "RecordDict")
    try:
        names = _object(contents[records_id][start:])
        if set(names) - {_CONFIG, _METRICS, _WEIGHTS} or set(names.values()) != set(children):
            raise WireError(f"got records {sorted(names)[:8]}, expected {_CONFIG}, {_METRICS} and {_WEIGHTS}")
        config = ConfigRecord.inflate(contents[names[_CONFIG]]) if _CONFIG in names else {}
        metrics = MetricRecord.inflate(contents[names[_METRICS]]) if _METRICS in names else {}
    except (ValueError, KeyError, TypeError, AttributeError, DecodeError) as error:
        raise WireError(f"got records that cannot be read: {type(error).__name__}") from None
    array = _array(names[_WEIGHTS], contents, body) if _WEIGHTS in names else None
    if array is not None and array.dtype == np.uint8:
        return Envelope(_scalars(config), _floats(metrics), packed=array)
    return Envelope(_scalars(config), _floats(metrics), array)


def _object(text: bytes) -> dict[str, Any]:
    """The JSON object in a text; raises ValueError or TypeError for anything else."""
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(found, dict):
        raise TypeError("not an object")
    return found


def _exactly(values: list[str], count: int, what: str) -> list[str]:
    if len(values) != count:
        raise WireError(f"got a {what} with {len(values)} children, expected {count}")
    return values


def _scalars(record: Mapping[str, Any]) -> dict[str, Scalar]:
    for name, value in record.items():
        if not isinstance(value, str | int | float | bool):
            raise WireError(f"got {type(value).__name__} for setting {name[:40]}, expected a scalar")
    return dict(record)


def _floats(record: Mapping[str, Any]) -> dict[str, float]:
    for name, value in record.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise WireError(f"got {type(value).__name__} for metric {name[:40]}, expected a number")
    return {name: float(value) for name, value in record.items()}


def _array(record_id: str, contents: Mapping[str, bytes], body: Any) -> Any:
    """The weights, or the packed update, of a message: float32 or uint8, by what it says of itself."""
    (array_id,) = _exactly(body(record_id, "ArrayRecord")[0], 1, "weights record")
    children, start = body(array_id, "Array")
    try:
        described = _object(contents[array_id][start:])
        dtype, stype, order = described["dtype"], described["stype"], described["arraychunk_ids"]
        (size,) = described["shape"]
        chunk_ids = [children[index] for index in order]
    except (ValueError, KeyError, TypeError, IndexError):
        raise WireError("got a weights array whose description cannot be read") from None
    if [dtype, stype] not in (["float32", STYPE], ["uint8", PACKED_STYPE]):
        raise WireError(f"got weights as {dtype!s:.20}/{stype!s:.40}, expected float32/{STYPE} or uint8/{PACKED_STYPE}")
    # A packed update is no larger than a model with index and value for each of its weights.
    most = LIMITS.model_values * (1 if dtype == "float32" else 8)
    if type(size) is not int or not 0 < size <= most:
        raise WireError(f"got {size!s:.20} weights, expected 1 to {most}")
    out = np.empty(size, dtype=dtype)
    view = out.data.cast("B")
    filled = 0
    for chunk_id in chunk_ids:
        _, start = body(chunk_id, "ArrayChunk")
        chunk = memoryview(contents[chunk_id])[start:]
        if filled + len(chunk) > len(view):
            raise WireError("got more bytes of weights than the array's shape holds")
        view[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
    if filled != len(view):
        raise WireError(f"got {filled} bytes of weights, expected {len(view)}")
    return out


def check_sizes(objects: Iterable[WireObject]) -> None:
    """Refuse to send what the other side would refuse to take; raises WireError."""
    for count, item in enumerate(objects, 1):
        if count > LIMITS.message_objects or len(item.content) > LIMITS.fleet_request:
            raise WireError(f"a message object of {len(item.content)} bytes cannot be sent")

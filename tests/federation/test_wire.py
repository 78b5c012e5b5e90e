from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, Error, MetricRecord, RecordDict
from flwr.app.message import Message, make_message
from flwr.app.metadata import Metadata
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import WireError
from federation.limits import LIMITS
from federation.wire import (
    STYPE,
    Envelope,
    WireObject,
    check_sizes,
    deflate,
    envelope_of,
    to_records,
    weights_digest,
)

Objects = dict[str, bytes]


def message(content: RecordDict | None, error: Error | None = None) -> Message:
    metadata = Metadata(
        run_id=1,
        message_id="",
        src_node_id=1,
        dst_node_id=2,
        reply_to_message_id="",
        group_id="1",
        created_at=1.0,
        ttl=1.0,
        message_type="train",
    )
    metadata.delivered_at = ""
    return make_message(metadata=metadata, content=content, error=error)


def objects(envelope: Envelope) -> list[WireObject]:
    return deflate(message(to_records(envelope)))


def travelled(envelope: Envelope) -> Envelope:
    sent = objects(envelope)
    return envelope_of(sent[-1].object_id, {item.object_id: item.content for item in sent})


def same(left: object, right: object) -> bool:
    """Equal in type and value, a NaN being equal to itself."""
    if isinstance(left, float) and isinstance(right, float) and math.isnan(left):
        return math.isnan(right)
    return type(left) is type(right) and left == right


# -- round trips

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=12)
CONFIG = st.dictionaries(TEXT, TEXT | INT64 | st.floats() | st.booleans(), max_size=5)
METRICS = st.dictionaries(TEXT, st.floats(), max_size=4)
BITS = st.binary(min_size=4, max_size=400).map(lambda raw: np.frombuffer(raw[: len(raw) // 4 * 4], dtype="<f4").copy())


@settings(max_examples=150)
@given(CONFIG, METRICS, st.none() | BITS)
def test_an_envelope_arrives_as_it_was_sent(config: Any, metrics: Any, weights: Any):
    got = travelled(Envelope(config, metrics, weights))
    assert got.config.keys() == config.keys()
    assert all(same(got.config[name], config[name]) for name in config)
    assert got.metrics.keys() == metrics.keys()
    assert all(same(got.metrics[name], metrics[name]) for name in metrics)
    if weights is None:
        assert got.weights is None
    else:
        assert got.weights is not None
        assert (got.weights.dtype, got.weights.tobytes()) == (np.float32, weights.tobytes())


CHUNK = LIMITS.object_chunk // 4


@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7])
def test_weights_arrive_bit_by_bit_whatever_their_number_of_chunks(size: int):
    bits = np.arange(size, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(0x7FC00001)
    weights = bits.view(np.float32)
    sent = objects(Envelope({}, {}, weights))
    chunks = [item for item in sent if item.content.startswith(b"ArrayChunk")]
    assert len(chunks) == -(-size // CHUNK)
    got = envelope_of(sent[-1].object_id, {item.object_id: item.content for item in sent}).weights
    assert got is not None
    assert np.array_equal(got.view(np.uint32), bits)
    check_sizes(sent)


def test_weights_of_equal_chunks_share_one_object():
    sent = objects(Envelope({}, {}, np.zeros(2 * CHUNK, dtype=np.float32)))
    assert sum(item.content.startswith(b"ArrayChunk") for item in sent) == 1
    got = envelope_of(sent[-1].object_id, {item.object_id: item.content for item in sent}).weights
    assert got is not None
    assert (got.size, int(np.count_nonzero(got))) == (2 * CHUNK, 0)


def test_objects_come_once_named_by_their_content_children_first():
    sent = objects(Envelope({"a": 1}, {"loss": 1.0}, np.ones(3, dtype=np.float32)))
    seen: set[str] = set()
    for item in sent:
        assert item.object_id == hashlib.sha256(item.content).hexdigest() == WireObject.name(item.content)
        assert set(item.children) <= seen
        assert item.object_id not in seen
        seen.add(item.object_id)
    assert sent[-1].content.startswith(b"Message ")
    assert len(sent) == 7


def test_the_digest_of_weights_is_that_of_their_little_endian_values():
    weights = np.array([1.0, -2.5, np.nan], dtype="<f4")
    assert weights_digest(weights) == "sha256:" + hashlib.sha256(weights.tobytes()).hexdigest()
    for same_values in (weights.astype(">f4"), np.repeat(weights, 2)[::2]):
        assert weights_digest(same_values) == weights_digest(weights)
    assert weights_digest(weights[::-1]) != weights_digest(weights)


def test_a_setting_has_the_type_that_is_asked_for():
    envelope = Envelope({"n": 3, "t": "x", "b": True, "f": 1.0})
    assert (envelope.number("n"), envelope.text("t")) == (3, "x")
    for name in ("t", "b", "f", "none"):
        with pytest.raises(WireError, match="expected an integer"):
            envelope.number(name)
    for name in ("n", "b", "f", "none"):
        with pytest.raises(WireError, match="expected text"):
            envelope.text(name)


def test_what_the_other_side_would_not_take_is_not_sent():
    check_sizes([WireObject("a", (), bytes(100))])
    with pytest.raises(WireError):
        check_sizes([WireObject("a", (), bytes(LIMITS.fleet_request + 1))])
    with pytest.raises(WireError):
        check_sizes([WireObject("a", (), b"")] * (LIMITS.message_objects + 1))


# -- malformed messages


def node(kind: str, children: list[str], body: bytes) -> bytes:
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\0" + body


def array(**changes: object) -> Mapping[str, object]:
    return {"dtype": "float32", "shape": [2], "stype": STYPE, "arraychunk_ids": [0]} | changes


def weights_message(described: object, chunks: tuple[bytes, ...] = (bytes(8),), array_kind: str = "Array") -> Objects:
    """A message of weights as an odd sender may make it."""
    names = [f"c{index}" for index in range(len(chunks))]
    return {
        "m": node("Message", ["r"], b""),
        "r": node("RecordDict", ["w"], b'{"weights": "w"}'),
        "w": node("ArrayRecord", ["a"], b'{"flat": "a"}'),
        "a": node(array_kind, names, described if isinstance(described, bytes) else json.dumps(described).encode()),
        **{name: node("ArrayChunk", [], chunk) for name, chunk in zip(names, chunks, strict=True)},
    }


def test_the_hand_made_message_is_well_formed():
    got = envelope_of("m", weights_message(array(), (np.array([1, 2], dtype="<f4").tobytes(),)))
    assert got.weights is not None
    assert got.weights.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "contents",
    [
        weights_message(array(dtype="float64")),
        weights_message(array(dtype=["float32"])),
        weights_message(array(stype="numpy.ndarray")),
        weights_message(array(shape=[2, 1])),
        weights_message(array(shape=[])),
        weights_message(array(shape=[0])),
        weights_message(array(shape=[-2])),
        weights_message(array(shape=[True])),
        weights_message(array(shape=[2.0])),
        weights_message(array(shape=["2"])),
        weights_message(array(shape={"2": 1})),
        weights_message(array(shape=[LIMITS.model_values + 1])),
        weights_message(array(shape=[2**70])),
        weights_message(array(shape=[1])),
        weights_message(array(shape=[3])),
        weights_message(array(arraychunk_ids=[])),
        weights_message(array(arraychunk_ids=[0, 0])),
        weights_message(array(arraychunk_ids=[1])),
        weights_message(array(arraychunk_ids=[[0]])),
        weights_message(array(arraychunk_ids="0")),
        weights_message(array(arraychunk_ids=None)),
        weights_message(array(), (bytes(7),)),
        weights_message(array(), (b"",)),
        weights_message([]),
        weights_message({}),
        weights_message(b"{"),
        weights_message(b"[" * 100_000),
        weights_message(array(), array_kind="ArrayChunk"),
    ],
)
def test_weights_that_are_not_as_described_are_refused(contents: Objects):
    with pytest.raises(WireError):
        envelope_of("m", contents)


CONFIG_OBJECT = ConfigRecord({"a": 1}).deflate()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"5",
        b"null",
        b'"concordat"',
        b'["concordat"]',
        b'[["concordat"]]',
        b'{"concordat": 5}',
        b'{"concordat": ["k"]}',
        b'{"concordat": {}}',
        b'{"concordat": null}',
        b'{"concordat": "other"}',
        b'{"weights": "k"}',
        b'{"metrics": "k"}',
        b'{"stranger": "k"}',
        b'{"concordat": "k", "stranger": "k"}',
        b"{}",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"\xff",
    ],
)
def test_records_that_cannot_be_read_are_refused(body: bytes):
    contents = {"m": node("Message", ["r"], b""), "k": CONFIG_OBJECT}
    assert envelope_of("m", contents | {"r": node("RecordDict", ["k"], b'{"concordat": "k"}')}).config == {"a": 1}
    with pytest.raises(WireError):
        envelope_of("m", contents | {"r": node("RecordDict", ["k"], body)})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"Message r 0",
        b"Message r 1\0",
        b"Message r 0\0x",
        b"Message r -1\0",
        b"Message r x\0",
        b"Message r\0",
        b"Message  r 0\0",
        b"Message  0\0",
        b"Message r,r 0\0",
        b"RecordDict r 0\0",
        b"M\xff r 0\0",
        b"Message " + b"r" * 300_000 + b" 0\0",
    ],
)
def test_an_object_whose_head_is_wrong_is_refused(content: bytes):
    contents = {"r": node("RecordDict", ["k"], b'{"concordat": "k"}'), "k": CONFIG_OBJECT}
    assert envelope_of("m", contents | {"m": b"Message r 0\0"}).config == {"a": 1}
    with pytest.raises(WireError):
        envelope_of("m", contents | {"m": content})


def test_a_message_without_one_of_its_objects_is_refused():
    sent = objects(Envelope({"a": 1}, {"loss": 1.0}, np.ones(3, dtype=np.float32)))
    contents = {item.object_id: item.content for item in sent}
    for item in sent:
        with pytest.raises(WireError):
            envelope_of(sent[-1].object_id, {k: v for k, v in contents.items() if k != item.object_id})


def test_flowers_own_error_reply_is_refused():
    sent = deflate(message(None, Error(0, "the app crashed")))
    with pytest.raises(WireError, match="0 children"):
        envelope_of(sent[-1].object_id, {item.object_id: item.content for item in sent})


@pytest.mark.parametrize(
    "records",
    [
        {"concordat": ConfigRecord({"a": [1, 2]})},
        {"concordat": ConfigRecord({"a": b"bytes"})},
        {"concordat": MetricRecord({"a": 1})},
        {"concordat": ConfigRecord(), "metrics": MetricRecord({"loss": [1.0]})},
        {"concordat": ConfigRecord(), "metrics": ConfigRecord({"loss": 1.0})},
        {"concordat": ConfigRecord(), "others": ConfigRecord({"loss": 1.0})},
    ],
)
def test_flower_records_that_are_no_envelope_are_refused(records: Any):
    sent = deflate(message(RecordDict(records)))
    with pytest.raises(WireError):
        envelope_of(sent[-1].object_id, {item.object_id: item.content for item in sent})


WELL_FORMED = objects(Envelope({"a": 1, "b": "x", "c": True, "d": 1.5}, {"loss": 1.0}, np.ones(9, dtype=np.float32)))


def mended(content: bytes) -> bytes:
    """The content with the length in its head made right again."""
    head, divider, body = content.partition(b"\0")
    parts = head.rsplit(b" ", 1)
    return parts[0] + b" " + str(len(body)).encode() + divider + body if len(parts) == 2 else content


@settings(max_examples=600)
@given(st.data())
def test_a_damaged_object_is_read_or_refused_and_never_a_fault(data: st.DataObject):
    contents = {item.object_id: item.content for item in WELL_FORMED}
    changed = data.draw(st.sampled_from(WELL_FORMED))
    content = bytearray(changed.content)
    for _ in range(data.draw(st.integers(1, 3))):
        at, length = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 6))
        content[at : at + length] = data.draw(st.binary(max_size=6))
    final = bytes(content)
    contents[changed.object_id] = mended(final) if data.draw(st.booleans()) else final
    try:
        got = envelope_of(WELL_FORMED[-1].object_id, contents)
    except WireError:
        return
    assert all(isinstance(value, str | int | float | bool) for value in got.config.values())
    assert all(isinstance(value, float) for value in got.metrics.values())
    assert got.weights is None or got.weights.dtype == np.float32


@given(st.dictionaries(st.sampled_from("mrk"), st.binary(max_size=40), max_size=3), st.sampled_from("mx"))
def test_any_bytes_are_refused(contents: Objects, root: str):
    with pytest.raises(WireError):
        envelope_of(root, contents)


def test_an_envelope_is_not_changed_by_being_sent():
    weights = np.ones(3, dtype=np.float32)
    envelope = Envelope({"a": 1}, {"loss": 1.0}, weights)
    before = replace(envelope, config=dict(envelope.config), metrics=dict(envelope.metrics), weights=weights.copy())
    got = travelled(envelope)
    assert (envelope.config, envelope.metrics) == (before.config, before.metrics)
    assert got.weights is not None
    got.weights[0] = 5
    assert weights.tolist() == [1, 1, 1]


# -- packed updates


@given(st.binary(min_size=1, max_size=200))
def test_a_packed_update_arrives_as_it_was_sent(content: bytes):
    packed = np.frombuffer(content, dtype=np.uint8)
    got = travelled(Envelope({"a": 1}, packed=packed))
    assert got.weights is None
    assert got.packed is not None
    assert (got.packed.tobytes(), got.packed.dtype, got.array_bytes) == (content, np.uint8, len(content))


@pytest.mark.parametrize(
    ("dtype", "stype"),
    [("uint8", STYPE), ("float32", "concordat.packed"), ("int8", "concordat.packed"), (["uint8"], "concordat.packed")],
)
def test_bytes_that_say_they_are_something_else_are_refused(dtype: Any, stype: Any):
    sent = objects(Envelope(packed=np.arange(8, dtype=np.uint8)))
    contents = {item.object_id: item.content for item in sent}
    (array,) = [key for key, content in contents.items() if content.startswith(b"Array ")]
    head, _, body = contents[array].partition(b"\0")
    described = json.dumps({**json.loads(body), "dtype": dtype, "stype": stype}).encode()
    contents[array] = b" ".join([*head.split(b" ")[:2], str(len(described)).encode()]) + b"\0" + described
    with pytest.raises(WireError, match=r"expected float32/concordat\.flat-float32 or uint8/concordat\.packed"):
        envelope_of(sent[-1].object_id, contents)

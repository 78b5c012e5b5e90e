"""Frames between gate and worker: what was sent arrives, and what is no frame is a ChannelError and little memory."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.limits import LIMITS, MIB
from silo.channel import ChannelError, Frame, payload_of, receive, send

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.dictionaries(TEXT.filter(lambda name: name not in {"op", "payload"}), JSON, max_size=5)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.settimeout(20)
    right.settimeout(20)
    with left, right:
        yield left, right


def _frame(head: object, payload: bytes = b"") -> bytes:
    data = head if isinstance(head, bytes) else json.dumps(head).encode()
    return struct.pack(">I", len(data)) + data + payload


def _received(*parts: bytes) -> Frame:
    """What `receive` makes of bytes after which the connection ends."""
    left, right = socket.socketpair()
    with right:
        with left:
            for part in parts:
                left.sendall(part)
        return receive(right)


@given(st.lists(st.tuples(TEXT, FIELDS, st.binary(max_size=3000)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_frames_arrive_as_they_were_sent_one_after_the_other(sent: list[tuple[str, dict, bytes]]) -> None:
    left, right = socket.socketpair()
    with left, right:
        for op, fields, payload in sent:
            send(left, Frame(op, fields, payload))
        for op, fields, payload in sent:
            got = receive(right)
            assert (got.op, got.fields, bytes(got.payload)) == (op, fields, payload)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=150)
def test_arbitrary_bytes_are_a_channel_error(data: bytes) -> None:
    with pytest.raises(ChannelError):
        _received(data)


@given(st.integers(0, 200), st.binary(min_size=1, max_size=40))
@settings(deadline=None)
def test_a_frame_cut_anywhere_is_a_channel_error(cut: int, payload: bytes) -> None:
    whole = _frame({"op": "train", "payload": len(payload), "round": 3}, payload)
    with pytest.raises(ChannelError, match="closed the connection"):
        _received(whole[: cut % len(whole)])


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"\xff\xfe\xfd", id="no text"),
        pytest.param(b"[" * 200_000, id="nested too deep"),
        pytest.param(b'{"op":"a","payload":0,"x":' + b"[" * 200_000, id="nested too deep within"),
        pytest.param(b"9" * 10_000, id="a number of many digits"),
        pytest.param([], id="a list"),
        pytest.param("op", id="a text"),
        pytest.param(None, id="null"),
        pytest.param({"payload": 0}, id="no op"),
        pytest.param({"op": "train"}, id="no payload"),
        pytest.param({"op": 1, "payload": 0}, id="op is a number"),
        pytest.param({"op": "train", "payload": -1}, id="negative"),
        pytest.param({"op": "train", "payload": "1"}, id="payload is text"),
        pytest.param({"op": "train", "payload": 1.0}, id="payload is a float"),
        pytest.param({"op": "train", "payload": True}, id="payload is true"),
        pytest.param({"op": "train", "payload": 4 * LIMITS.model_values + 1}, id="payload above the limit"),
        pytest.param({"op": "train", "payload": 10**400}, id="payload is huge"),
        pytest.param(b'{"op":"error","payload":0,"message":"\\ud800"}', id="a lone surrogate"),
        pytest.param(b'{"op":"error","payload":0,"\\udfff":1}', id="a lone surrogate in a name"),
    ],
)
def test_a_malformed_head_is_a_channel_error(head: object) -> None:
    with pytest.raises(ChannelError):
        _received(_frame(head, b"x" * 8))


def test_a_head_above_the_limit_is_refused_before_any_of_it_is_read(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    left, right = pair
    left.sendall(struct.pack(">I", LIMITS.channel_header + 1))
    with pytest.raises(ChannelError, match=f"head of {LIMITS.channel_header + 1} bytes"):
        receive(right)


def _peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def test_a_payload_that_never_comes_costs_no_memory() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    before = _peak_kib()
    with pytest.raises(ChannelError, match="closed the connection"):
        _received(_frame({"op": "train", "payload": 4 * LIMITS.model_values}, b"only this"))
    assert _peak_kib() - before < 64 * 1024


def test_a_large_payload_crosses_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    weights = np.arange(3 * MIB, dtype=np.float32)
    sender = threading.Thread(target=send, args=(left, Frame("train", {}, payload_of(weights))))
    sender.start()
    got = receive(right)
    sender.join()
    np.testing.assert_array_equal(got.weights(), weights)


def test_nothing_too_large_is_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    with pytest.raises(ChannelError, match="too large to send"):
        send(left, Frame("hello", {"text": "x" * LIMITS.channel_header}))
    right.setblocking(False)
    with pytest.raises(BlockingIOError):
        right.recv(1)


def test_the_end_of_the_other_side_is_a_channel_error(pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    right.close()
    with pytest.raises(ChannelError, match="the other end is gone"):
        send(left, Frame("train"))
    with pytest.raises(ChannelError):
        receive(left)
    left.close()
    with pytest.raises(ChannelError, match="the other end is gone"):
        receive(left)


def test_a_peer_that_says_nothing_in_time_is_a_channel_error(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].settimeout(0.01)
    with pytest.raises(ChannelError, match="timed out"):
        receive(pair[0])


@pytest.mark.parametrize("size", [0, 1, 3, 5, 4097])
def test_a_payload_that_is_not_weights_is_refused(size: int) -> None:
    with pytest.raises(ChannelError, match=f"a payload of {size} bytes"):
        Frame("trained", {}, b"x" * size).weights()


def test_weights_cross_as_little_endian_float32_of_any_memory_order() -> None:
    square = np.arange(6, dtype=np.float64).reshape(2, 3).T
    payload = bytes(payload_of(square))  # type: ignore[arg-type]
    assert payload == struct.pack("<6f", 0, 3, 1, 4, 2, 5)
    assert Frame("x", {}, payload).weights().tolist() == [0, 3, 1, 4, 2, 5]

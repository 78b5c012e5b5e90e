"""What is assumed of Flower's objects, held against the Flower that is installed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, validate_object_content
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import WireError
from federation.limits import LIMITS
from federation.wire import STYPE, Envelope, deflate, envelope_of, to_records

CHUNK = LIMITS.object_chunk // 4


def message(content: RecordDict) -> Message:
    metadata = Metadata(
        run_id=7,
        message_id="",
        src_node_id=1,
        dst_node_id=2**63 + 5,
        reply_to_message_id="",
        group_id="3",
        created_at=1.5,
        ttl=60.0,
        message_type="train",
    )
    metadata.delivered_at = ""
    return make_message(metadata=metadata, content=content)


def contents_of(made: Message) -> dict[str, bytes]:
    return {name: item.deflate() for name, item in get_all_nested_objects(made).items()}


WEIGHTS = st.none() | st.lists(st.floats(width=32), min_size=1, max_size=40).map(lambda v: np.array(v, dtype="<f4"))
ENVELOPES = st.builds(
    Envelope,
    st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.integers(0, 9) | st.booleans(), max_size=4),
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3),
    WEIGHTS,
)
LARGE = [
    Envelope({"round": 1}, {}, np.arange(2 * CHUNK + 3, dtype=np.float32)),
    Envelope({"round": 1}, {}, np.zeros(3 * CHUNK, dtype=np.float32)),
]


def agree(envelope: Envelope) -> None:
    made = message(to_records(envelope))
    ours = {item.object_id: item for item in deflate(made)}
    theirs = contents_of(made)
    assert list(ours) == list(theirs)
    assert {name: item.content for name, item in ours.items()} == theirs
    tree = get_object_tree(made)
    pending = [tree]
    while pending:
        node = pending.pop()
        assert tuple(child.object_id for child in node.children) == ours[node.object_id].children
        pending += node.children
    for item in ours.values():
        validate_object_content(item.content)


@settings(max_examples=60)
@given(ENVELOPES)
def test_ids_contents_and_order_of_objects_are_flowers(envelope: Envelope):
    agree(envelope)


@pytest.mark.parametrize("envelope", LARGE, ids=["distinct", "equal"])
def test_chunks_are_flowers(envelope: Envelope):
    agree(envelope)


@settings(max_examples=60)
@given(ENVELOPES)
def test_flower_inflates_what_is_sent(envelope: Envelope):
    sent = deflate(message(to_records(envelope)))
    got: Any = inflate_object_from_contents(sent[-1].object_id, {item.object_id: item.content for item in sent})
    assert (got.metadata.run_id, got.metadata.group_id, got.metadata.message_type) == (7, "3", "train")
    assert dict(got.content.config_records["concordat"]) == dict(envelope.config)
    if envelope.metrics:
        assert dict(got.content.metric_records["metrics"]) == dict(envelope.metrics)
    if envelope.weights is not None:
        flat = got.content.array_records["weights"]["flat"]
        assert (flat.dtype, flat.stype, list(flat.shape)) == ("float32", STYPE, [envelope.weights.size])
        assert flat.data == envelope.weights.tobytes()


def test_what_flower_deflates_is_read_back():
    values = np.linspace(-1, 1, CHUNK + 9, dtype="<f4")
    flat = Array(dtype="float32", shape=(values.size,), stype=STYPE, data=values.tobytes())
    records = RecordDict(
        {
            "concordat": ConfigRecord({"status": "ok", "examples": 12}),
            "metrics": MetricRecord({"loss": 0.5, "num_examples": 12}),
            "weights": ArrayRecord({"flat": flat}),
        }
    )
    made = message(records)
    got = envelope_of(made.object_id, contents_of(made))
    assert (dict(got.config), dict(got.metrics)) == (
        {"status": "ok", "examples": 12},
        {"loss": 0.5, "num_examples": 12},
    )
    assert got.weights is not None
    assert np.array_equal(got.weights, values)


def test_flowers_own_format_of_arrays_is_refused_by_name():
    """Array bytes in NumPy's file format would be a header read as weights."""
    records = RecordDict({"concordat": ConfigRecord({}), "weights": ArrayRecord([np.ones(4, dtype=np.float32)])})
    made = message(records)
    with pytest.raises(WireError, match=r"float32/numpy\.ndarray, expected float32/concordat\.flat-float32"):
        envelope_of(made.object_id, contents_of(made))


@pytest.mark.parametrize("module", ["silo.gate.service", "coordinator.service"])
def test_both_processes_cut_weights_into_the_same_large_chunks(module: str):
    """Flower reads the size of a chunk from the environment when it is first imported."""
    program = f"""
import {module}
from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE as size
from flwr.supercore.telemetry import FLWR_TELEMETRY_ENABLED as telemetry
print(size, telemetry)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
    )
    assert done.stdout.split() == [str(LIMITS.object_chunk), "0"], done.stderr

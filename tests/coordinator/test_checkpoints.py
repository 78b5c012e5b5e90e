from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.checkpoints import MAX_DIMENSIONS, Checkpoints, LayerShape, parse_shapes, save_model
from federation.errors import ConcordatError, WireError
from federation.limits import LIMITS
from federation.wire import Weights, weights_digest


def weights(*values: float) -> Weights:
    return np.array(values, dtype=np.float32)


def state(values: Weights) -> dict[str, object]:
    return {"run": "r-1", "digest": weights_digest(values), "silos": ["a", "b"]}


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "checkpoints").iterdir())


# -- checkpoints


def test_a_round_is_read_back_as_it_was_closed(checkpoints: Checkpoints):
    values = weights(1.5, -0.0, 1e-45, np.nan)
    checkpoints.save(3, values, state(values))
    got, described = checkpoints.load(3)
    assert got.tobytes() == values.tobytes()
    assert described == {**state(values), "round": 3, "values": 4}


def test_the_newest_two_are_kept(checkpoints: Checkpoints, tmp_path: Path):
    for number in (1, 2, 9, 10, 100, 10_000):
        values = weights(number)
        checkpoints.save(number, values, state(values))
    assert files(tmp_path) == ["000100.f32", "000100.json", "010000.f32", "010000.json"]
    for number in (100, 10_000):
        assert checkpoints.load(number)[0].tolist() == [number]


@pytest.mark.parametrize("change", ["bit", "short", "long", "empty"])
def test_corrupted_weights_are_refused(checkpoints: Checkpoints, tmp_path: Path, change: str):
    values = weights(1, 2, 3)
    checkpoints.save(1, values, state(values))
    path = tmp_path / "checkpoints" / "000001.f32"
    content = path.read_bytes()
    changed = {
        "bit": content[:5] + bytes([content[5] ^ 1]) + content[6:],
        "short": content[:-4],
        "long": content + bytes(4),
        "empty": b"",
    }[change]
    path.write_bytes(changed)
    with pytest.raises(ConcordatError, match="the weights of round 1 do not have the digest"):
        checkpoints.load(1)


def test_a_full_disk_fails_the_round_and_keeps_the_one_before(checkpoints: Checkpoints, tmp_path: Path):
    values = weights(*range(100))
    checkpoints.save(1, values, state(values))
    program = """
import resource, sys
from pathlib import Path
import numpy as np
from coordinator.checkpoints import Checkpoints
from federation.errors import ConcordatError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    Checkpoints(Path(sys.argv[1])).save(2, np.zeros(1000, dtype=np.float32), {"digest": "d"})
except ConcordatError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the checkpoint of round 2 cannot be written: File too large; make room in" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "checkpoints" / "000002.json").exists()
    assert checkpoints.load(1)[0].tolist() == values.tolist()
    checkpoints.save(2, values, state(values))
    assert checkpoints.load(2)[0].tolist() == values.tolist()


def test_weights_without_their_state_are_not_a_checkpoint(checkpoints: Checkpoints, tmp_path: Path):
    """A crash falls between the two files: the state, which names the weights, comes last."""
    values = weights(1)
    checkpoints.save(1, values, state(values))
    (tmp_path / "checkpoints" / "000002.f32").write_bytes(bytes(4))
    checkpoints.save(2, weights(7), state(weights(7)))
    assert checkpoints.load(2)[0].tolist() == [7]


# -- shapes


def test_shapes_are_names_and_dimensions():
    text = json.dumps([{"name": "dense/kernel", "shape": [30, 16]}, {"name": "bias", "shape": []}])
    shapes = parse_shapes(text)
    assert shapes == (LayerShape("dense/kernel", (30, 16)), LayerShape("bias", ()))
    assert [shape.size for shape in shapes] == [480, 1]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "5",
        "null",
        "[]",
        "[5]",
        '["ab"]',
        "{}",
        '{"name": "a", "shape": [1]}',
        "[{}]",
        '[{"name": "a"}]',
        '[{"shape": [1]}]',
        '[{"name": "a", "shape": 5}]',
        '[{"name": "a", "shape": null}]',
        '[{"name": "a", "shape": ["1"]}]',
        '[{"name": "a", "shape": "12"}]',
        '[{"name": "a", "shape": [1.5]}]',
        '[{"name": "a", "shape": [true]}]',
        '[{"name": "a", "shape": [NaN]}]',
        '[{"name": "a", "shape": [Infinity]}]',
        '[{"name": "a", "shape": [0]}]',
        '[{"name": "a", "shape": [-1]}]',
        '[{"name": "a", "shape": [-2, -3]}]',
        '[{"name": "a", "shape": [[1]]}]',
        '[{"name": "\\ud800", "shape": [1]}]',
        '[{"name": "a", "shape": [9223372036854775808]}]',
        '[{"name": "a", "shape": [4294967296, 4294967296]}, {"name": "b", "shape": [10]}]',
        '[{"name": "a", "shape": [536870913]}]',
        '[{"name": "a", "shape": [536870912]}, {"name": "b", "shape": [1]}]',
        json.dumps([{"name": "a", "shape": [1] * (MAX_DIMENSIONS + 1)}]),
        json.dumps([{"name": "a", "shape": [2**29] * MAX_DIMENSIONS}]),
        '[{"name": "a", "shape": [' + "9" * 4000 + "]}]",
        "[" * 100_000,
        '[{"name": "a", "shape": ' + "[" * 100_000,
    ],
    ids=lambda text: text[:40],
)
def test_shapes_that_no_model_has_are_refused(text: str):
    with pytest.raises(WireError):
        parse_shapes(text)


def test_the_largest_model_is_accepted():
    assert parse_shapes(f'[{{"name": "a", "shape": [{LIMITS.model_values}]}}]')[0].size == LIMITS.model_values


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "shape", "x"]), inner),
)


@given(JSON | st.lists(st.fixed_dictionaries({"name": JSON, "shape": JSON | st.lists(st.integers())}), max_size=3))
def test_any_json_is_shapes_or_is_refused(content: object):
    try:
        shapes = parse_shapes(json.dumps(content))
    except WireError:
        return
    assert all(np.empty(shape.dimensions, dtype=np.uint8).size == shape.size for shape in shapes if shape.size < 10**6)


# -- the model


def test_the_final_model_is_read_by_numpy_alone(tmp_path: Path):
    shapes = parse_shapes(
        '[{"name": "k/../x", "shape": [2, 3]}, {"name": "b", "shape": []}, {"name": "b", "shape": [1]}]'
    )
    values = np.arange(8, dtype=np.float32)
    save_model(tmp_path / "model.npz", values, shapes)
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]
    with np.load(tmp_path / "model.npz", allow_pickle=False) as model:
        assert model.files == ["000:k/../x", "001:b", "002:b"]
        assert model["000:k/../x"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert model["001:b"].shape == ()
        assert np.concatenate([model[name].ravel() for name in model.files]).tobytes() == values.tobytes()

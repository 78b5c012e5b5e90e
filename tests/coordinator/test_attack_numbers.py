"""Numbers that one silo chooses, against the coordinator's arithmetic: each costs that silo at most, never the run."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.entry import Event
from audit.errors import AuditWriteError
from coordinator.aggregation import LARGEST_VALUE
from coordinator.checkpoints import LayerShape
from coordinator.contributions import Contributions
from coordinator.dialogue import Dialogue, admitted
from coordinator.events import EventLog
from coordinator.executor import _folded, _steps
from coordinator.reading import reading
from coordinator.roster import Admitted, Roster
from coordinator.rounds import Round
from coordinator.strategies import Fold, strategy_of
from coordinator.strategies.clipping import ClipNorm
from federation.encodings import received
from federation.errors import ConcordatError, RunFailedError, WireError
from federation.measures import LARGEST_LOSS
from federation.run import LEAST, OPTIONS, Strategy, Updates, load_run
from federation.statistics.document import load_statistics
from federation.statistics.reading import read_summary
from federation.statistics.summary import layout_of
from federation.wire import Envelope, Weights

SURVEY = """\
apiVersion: concordat/v1
kind: Statistics
metadata: {name: ages}
purpose: HMB
dataset: heart
columns: {age: {}}
"""

SIZE = 5
ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([2**62, -1, 0])
VALUES = st.floats(width=32) | st.sampled_from([LARGEST_VALUE, -LARGEST_VALUE, 3e38, -3e38, math.nan, math.inf])
UPDATES = st.lists(VALUES, min_size=SIZE, max_size=SIZE).map(lambda found: np.array(found, dtype=np.float32))
MODEL: Weights = np.linspace(-1, 1, SIZE, dtype=np.float32)


def folds(fold: Fold, silo: str, weights: Weights, loss: float, steps: int) -> bool:
    """Whether an update is folded in; where it is not, the error names the silo."""
    try:
        fold.fold(silo, weights, 10, {"loss": loss}, steps)
    except WireError as error:
        return silo not in str(error) and pytest.fail(f"{error} names nobody")
    return True


@pytest.mark.parametrize("name", sorted(OPTIONS))
@given(
    st.lists(st.tuples(UPDATES, st.floats() | st.sampled_from([0.0, LARGEST_LOSS]), st.integers(1, 2**31 - 1))),
    st.sampled_from([LEAST, 1e-3, 1.0, 1e6]),
)
def test_every_strategy_takes_or_refuses_any_updates_and_gives_a_model_or_a_sentence(
    name: str, sent: list[tuple[Weights, float, int]], rate: float
) -> None:
    rates = {
        option: rate for option in ("server_learning_rate", "tau", "client_learning_rate") if option in OPTIONS[name]
    }
    more = {"q": 100.0} if name == "qfedavg" else {}
    server = strategy_of(Strategy(name=name, rounds=2, **rates, **more))  # type: ignore[arg-type]
    server.admitted(100, rate)
    model = MODEL
    for _ in range(2):
        fold = server.begin(model, 100 * 10)
        taken = 0
        for number, (weights, loss, steps) in enumerate(sent[:100]):
            taken += folds(fold, f"s{number}", weights, loss, steps)
        assert fold.examples == 10 * taken
        try:
            model = fold.result()
        except RunFailedError:
            return
        assert model.dtype == np.float32
        assert np.abs(model).max() <= LARGEST_VALUE


def test_a_loss_whose_power_no_float_holds_weighs_its_silo_and_no_more() -> None:
    server = strategy_of(Strategy(name="qfedavg", rounds=1, q=100.0))
    fold = server.begin(MODEL, 20)
    fold.fold("a", MODEL + 1, 10, {"loss": 1e9})
    fold.fold("b", MODEL - 1, 10, {"loss": 0.5})
    assert (fold.result() > MODEL).all()


@given(st.dictionaries(st.sampled_from(["examples", "steps", "planned", "policy", "epsilon", "delta", "shapes"]), ANY))
def test_what_stands_beside_weights_is_taken_or_a_wire_error(config: dict[str, Any]) -> None:
    shapes = '[{"name": "dense", "shape": [5]}]'
    base: dict[str, Any] = {"examples": 5, "steps": 1, "planned": 1, "policy": "sha256:" + "a" * 64, "shapes": shapes}
    given_config = {name: value for name, value in {**base, **config}.items() if value is not None}
    answer = Envelope({"initial_digest": "sha256:0", **given_config})
    for read in (
        lambda: admitted(1, answer),
        lambda: _steps("a", answer),
        lambda: Contributions().admitted("a", answer),
    ):
        try:
            read()
        except WireError:
            continue


PRIVATE = "privacy: {mode: silo_dp, clip_norm: 1.0, delta: 1.0e-5, noise_multiplier: 1.0, adaptive: {max_clip_norm: 9}}"
RUN = """\
apiVersion: concordat/v1
kind: Run
metadata: {name: x}
purpose: HMB
dataset: heart
features: [age]
label: {column: sick}
app: {model: "model:build_model"}
strategy: {rounds: 3}
"""


@given(st.lists(st.dictionaries(st.sampled_from("abc"), ANY, min_size=1), max_size=30))
def test_no_bit_of_a_silo_makes_a_clip_norm_that_gates_would_refuse(rounds: list[dict[str, Any]]) -> None:
    clipping = ClipNorm(load_run(RUN + PRIVATE).model.privacy)
    for bits in [*rounds, *[{"a": 1e6}] * 500]:
        good = {}
        for silo, bit in bits.items():
            try:
                found = clipping.bit_of(silo, {} if bit is None else {"unclipped": bit})
            except WireError:
                continue
            assert found is not None
            good[silo] = found
        clipping.saw(good)
        assert LEAST <= clipping.norm <= 9


@given(st.sampled_from(["float16", "int8", "top_k"]), st.binary(max_size=60) | st.binary(min_size=9, max_size=9))
def test_a_packed_update_of_any_bytes_is_finite_or_refused(encoding: str, content: bytes) -> None:
    updates = Updates(encoding=encoding, share=0.4 if encoding == "top_k" else None)  # type: ignore[arg-type]
    answer = Envelope(packed=np.frombuffer(content, dtype=np.uint8))
    try:
        found = received(updates, answer, MODEL)
    except WireError:
        return
    fold = strategy_of(Strategy(rounds=1)).begin(MODEL, 10)
    if np.abs(found).max() > LARGEST_VALUE:
        with pytest.raises(WireError, match="a sent a weight of magnitude"):
            fold.fold("a", found, 10, {})
    else:
        fold.fold("a", found, 10, {})
        assert np.isfinite(fold.result()).all()


# -- a fault about one silo's answer, and one of the coordinator's own


def test_a_fault_while_one_answer_is_read_is_that_silos_and_its_words_stay_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    said = "secret-of-the-silo \x1b[2J"

    def faulty() -> None:
        raise OverflowError(said)

    with (
        caplog.at_level(logging.ERROR, "concordat"),
        pytest.raises(WireError, match=r"cannot read the answer of silo-a: an error of type OverflowError$"),
        reading("silo-a"),
    ):
        faulty()
    assert "in faulty" in caplog.text
    assert "secret-of-the-silo" not in caplog.text


def test_an_answer_whose_error_no_log_could_hold_costs_its_silo_alone(tmp_path: Path) -> None:
    """A lone surrogate where a mean stands: the refusal could not be recorded, which ended the run of all silos."""
    asked = load_statistics(SURVEY).model
    recorded: list[Event] = []

    def record(action: str, *, round: int | None = None, **fields: Any) -> None:  # noqa: A002  the field's term
        recorded.append(Event("hub", action, "run/r", round=round, **fields))

    parts: Any = SimpleNamespace()
    dialogue = Dialogue(parts, EventLog(tmp_path / "events.jsonl"), record, Envelope({}), parts)
    state = Round(frozenset({"a", "b"}), 1, math.inf)
    question: Any = SimpleNamespace(
        state=state,
        group="statistics",
        take=lambda _, answer: read_summary(answer.text("statistics"), layout_of(asked)),
    )
    answer = Envelope({"statistics": json.dumps({"rows": 70, "mean": ["\ud800"], "square": [1.0]})})
    with pytest.raises(WireError, match=r"got \\ud800 among means"):
        dialogue._usable("a", answer, question)
    (event,) = recorded
    assert (event.action, event.rule, event.detail["silo"]) == ("answer.refused", "answer.usable", "a")


@pytest.mark.parametrize("error", [RunFailedError("behind"), AuditWriteError("full"), OSError(28, "full")])
def test_what_ends_a_run_is_not_taken_for_a_silos_fault(error: Exception) -> None:
    with pytest.raises(type(error)), reading("silo-a"):
        raise error


def test_a_fault_while_an_update_is_folded_in_ends_the_run_by_name() -> None:
    class Half:
        examples = 0

        def fold(self, *_: object) -> None:
            raise MemoryError

        def result(self) -> Weights:
            return MODEL

    with pytest.raises(RunFailedError, match="the update of silo-a may be half in the sum: MemoryError"):
        _folded(Half(), "silo-a", MODEL, 1, {}, 1)


# -- what silos have to announce alike


def roster(rates: Mapping[str, float | None], size: int = 4) -> Roster:
    return Roster(
        {
            name: Admitted(number, 10, (LayerShape("dense", (size,)),), f"sha256:{rate}", rate)
            for number, (name, rate) in enumerate(rates.items())
        }
    )


def test_a_silo_that_announces_another_model_than_the_most_is_left_out() -> None:
    found = roster({"a": 0.5, "b": 0.1, "c": 0.1})
    assert list(found.strangers(2)) == ["a"]
    assert found.learning_rate() == 0.1
    assert sorted(found.available(lambda _: 0.0)) == ["b", "c"]
    assert found.starters() == ["b", "c"]


@pytest.mark.parametrize(
    ("rates", "quorum"), [({"a": 0.5, "b": 0.1}, 1), ({"a": 0.5, "b": 0.1, "c": 0.1}, 3), ({"a": 0.1, "b": 0.1}, 2)]
)
def test_nobody_is_left_out_where_no_side_is_the_larger_or_too_few_would_stay(
    rates: dict[str, float], quorum: int
) -> None:
    found = roster(rates)
    assert found.strangers(quorum) == {}
    if len(set(rates.values())) > 1:
        with pytest.raises(RunFailedError, match="different learning rates"):
            found.learning_rate()


def test_the_initial_model_is_asked_of_those_first_that_announce_the_usual_one() -> None:
    found = Roster(
        {name: Admitted(1, 10, (), digest) for name, digest in {"a": "odd", "b": "same", "c": "same"}.items()}
    )
    assert found.starters() == ["b", "c", "a"]
    assert found.initial_digest("a") == "odd"


def test_every_error_of_ours_is_told_apart() -> None:
    """`reading` lets our own errors pass; a WireError among them drops the silo, the others end the run."""
    assert issubclass(WireError, ConcordatError)
    assert not issubclass(RunFailedError, WireError)

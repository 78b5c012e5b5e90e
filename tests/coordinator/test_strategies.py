"""Each strategy against a case computed by hand, against Flower's own result, and for its bits in any order."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.metadata import Metadata
from flwr.serverapp import strategy as flower
from hypothesis import given
from hypothesis import strategies as st

from coordinator.strategies import strategy_of
from coordinator.strategies.proximal import ProximalTerm
from federation.errors import RunFailedError, WireError
from federation.run import OPTIONS, AdaptiveMu, Strategy
from federation.wire import Weights

NAMES = list(OPTIONS)


def floats(*values: float) -> Weights:
    return np.array(values, dtype=np.float32)


def strategy(name: str, **options: Any) -> Any:
    server = strategy_of(Strategy(name=name, rounds=1, **options))  # type: ignore[arg-type]
    server.admitted(10, 0.1)
    return server


Part = tuple[str, Weights, int, float]


def a_round(server: Any, model: Weights, parts: list[Part], planned: int | None = None) -> Weights:
    fold = server.begin(model, planned or sum(part[2] for part in parts))
    for silo, weights, examples, loss in parts:
        fold.fold(silo, weights, examples, {"loss": loss})
    assert fold.examples == sum(part[2] for part in parts)
    return fold.result()  # type: ignore[no-any-return]


def parts_of(silos: int, size: int, seed: int = 1) -> list[Part]:
    generator = np.random.default_rng(seed)
    return [
        (f"silo-{number}", generator.normal(size=size).astype(np.float32), 10 * number + 7, 0.3 + 0.2 * number)
        for number in range(silos)
    ]


# -- by hand


def test_momentum_by_hand():
    """From 1: change (3-1)=2, v=2, w=1+0.5*2=2. Then change (3-2)=1, v=0.9*2+1=2.8, w=2+1.4=3.4."""
    server = strategy("fedavgm", server_learning_rate=0.5, momentum=0.9)
    first = a_round(server, floats(1), [("a", floats(3), 5, 0)])
    assert first.tolist() == [2]
    assert a_round(server, first, [("a", floats(3), 5, 0)]) == pytest.approx(3.4)


def test_adam_by_hand():
    """tau=0.1, v0=0.01; change 2: m=(1-.9)*2=0.2, v=.99*.01+.01*4=.0499, w=0+.1*.2/(sqrt(.0499)+.1)."""
    server = strategy("fedadam", server_learning_rate=0.1, beta_1=0.9, beta_2=0.99, tau=0.1)
    assert a_round(server, floats(0), [("a", floats(2), 1, 0)]) == pytest.approx(0.02 / (0.0499**0.5 + 0.1))


def test_yogi_by_hand():
    """v=.01 - .01*4*sign(.01-4) = .05; then change -1, square 1: v=.05+.01*1=.06, m=.9*.2-.1."""
    server = strategy("fedyogi", server_learning_rate=0.1, beta_1=0.9, beta_2=0.99, tau=0.1)
    first = a_round(server, floats(0), [("a", floats(2), 1, 0)])
    assert first == pytest.approx(0.02 / (0.05**0.5 + 0.1))
    second = a_round(server, first, [("a", first - 1, 1, 0)])
    assert second - first == pytest.approx(0.1 * 0.08 / (0.06**0.5 + 0.1), rel=1e-5)


def test_adagrad_by_hand():
    """v=.01+4=4.01, m=2; then change 1: v=5.01, m=1."""
    server = strategy("fedadagrad", server_learning_rate=1.0, tau=0.1)
    first = a_round(server, floats(0), [("a", floats(2), 1, 0)])
    assert first == pytest.approx(2 / (4.01**0.5 + 0.1))
    assert a_round(server, first, [("a", first + 1, 1, 0)]) - first == pytest.approx(1 / (5.01**0.5 + 0.1), rel=1e-5)


def test_q_fedavg_by_hand():
    """L=10, q=1, w=0: silo a at 1 with loss 2: delta=2*(-10), h=1*100+10*2=120; silo b at 2, loss .5: -10, 400+5."""
    server = strategy("qfedavg", q=1.0, client_learning_rate=0.1)
    found = a_round(server, floats(0), [("a", floats(1), 3, 2.0), ("b", floats(2), 90, 0.5)])
    assert found == pytest.approx(30 / 525, rel=1e-6)


def test_q_0_is_the_plain_mean_of_the_silos():
    parts = parts_of(4, 6)
    found = a_round(strategy("qfedavg", q=0.0), floats(*range(6)), parts)
    np.testing.assert_allclose(found, np.mean([part[1] for part in parts], axis=0), rtol=1e-5, atol=1e-6)


def test_a_silo_with_a_higher_loss_counts_more():
    model, near, far = floats(0, 0), floats(1, 0), floats(0, 1)
    for q in (0.5, 2.0):
        found = a_round(strategy("qfedavg", q=q), model, [("a", near, 1, 0.2), ("b", far, 1, 1.0)])
        assert found[1] > found[0] > 0


def test_a_trimmed_mean_by_hand():
    """Five values, 0.2 of them off each end: the mean of 1, 2 and 6; with trim 0.4 the 2 alone."""
    parts = [(f"s{v}", floats(v), 1, 0.0) for v in (6, -100, 2, 1, 1000)]
    assert a_round(strategy("trimmed_mean", trim=0.2), floats(0), parts).tolist() == [3]
    assert a_round(strategy("trimmed_mean", trim=0.4), floats(0), parts).tolist() == [2]


def test_a_median_by_hand():
    parts = [(f"s{v}", floats(v, -v), 1, 0.0) for v in (6, 2, 1, 1000)]
    assert a_round(strategy("median"), floats(0, 0), parts).tolist() == [4, -4]
    assert a_round(strategy("median"), floats(0, 0), parts[:3]).tolist() == [2, -2]


def test_krum_by_hand():
    """Of 0, 1, 3, 100 and 101 with f=1 each looks at 2 others: 0 has 1+9, 1 has 1+4, 3 has 4+9; 1 is chosen."""
    parts = [(f"s{v}", floats(v), 1, 0.0) for v in (101, 3, 100, 1, 0)]
    assert a_round(strategy("krum", byzantine=1), floats(0), parts).tolist() == [1]


def test_krum_with_too_few_updates_fails():
    with pytest.raises(RunFailedError, match="got 4 updates, expected at least 5"):
        a_round(strategy("krum", byzantine=1), floats(0), [(f"s{v}", floats(v), 1, 0.0) for v in range(4)])


@pytest.mark.parametrize("name", ["trimmed_mean", "median", "krum"])
def test_one_wild_silo_does_not_move_the_model_far(name: str):
    options: dict[str, Any] = {"trimmed_mean": {"trim": 0.25}, "krum": {"byzantine": 1}}.get(name, {})
    honest = parts_of(6, 50)
    for wild in (4096.0, -4096.0):
        parts = [*honest, ("silo-9", np.full(50, wild, np.float32), 10**6, 0.0)]
        assert np.abs(a_round(strategy(name, **options), floats(*[0] * 50), parts)).max() < 4


# -- Flower's own


def replies(parts: list[Part]) -> list[Message]:
    out = []
    for _, weights, examples, loss in parts:
        metrics = MetricRecord({"num-examples": examples, "train_loss": loss})
        content = RecordDict({"arrays": ArrayRecord({"w": Array(weights)}), "metrics": metrics})
        out.append(make_message(Metadata(1, "", 1, 0, "", "", 0.0, 60.0, "train"), content))
    return out


def flowers(server: Any, model: Weights, parts: list[Part], number: int = 1) -> Any:
    server.current_arrays = ArrayRecord({"w": Array(model)})
    if hasattr(server, "current_arrays") and isinstance(server, flower.fedopt.FedOpt):
        server.current_arrays = {"w": model}
    arrays, _ = server.aggregate_train(number, replies(parts))
    return arrays["w"].numpy()


ADAPTIVE: dict[str, tuple[type[Any], dict[str, float]]] = {
    "fedyogi": (flower.FedYogi, {"eta": 0.05, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}),
    "fedadagrad": (flower.FedAdagrad, {"eta": 0.05, "tau": 0.01}),
    "fedadam": (flower.FedAdam, {"eta": 0.05, "beta_1": 0.8, "beta_2": 0.95, "tau": 0.01}),
}


@pytest.mark.parametrize("name", list(ADAPTIVE))
def test_an_adaptive_server_gives_flowers_result(name: str):
    """With the second moment begun at tau^2 there too, and the bias correction of its FedAdam taken off."""
    kind, options = ADAPTIVE[name]
    theirs = kind(**options)
    ours = strategy(name, **{{"eta": "server_learning_rate"}.get(key, key): value for key, value in options.items()})
    model = np.linspace(-1, 1, 40).astype(np.float32)
    theirs.v_t = {"w": np.full(40, options["tau"] ** 2)}
    for number in (1, 2, 3):
        parts = parts_of(4, 40, seed=number)
        expected = flowers(theirs, model, parts, number)
        if name == "fedadam":
            corrected = np.sqrt(1 - 0.95 ** (number + 1)) / (1 - 0.8 ** (number + 1))
            expected = model + (expected - model) / corrected
        found = a_round(ours, model, parts)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
        model = found


def test_momentum_gives_flowers_result():
    theirs = flower.FedAvgM(server_learning_rate=0.7, server_momentum=0.6)
    ours = strategy("fedavgm", server_learning_rate=0.7, momentum=0.6)
    model = np.linspace(-1, 1, 40).astype(np.float32)
    for number in (1, 2, 3):
        parts = parts_of(4, 40, seed=number)
        expected = flowers(theirs, model, parts, number)
        model = a_round(ours, model, parts)
        np.testing.assert_allclose(model, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("fedavg", {}, flower.FedAvg),
        ("qfedavg", {"q": 0.7, "client_learning_rate": 0.3}, lambda: flower.QFedAvg(0.3, q=0.7)),
        ("trimmed_mean", {"trim": 0.2}, lambda: flower.FedTrimmedAvg(beta=0.2)),
        ("median", {}, flower.FedMedian),
        ("krum", {"byzantine": 2}, lambda: flower.Krum(num_malicious_nodes=2)),
    ],
)
@pytest.mark.parametrize("silos", [7, 10])
def test_a_strategy_without_state_gives_flowers_result(name: str, options: Any, theirs: Callable[[], Any], silos: int):
    parts, model = parts_of(silos, 30), np.linspace(-1, 1, 30).astype(np.float32)
    found = a_round(strategy(name, **options), model, parts)
    np.testing.assert_allclose(found, flowers(theirs(), model, parts), rtol=2e-5, atol=2e-6)


# -- laws


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(0, 2**32), st.integers(5, 9))
def test_the_order_of_arrival_does_not_change_one_bit(name: str, seed: int, silos: int):
    generator = random.Random(seed)
    model = np.random.default_rng(seed).normal(size=11).astype(np.float32)
    servers = [strategy(name), strategy(name)]
    models = [model, model]
    for number in (1, 2):
        parts = parts_of(silos, 11, seed + number)
        shuffled = generator.sample(parts, len(parts))
        models = [a_round(s, m, p) for s, m, p in zip(servers, models, (parts, shuffled), strict=True)]
        assert models[0].tobytes() == models[1].tobytes()
    assert models[0].dtype == np.float32


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_new_memory_and_the_inputs_are_left_alone(name: str):
    parts, model = parts_of(6, 8), floats(*range(8))
    kept = [model.copy(), *(part[1].copy() for part in parts)]
    server = strategy(name)
    a_round(server, a_round(server, model, parts), parts)
    for before, after in zip(kept, [model, *(part[1] for part in parts)], strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_folded_is_refused_and_leaves_no_trace(name: str):
    good = parts_of(6, 4)
    expected = a_round(strategy(name), floats(0, 0, 0, 0), good)
    fold = strategy(name).begin(floats(0, 0, 0, 0), sum(part[2] for part in good))
    for part in good[:3]:
        fold.fold(part[0], part[1], part[2], {"loss": part[3]})
    bad: list[Any] = [floats(1, 2, 3), floats(1, 2, 3, np.nan), floats(1, 2, 3, 1e5), np.zeros(4)]
    for weights in bad:
        with pytest.raises(WireError):
            fold.fold("silo-5", weights, 1, {"loss": 0.1})
    with pytest.raises(WireError, match="second update"):
        fold.fold("silo-0", good[0][1], 1, {"loss": 0.1})
    for part in good[3:]:
        fold.fold(part[0], part[1], part[2], {"loss": part[3]})
    assert np.array_equal(fold.result(), expected)


@pytest.mark.parametrize("loss", [None, float("nan"), -1.0, float("inf")])
def test_q_fedavg_drops_a_silo_without_a_usable_loss(loss: float | None):
    fold = strategy("qfedavg").begin(floats(0), 10)
    with pytest.raises(WireError, match="q-FedAvg weighs silos by it"):
        fold.fold("a", floats(1), 1, {} if loss is None else {"loss": loss})


@pytest.mark.parametrize("name", NAMES)
def test_a_round_without_updates_fails(name: str):
    with pytest.raises(RunFailedError):
        strategy(name).begin(floats(0), 10).result()


def test_a_step_too_large_fails_the_run():
    server = strategy("fedavgm", server_learning_rate=1e6)
    with pytest.raises(RunFailedError, match="lower the server's learning rate"):
        a_round(server, floats(0), [("a", floats(1), 1, 0.0)])


@pytest.mark.parametrize("name", ["scaffold", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "median"])
def test_a_strategy_goes_on_from_its_state(name: str):
    one, two = strategy(name), strategy(name)
    model = a_round(one, floats(1, 2), [("a", floats(3, 1), 1, 0.0)])
    two.restore({key: value.copy() for key, value in one.state().items()})
    later = [("a", floats(-3, 5), 1, 0.0)]
    assert np.array_equal(a_round(one, model, later), a_round(two, model, later))


# -- an adaptive mu


def test_mu_rises_with_the_loss_and_falls_after_enough_falls():
    term = ProximalTerm(0.0, AdaptiveMu(step=0.1, patience=2))
    seen = []
    for loss in (1.0, 1.2, 1.3, 1.1, 1.0, 0.9, 0.8, None, 0.8, 0.7, 0.6):
        term.saw(loss)
        seen.append(round(term.mu, 3))
    assert seen == [0.0, 0.1, 0.2, 0.2, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.0]


def test_a_fixed_mu_stays():
    term = ProximalTerm(0.3, None)
    for loss in (1.0, 2.0, 0.5):
        term.saw(loss)
    assert term.mu == 0.3

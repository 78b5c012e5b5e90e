"""Private and partial training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from federation.run import ClassWeights, LocalWork, Run
from silo.randomness import SecureStream
from silo.worker.data.view import PolicyView
from silo.worker.errors import AppError, WorkError
from silo.worker.training.class_weights import WeightedLoss
from silo.worker.training.model import FederatedModel, Privacy, batches
from silo.worker.training.pace import Pace
from silo.worker.training.perexample import clipped_sum_of, is_ghost
from silo.worker.training.randomness import poisson_steps

KEY = bytes(range(32))


def view_of(rows: int, features: int, seed: int = 1, validation: int = 12) -> PolicyView:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(rows + validation, features)).astype(np.float32)
    y = (x[:, :1] + 0.5 * generator.normal(size=(len(x), 1)) > 0).astype(np.float32)
    return PolicyView(x[:rows], y[:rows], x[rows:], y[rows:], 0, "")


def built(*layers: Any, loss: Any = "binary_crossentropy", optimizer: Any = None) -> Callable[[int], Any]:
    """A builder of a chain of layers, made anew with each call from their configurations."""

    def build(features: int) -> Any:
        chain = [type(layer).from_config(layer.get_config()) for layer in layers]
        model = keras.Sequential([keras.Input((features,)), *chain, keras.layers.Dense(1, activation="sigmoid")])
        model.compile(optimizer=optimizer() if optimizer else keras.optimizers.SGD(0.1), loss=loss)
        return model

    return build


L = keras.layers
CHAINS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "dense": (6, (L.Dense(9, activation="tanh"), L.Dense(5, activation="relu", use_bias=False))),
    "normalised": (6, (L.Normalization(mean=[0.5] * 6, variance=[2.0] * 6), L.Dense(7), L.LeakyReLU())),
    "image": (
        64,
        (
            L.Reshape((8, 8, 1)),
            L.Conv2D(3, 3, activation="relu", padding="same", strides=2),
            L.Conv2D(8, 2, activation="tanh", use_bias=False),
            L.MaxPooling2D(),
            L.Flatten(),
        ),
    ),
    "dilated": (64, (L.Reshape((8, 8, 1)), L.Conv2D(2, 3, dilation_rate=2, activation="elu"), L.Flatten())),
    "words": (5, (L.Embedding(11, 4), L.GlobalAveragePooling1D(), L.Dense(3, activation="tanh"))),
}
OTHERS: dict[str, tuple[int, tuple[Any, ...]]] = {
    "layer norm": (6, (L.Dense(5), L.LayerNormalization(), L.Activation("gelu"))),
    "recurrent": (6, (L.Reshape((3, 2)), L.SimpleRNN(4))),
    "three axes": (6, (L.Reshape((3, 2)), L.Dense(4, activation="tanh"), L.Flatten())),
    "grouped": (64, (L.Reshape((4, 4, 4)), L.Conv2D(4, 2, groups=2), L.Flatten())),
}


def rows_for(name: str, count: int, features: int) -> tuple[Any, Any]:
    view = view_of(count, features, 3)
    x = view.train_x * 2
    if name == "words":
        x = np.random.default_rng(5).integers(0, 11, x.shape).astype(np.float32)
        x[0] = 7.0  # the same token in every place
    return x, view.train_y


def naive(model: Any, loss: Any, x: Any, y: Any) -> list[list[Any]]:
    """The gradient of one example after the other, by trainable weights, in float64."""
    found = []
    for row, label in zip(x, y, strict=True):
        with tf.GradientTape() as tape:
            value = tf.reduce_sum(loss(tf.constant(label[None]), model(row[None], training=True)))
        gradients = tape.gradient(value, [variable.value for variable in model.trainable_variables])
        found.append([tf.convert_to_tensor(gradient).numpy().astype(np.float64) for gradient in gradients])
    return found


def norm_of(gradient: list[Any]) -> float:
    return float(np.sqrt(sum((part**2).sum() for part in gradient)))


def clipped(gradients: list[list[Any]], weights: Any, bound: float) -> list[Any]:
    """Their weighted sum, each clipped."""
    shares = [weight * min(1.0, bound / norm_of(gradient)) for weight, gradient in zip(weights, gradients, strict=True)]
    return [
        sum(share * part for share, part in zip(shares, parts, strict=True)) for parts in zip(*gradients, strict=True)
    ]


def agreement(name: str, features: int, layers: tuple[Any, ...], *, ghost: bool) -> None:
    keras.utils.set_random_seed(4)
    model = built(*layers)(features)
    loss = keras.losses.binary_crossentropy
    x, y = rows_for(name, 17, features)
    weights = np.ones(17, np.float32)
    weights[[3, 16]] = 0
    assert is_ghost(model, loss) is ghost
    gradients = naive(model, loss, x, y)
    bound = float(np.median([norm_of(gradient) for gradient in gradients]))  # half are clipped, half are not
    found = tf.function(clipped_sum_of(model, loss))(x, y, weights, bound)
    for one, two in zip(found, clipped(gradients, weights, bound), strict=True):
        np.testing.assert_allclose(one.numpy(), two, rtol=1e-5, atol=1e-5, err_msg=name)


# -- the clipped sum


def check_a_chain_agrees_with_one_example_after_the_other() -> None:
    for name, (features, layers) in CHAINS.items():
        agreement(name, features, layers, ghost=True)


def check_any_other_model_agrees_with_one_example_after_the_other() -> None:
    for name, (features, layers) in OTHERS.items():
        agreement(name, features, layers, ghost=False)


def check_an_apps_own_loss_and_activation_are_differentiated_one_example_at_a_time() -> None:
    def own(y: Any, p: Any) -> Any:
        return keras.losses.binary_crossentropy(y, p) - tf.reduce_mean(p)  # looks across the batch

    model = built(L.Dense(3))(4)
    assert not is_ghost(model, own)
    wrapper = type(keras.losses.BinaryCrossentropy()).__mro__[1]
    assert is_ghost(model, keras.losses.BinaryCrossentropy().call)
    assert not is_ghost(model, wrapper(own).call)
    looking_across = L.Dense(3, activation=lambda x: x - tf.reduce_mean(x))
    assert not is_ghost(
        keras.Sequential([keras.Input((4,)), looking_across, L.Dense(1)]), keras.losses.mean_squared_error
    )
    view = view_of(9, 4)
    weights = np.ones(9, np.float32)
    found = clipped_sum_of(model, own)(view.train_x, view.train_y, weights, 0.3)
    expected = clipped(naive(model, own, view.train_x, view.train_y), weights, 0.3)
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.numpy(), two, atol=1e-5)


def check_no_example_counts_for_more_than_the_bound() -> None:
    model = built(L.Dense(8, activation="relu"))(5)
    sums = clipped_sum_of(model, keras.losses.binary_crossentropy)
    view = view_of(1, 5)
    for scale in (1.0, 1e3, 1e9):
        found = sums(view.train_x * np.float32(scale), 1 - view.train_y, np.ones(1, np.float32), 0.25)
        assert np.sqrt(sum((part.numpy().astype(float) ** 2).sum() for part in found)) <= 0.25 * (1 + 1e-5)


def check_no_class_weight_lets_an_example_count_for_more_than_the_bound() -> None:
    """Weights come before clipping, where the gradients are formed and where they are not."""
    loss = WeightedLoss(keras.losses.binary_crossentropy)
    loss.set((1e-3, 1e6))
    view = view_of(2, 5)
    view.train_y[:, 0] = [0, 1]
    for layer, ghost in ((L.Dense(8, activation="relu"), True), (L.LayerNormalization(), False)):
        model = built(layer)(5)
        assert is_ghost(model, loss) is ghost
        sums = clipped_sum_of(model, loss)
        norms = []
        for row in (slice(0, 1), slice(1, 2)):
            found = sums(view.train_x[row], view.train_y[row], np.ones(1, np.float32), 0.25)
            norms.append(np.sqrt(sum((part.numpy().astype(float) ** 2).sum() for part in found)))
        assert norms[0] < 0.05
        np.testing.assert_allclose(norms[1], 0.25, rtol=1e-5)


def check_examples_are_clipped_in_float32_under_bfloat16() -> None:
    """Each example's gradient is bfloat16's; its norm, the bound and the sum are float32, so the bound holds."""

    def low(features: int) -> Any:
        chain = [L.Dense(8, activation="tanh"), L.Dense(1, activation="sigmoid", dtype="float32")]
        model = keras.Sequential([keras.Input((features,)), *chain])
        model.compile(optimizer=keras.optimizers.SGD(0.1), loss="binary_crossentropy")
        return model

    model = FederatedModel(low, 5, 1, 0.0, LocalWork(), private=True, precision="mixed_bfloat16")
    assert not is_ghost(model._model, keras.losses.binary_crossentropy)
    view, bound = view_of(12, 5), 0.25
    assert model._clipped_sum is not None
    sums = tf.function(model._clipped_sum)
    alone = []
    for row in range(12):
        weights = (np.arange(12) == row).astype(np.float32)
        alone.append([part.numpy() for part in sums(view.train_x * 9, view.train_y, weights, bound)])
        norm = np.sqrt(sum((part.astype(float) ** 2).sum() for part in alone[-1]))
        assert norm <= bound * (1 + 1e-6)
    together = sums(view.train_x * 9, view.train_y, np.ones(12, np.float32), bound)
    for index, part in enumerate(together):
        np.testing.assert_allclose(part.numpy(), sum(one[index] for one in alone), rtol=1e-5, atol=1e-6)
    found, _ = model.work_privately(model.get(), view, Privacy(0.5, 1.0, 0.25, 3), Pace())
    assert np.isfinite(found).all()


def check_models_that_mix_examples_are_refused() -> None:
    for layer, word in (
        (L.BatchNormalization(), "BatchNormalization layer, which mixes examples"),
        (L.Dense(3, activity_regularizer="l2"), "activity regulariser"),
    ):
        with pytest.raises(AppError, match=word):
            FederatedModel(built(layer), 4, 1, 0.0, LocalWork(), private=True)

    def nested(features: int) -> Any:
        inner = keras.Sequential([keras.Input((features,)), L.BatchNormalization()])
        model = keras.Sequential([keras.Input((features,)), inner, L.Dense(1)])
        model.compile(loss="mse")
        return model

    with pytest.raises(AppError, match="mixes examples"):
        FederatedModel(nested, 4, 1, 0.0, LocalWork(), private=True)


class Remembering(keras.layers.Layer):
    """Keeps the mean of what it saw, as an app could try."""

    def build(self, shape: Any) -> None:
        self.seen = self.add_weight(shape=(shape[-1],), trainable=False, name="seen")

    def call(self, inputs: Any) -> Any:
        self.seen.assign(tf.reduce_mean(inputs, axis=0))
        return inputs


def check_a_layer_that_keeps_what_it_saw_gives_no_update() -> None:
    def build(features: int) -> Any:
        model = keras.Sequential([keras.Input((features,)), Remembering(), L.Dense(1, activation="sigmoid")])
        model.compile(optimizer="sgd", loss="binary_crossentropy")
        return model

    model = FederatedModel(build, 4, 1, 0.0, LocalWork(), private=True)
    with pytest.raises(WorkError, match="weights that are not trained"):
        model.work_privately(model.get(), view_of(20, 4), Privacy(0.5, 1.0, 1.0, 2), Pace())


# -- a round


def logistic(features: int) -> Any:
    penalty = keras.regularizers.L2(0.05)
    model = keras.Sequential([keras.Input((features,)), L.Dense(1, activation="sigmoid", kernel_regularizer=penalty)])
    model.compile(optimizer=keras.optimizers.SGD(0.2), loss="binary_crossentropy")
    return model


def check_a_private_round_is_that_computed_by_hand() -> None:
    """Poisson batches and noise from the same keystream, the rest in NumPy.

    Weigh by class, clip, add, divide, pull, correct, step.
    """
    for weights in (None, ClassWeights(negative=0.5, positive=3.0)):
        _a_round_by_hand(weights)
    with large_models():
        _a_round_by_hand(None)
        _a_round_by_hand(ClassWeights(negative=0.5, positive=3.0))


def _a_round_by_hand(weights: ClassWeights | None) -> None:
    view, rows = view_of(40, 3), 40
    by_class = np.array([1.0, 1.0] if weights is None else [weights.negative, weights.positive])
    privacy, mu = Privacy(0.2, 1.3, 0.5, 6), 0.7
    model = FederatedModel(logistic, 3, 1, mu, LocalWork(), private=True, corrected=True, class_weights=weights)
    start, correction = np.array([[0.3, -0.2, 0.1, 0.05], [0.4, -0.9, 0.0, 0.6]], np.float32)
    stream = SecureStream(KEY)
    found, done = model.work_privately(start, view, privacy, Pace(), stream=stream, correction=correction)
    stream = SecureStream(KEY)
    batches = [step[step >= 0] for step in poisson_steps(stream, rows, 0.2, 6)]
    noise = np.hstack([stream.normal(6 * size).reshape(6, size) for size in (3, 1)]).astype(np.float64)
    w = start.astype(np.float64)
    for step in range(6):
        taken = batches[step]
        x = np.hstack([view.train_x[taken], np.ones((len(taken), 1))])
        labels = view.train_y[taken, 0]
        gradients = (by_class[labels.astype(int)] * (1 / (1 + np.exp(-x @ w)) - labels))[:, None] * x
        norms = np.linalg.norm(gradients, axis=1)
        total = (gradients * np.minimum(1, 0.5 / norms)[:, None]).sum(axis=0)
        gradient = (total + 1.3 * 0.5 * noise[step]) / (0.2 * rows)
        gradient += mu * (w - start) + 2 * 0.05 * w * np.array([1, 1, 1, 0]) + correction
        w = w - 0.2 * gradient
    assert done == 6
    np.testing.assert_allclose(found, w, rtol=1e-5, atol=1e-5)


@contextmanager
def large_models() -> Iterator[None]:
    """Models are trained as large ones are: each step with the rows it drew alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("silo.worker.training.model._LARGE", 0)
        yield


def check_a_step_that_takes_no_row_adds_noise_alone() -> None:
    _no_row()
    with large_models():
        _no_row()


def _no_row() -> None:
    view = view_of(5, 3)
    model = FederatedModel(built(L.Dense(4)), 3, 1, 0.0, LocalWork(), private=True)
    start = model.get()
    found, _ = model.work_privately(start, view, Privacy(1e-9, 1.0, 1e-9, 1), Pace(), stream=SecureStream(KEY))
    stream = SecureStream(KEY)
    poisson_steps(stream, 5, 1e-9, 1)
    noise = np.concatenate([stream.normal(math.prod(shape)) for _, shape in model.layers])
    np.testing.assert_allclose(found, start - 0.1 * noise * (1e-9 / 5e-9), rtol=1e-5, atol=1e-6)


def check_two_private_rounds_differ_as_their_noise_is_secret() -> None:
    view = view_of(30, 3)
    model = FederatedModel(logistic, 3, 1, 0.0, LocalWork(), private=True)
    one, two = (model.work_privately(model.get() * 0, view, Privacy(0.3, 1.0, 1.0, 3), Pace())[0] for _ in range(2))
    assert not np.array_equal(one, two)


def check_a_row_that_is_not_finite_spoils_nothing() -> None:
    view = view_of(30, 3)
    view.train_x[4] = [np.inf, np.nan, 1]
    model = FederatedModel(logistic, 3, 1, 0.0, LocalWork(), private=True)
    found, _ = model.work_privately(model.get(), view, Privacy(1.0, 1.0, 1.0, 3), Pace())
    assert np.isfinite(found).all()


def check_a_private_graph_does_not_retrace_from_round_to_round() -> None:
    view = view_of(200, 3)
    model = FederatedModel(logistic, 3, 1, 0.0, LocalWork(), private=True)
    for steps in (3, 5, 9, 4, 7, 6):
        model.work_privately(model.get(), view, Privacy(0.1, 1.0, 1.0, steps), Pace())
    for graph in model._private_epochs.values():
        assert graph.experimental_get_tracing_count() <= 2
    assert len(model._private_epochs) <= 3, "a width occurs again and again"


# -- randomness


def check_the_noise_is_standard_normal() -> None:
    values = SecureStream(KEY).normal(2_000_001).astype(np.float64)
    assert len(values) == 2_000_001
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((values**power).mean() - moment) < 5 * np.sqrt(spread / len(values)), power
    for bound, tail in ((1, 0.317311), (2, 0.045500), (3, 0.002700), (4, 6.334e-5)):
        found = (np.abs(values) > bound).mean()
        assert abs(found - tail) < 5 * np.sqrt(tail / len(values)), bound
    halves = values[:2_000_000].reshape(2, -1)
    assert abs(np.corrcoef(halves)[0, 1]) < 5e-3, "the two of a pair do not go together"


def check_two_streams_have_nothing_in_common() -> None:
    one, two = SecureStream(), SecureStream()
    assert not np.array_equal(one.words(16), two.words(16))
    assert not np.array_equal(one.words(16), one.words(16)), "a stream does not begin again"


def check_poisson_sampling_takes_each_row_with_its_chance() -> None:
    rows, rate, steps = 50, 0.13, 4000
    order = poisson_steps(SecureStream(KEY), rows, rate, steps)
    taken = np.zeros((steps, rows), bool)
    for step, line in enumerate(order):
        chosen = line[line >= 0]
        assert len(set(chosen.tolist())) == len(chosen), "a row is in a step once"
        taken[step, chosen] = True
    spread = np.sqrt(rate * (1 - rate) / steps)
    assert np.abs(taken.mean(axis=0) - rate).max() < 4.5 * spread
    sizes = taken.sum(axis=1)
    assert abs(sizes.var() / (rows * rate * (1 - rate)) - 1) < 0.15, "as the binomial law spreads"
    together = (taken[:, 0] & taken[:, 1]).mean()
    assert abs(together - rate**2) < 5 * rate / np.sqrt(steps), "rows are taken each on its own"
    assert poisson_steps(SecureStream(KEY), 3, 1.0, 2).tolist() == [[0, 1, 2], [0, 1, 2]]


# -- partial work


class Clock:
    """Time that passes by a fixed amount with each look at it."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


def check_partial_work_is_the_first_part_of_the_whole() -> None:
    view = view_of(60, 4)
    work = LocalWork(epochs=8, batch_size=6)
    order = batches(60, work, 3, 1)
    model = FederatedModel(built(L.Dense(5)), 4, 3, 0.1, work)
    start = model.get()
    part, done = model.work(start, view, order, Pace(3.0, Clock(0.5)))
    assert 1 <= done < len(order)
    np.testing.assert_array_equal(part, model.train(start, view, order[:done]))
    whole, all_steps = model.work(start, view, order, Pace(1e9))
    assert all_steps == len(order)
    np.testing.assert_array_equal(whole, model.train(start, view, order))


def check_no_cut_between_private_steps_changes_them() -> None:
    """Noise comes in blocks of as many steps, wherever the time has the work cut."""
    view = view_of(30, 3)
    model = FederatedModel(logistic, 3, 1, 0.0, LocalWork(), private=True)
    start, privacy = model.get(), Privacy(0.3, 1.0, 1.0, 11)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("silo.worker.training.model._NOISE_VALUES", 4 * 4)  # steps of four values
        whole, all_steps = model.work_privately(start, view, privacy, Pace(), stream=SecureStream(KEY))
        cut, done = model.work_privately(start, view, privacy, Pace(1e9), stream=SecureStream(KEY))
        part, some = model.work_privately(start, view, privacy, Pace(3.0, Clock(0.4)), stream=SecureStream(KEY))
    assert all_steps == done == 11
    assert 1 <= some < 11
    np.testing.assert_array_equal(whole, cut)
    assert not np.array_equal(whole, part)


def check_a_silo_without_time_does_one_step() -> None:
    view = view_of(60, 4)
    work = LocalWork(steps=50, batch_size=6)
    order = batches(60, work, 3, 1)
    assert len(order) == 50
    model = FederatedModel(built(L.Dense(5)), 4, 3, 0.0, work)
    assert model.work(model.get(), view, order, Pace(1e-9))[1] == 1


def check_mu_may_change_from_round_to_round() -> None:
    view = view_of(60, 4)
    work = LocalWork(epochs=3, batch_size=6)
    order = batches(60, work, 3, 1)
    model = FederatedModel(built(L.Dense(5)), 4, 3, 0.0, work)
    start = model.get()
    for mu in (0.0, 0.5, 2.0, 0.0):
        fixed = FederatedModel(built(L.Dense(5)), 4, 3, mu, work)
        np.testing.assert_array_equal(model.train(start, view, order, mu), fixed.train(start, view, order))


def check_a_simulation_clips_and_noises_as_the_gates_do() -> None:
    """Two silos, updates clipped to next to nothing: what moves the mean is noise of deviation 900 * 1e-6 / sqrt(2)."""
    from simulation.engine import Simulation

    privacy = {"mode": "silo_dp", "clip_norm": 1e-6, "delta": 1e-5, "noise_multiplier": 900}
    content = {
        "apiVersion": "concordat/v1",
        "kind": "Run",
        "metadata": {"name": "noised"},
        "purpose": "HMB",
        "dataset": "d",
        "features": ["a", "b", "c", "d"],
        "label": {"column": "y"},
        "app": {"model": "model:build_model"},
        "strategy": {"rounds": 1, "local": {"steps": 1}},
        "privacy": privacy,
        "metrics": ["num_examples"],
    }
    views = {"one": view_of(60, 4), "two": view_of(90, 4)}
    simulation = Simulation(Run.model_validate_json(json.dumps(content)), built(L.Dense(400)), views)
    (closed,) = simulation.rounds()
    moved = (closed.weights - simulation.initial).astype(np.float64)
    wanted = 900e-6 / np.sqrt(2)
    # 2401 values: four deviations of the sample's own deviation.
    assert abs(moved.std() - wanted) < 4 * wanted / np.sqrt(2 * moved.size), moved.std() / wanted
    (again,) = simulation.rounds()
    assert not np.array_equal(again.weights, closed.weights)


def check_a_gpu_is_started_without_the_data_source_and_with_sockets() -> None:
    """CUDA's threads keep the rights of the moment they begin in, and CUDA may open a socket of its own."""
    import tempfile
    from pathlib import Path

    from silo.channel import Frame
    from silo.config import WorkerConfig
    from silo.worker import trainer
    from silo.worker.training import devices

    order: list[Any] = []

    def step(name: str) -> Any:
        return lambda *given: order.append((name, *given) if name == "device" else name) or "done"

    def sockets(*, own_ipc: bool = False) -> str:
        order.append("no sockets")
        raise WorkError("far enough")

    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        table = Path(place) / "table.csv"
        table.write_text("a,y\n" + "1,0\n2,1\n" * 10)
        datasets = {"d": {"format": "csv", "path": str(table)}}
        content = {"apiVersion": "concordat/v1", "kind": "Worker", "silo": "s", "socket": "s", "scratch": place}
        config = WorkerConfig.model_validate_json(json.dumps({**content, "datasets": datasets, "device": "gpu"}))
        for name in ("shut", "confine_files", "drop_capabilities"):
            patch.setattr(trainer, name, step(name))
        patch.setattr(devices, "use_device", step("device"))
        patch.setattr(trainer, "_complain", step("said"))
        patch.setattr(trainer, "forbid_sockets", sockets)
        run = """apiVersion: concordat/v1
kind: Run
metadata: {name: r}
purpose: HMB
dataset: d
features: [a]
label: {column: y}
app: {model: "m:b"}
strategy: {rounds: 1}
"""
        answer = trainer.Trainer(config, Path(place)).answer(Frame("prepare", {"run": run}))
    assert answer.fields == {"message": "far enough"}
    assert order == ["shut", "confine_files", "drop_capabilities", ("device", "gpu"), "said", "no sockets"]


def check_a_silos_own_model_is_trained_beside_the_federated_one() -> None:
    from pathlib import Path

    from silo.channel import Frame, payload_of
    from silo.worker.trainer import Trainer

    view, work = view_of(60, 4, validation=40), LocalWork(epochs=3, batch_size=6)
    trainer = Trainer(None, Path())  # type: ignore[arg-type]
    content = {
        "apiVersion": "concordat/v1",
        "kind": "Run",
        "metadata": {"name": "own"},
        "purpose": "HMB",
        "dataset": "d",
        "features": ["a", "b", "c", "d"],
        "label": {"column": "y"},
        "app": {"model": "model:build_model"},
        "strategy": {"mu": 0.5, "rounds": 1, "local": {"epochs": 3, "batch_size": 6}},
        "metrics": ["auc", "calibration_slope", "own_auc", "own_loss", "own_pr_auc", "own_calibration_error"],
        "class_weights": {"negative": 1, "positive": 3},
        "seed": 3,
    }
    run = Run.model_validate_json(json.dumps(content))
    model = FederatedModel.of(run, built(L.Dense(5)))
    trainer._run, trainer._view, trainer._model = run, view, model  # type: ignore[assignment]
    start = model.get_initial()
    far = (start + 5).astype(np.float32)
    answer = trainer.answer(Frame("train", {"round": 1}, payload_of(far)))
    assert answer.op == "trained", answer.fields
    federated = answer.weights()
    assert answer.fields["metrics"]["own_loss"] == model.evaluate(start, view, ("loss",))["loss"]
    own = model.train(start, view, batches(60, work, 3, 1), 0.0)
    answer = trainer.answer(Frame("evaluate", {}, payload_of(far)))
    assert answer.fields["metrics"]["own_loss"] == model.evaluate(own, view, ("loss",))["loss"]
    assert tuple(answer.fields["metrics"]) == run.metrics
    weighed = FederatedModel(built(L.Dense(5)), 4, 3, 0.5, work, class_weights=run.class_weights)
    np.testing.assert_array_equal(own, weighed.train(start, view, batches(60, work, 3, 1), 0.0))
    np.testing.assert_array_equal(federated, model.train(far, view, batches(60, work, 3, 1), 0.5))

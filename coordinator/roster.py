"""Which of the admitted silos a round can ask: pure, over who missed a round and who has been seen since."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coordinator.checkpoints import LayerShape
from federation.errors import RunFailedError


@dataclass(frozen=True)
class Admitted:
    """A silo that admitted the run, with what it announced."""

    node_id: int
    examples: int
    shapes: tuple[LayerShape, ...]
    initial_digest: str
    learning_rate: float | None = None
    """The constant rate of plain SGD, where the run's strategy goes by it."""

    @property
    def model(self) -> tuple[tuple[LayerShape, ...], float | None]:
        """What all silos have to announce alike."""
        return self.shapes, self.learning_rate


class Roster:
    """The admitted silos of a run. One that misses a deadline is not asked again until it is seen waiting for work."""

    def __init__(self, admitted: Mapping[str, Admitted]) -> None:
        self._admitted = dict(sorted(admitted.items()))
        self._missed: dict[str, float] = {}
        self._forgot: set[str] = set()
        self._left: set[str] = set()

    @property
    def planned_examples(self) -> int:
        """The examples that all admitted silos together announced."""
        return sum(part.examples for part in self._admitted.values())

    @property
    def examples(self) -> dict[str, int]:
        """The examples that each admitted silo announced."""
        return {name: part.examples for name, part in self._admitted.items()}

    def counted(self, *, alike: bool) -> dict[str, int]:
        """What each silo's update weighs in the mean: its examples, or 1 where silos count alike.

        With silo-level privacy they do: what a silo's rows do to the mean must not go beyond what its clip norm says.
        """
        return dict.fromkeys(self._admitted, 1) if alike else self.examples

    def strangers(self, quorum: int) -> dict[str, str]:
        """Take out the silos that announce another model than the most do, and say why; none where those are too few.

        Without that one silo's announcement would end the run of all.
        """
        models = Counter(part.model for part in self._admitted.values())
        (usual, count), *others = models.most_common()
        if count < quorum or any(number == count for _, number in others):
            return {}
        found = {name: part for name, part in self._admitted.items() if part.model != usual}
        for name in found:
            self.left(name)
        what = "another model or learning rate than the other silos"
        return {name: f"{name} announces {what}: check its version of TensorFlow" for name in found}

    def starters(self) -> list[str]:
        """The silos in the order in which the initial model is asked for: first those that announce the usual one."""
        taking_part = self._taking_part()
        usual = Counter(part.initial_digest for part in taking_part.values())
        return sorted(taking_part, key=lambda name: (-usual[taking_part[name].initial_digest], name))

    def initial_digest(self, name: str) -> str:
        """The digest of the initial model that a silo announced."""
        return self._admitted[name].initial_digest

    def _taking_part(self) -> dict[str, Admitted]:
        return {name: part for name, part in self._admitted.items() if name not in self._left}

    def shapes(self) -> tuple[LayerShape, ...]:
        """The model's shapes; raises RunFailedError where the silos do not report the same."""
        reported = [part.shapes for part in self._taking_part().values()]
        if any(shapes != reported[0] for shapes in reported):
            raise RunFailedError(
                "the silos report different model shapes", advice="check that all run the same TensorFlow"
            )
        return reported[0]

    def learning_rate(self) -> float | None:
        """The one learning rate that all silos announced; None where none did. Raises RunFailedError."""
        rates = {part.learning_rate for part in self._taking_part().values()}
        if len(rates) > 1:
            told = ", ".join(f"{name} {part.learning_rate}" for name, part in self._admitted.items())
            raise RunFailedError(
                f"got different learning rates ({told}), expected one", advice="set a constant rate in the app's model"
            )
        return rates.pop()

    def available(self, last_seen: Callable[[int], float]) -> dict[str, int]:
        """Names and node ids of the silos that can be asked now; `last_seen` is when a node last waited for work."""
        return {
            name: part.node_id
            for name, part in self._admitted.items()
            if name not in self._forgot | self._left
            and (name not in self._missed or last_seen(part.node_id) > self._missed[name])
        }

    def answered(self, name: str) -> None:
        """A silo took part in a round."""
        self._missed.pop(name, None)

    def missed(self, name: str, now: float) -> None:
        """A silo did not answer before a deadline."""
        self._missed[name] = now

    def forgot(self, name: str) -> None:
        """A silo does not know the run any more: its gate was started anew."""
        self._forgot.add(name)

    def forgotten(self) -> dict[str, int]:
        """The silos that have to be asked for admission again."""
        return {name: self._admitted[name].node_id for name in sorted(self._forgot)}

    def returned(self, name: str, again: Admitted) -> bool:
        """A silo admitted the run again; returns whether it takes part: it must announce the same as before."""
        before = self._admitted[name]
        self._forgot.discard(name)
        same = (before.examples, before.shapes, before.learning_rate)
        if (again.examples, again.shapes, again.learning_rate) != same:
            self._left.add(name)
            return False
        self._missed.pop(name, None)
        return True

    def left(self, name: str) -> None:
        """A silo does not admit the run any more."""
        self._forgot.discard(name)
        self._left.add(name)

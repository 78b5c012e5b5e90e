"""A coordinator of the kit's own code that gives one silo another model, and publishes that, too.

In the round that the run's name begins with, the last of the silos that are asked gets the model with one added to each
weight. Its log says so for all to see, in a second entry for that round, of which the silo gets the proof.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from coordinator.dialogue import Dialogue
from coordinator.executor import Executor, GlobalModel
from coordinator.receipts import Receipts
from federation.cli import main
from federation.errors import WireError
from federation.wire import Envelope, Kind

honest_init, honest_ask, honest_take = Executor.__init__, Dialogue.ask, Receipts.take


def init(self: Executor, *arguments: Any, **named: Any) -> None:
    honest_init(self, *arguments, **named)
    self._dialogue.executor = self  # type: ignore[attr-defined]


def ask(self: Any, kind: str, question: Any, nodes: Any, *rest: Any, **named: Any) -> None:
    executor, number = self.executor, question.config.get("round") if isinstance(question, Envelope) else None
    if kind == Kind.TRAIN and executor._run.metadata.name.startswith(f"split-{number}-"):
        victim, crafted = max(nodes), GlobalModel.of(question.weights + 1)
        proof = executor._publish("round.begin", number, crafted, [victim])
        lie = Envelope({**question.config, "digest": crafted.digest, **proof}, weights=crafted.weights)
        question = {name: lie if name == victim else question for name in nodes}
    honest_ask(self, kind, question, nodes, *rest, **named)


def take(self: Receipts, silo: str, answer: Envelope) -> None:
    """Fold the update in, whatever model its silo signed for."""
    with contextlib.suppress(WireError):
        honest_take(self, silo, answer)


if __name__ == "__main__":
    Executor.__init__, Dialogue.ask, Receipts.take = init, ask, take  # type: ignore[method-assign, assignment]
    sys.exit(main())

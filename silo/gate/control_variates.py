"""A silo's control variates under SCAFFOLD, kept by the gate: made from what was released, so they tell no more.

That of a round is on disk before its reply is. Whether it counts is said by the next message, which names for each
silo the last round its update was folded in. So the silo goes on from the control variate that the coordinator counts
in the mean, however gate, worker or coordinator ended in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from federation.control_variates import FOLDED, LEARNING_RATE, control_change, folded_round, joined, parted
from federation.errors import WireError
from federation.wire import Envelope, Weights
from silo.channel import payload_of
from silo.gate.journal import Journal
from silo.gate.parts import Parts
from silo.gate.replies import KEPT, RepliesError, floats_of, read_kept, write_kept
from silo.gate.session import Prepared, Session
from silo.gate.updates import is_finite
from silo.gate.worker_link import WorkerError


@dataclass(frozen=True)
class Sent:
    """What a message brings: the model and, with a round of SCAFFOLD, c and the last round this silo was folded in."""

    model: Weights
    control: Weights | None = None
    folded: int | None = None

    @property
    def vectors(self) -> tuple[Weights, ...]:
        """What ingress is decided on."""
        return (self.model,) if self.control is None else (self.model, self.control)


def sent_of(
    session: Session, silo: str, number: int, envelope: Envelope, *, trains: bool
) -> tuple[Sent, dict[str, str]]:
    """Read a message with a model, and what it says that has to be published with it; raises WireError."""
    assert envelope.weights is not None  # noqa: S101  `_ingress` looked
    if session.run.strategy.name != "scaffold" or not trains:
        return Sent(envelope.weights), {}
    text = envelope.text(FOLDED)
    folded = folded_round(text, silo)
    if folded >= number:
        raise WireError(f"got round {number} with an update of round {folded} folded in, expected an earlier one")
    values = session.prepared.values if session.prepared else 0
    return Sent(*parted(envelope.weights, values), folded), {FOLDED: text}


class ControlledRounds:
    """The rounds of one handler's runs with SCAFFOLD; other runs pass through."""

    def __init__(self, parts: Parts, journal: Journal) -> None:
        self._parts, self._journal = parts, journal

    def require(self, session: Session, prepared: Prepared) -> None:
        """Refuse a run whose control variates cannot be kept; raises WorkerError where the rate is not told."""
        if session.run.strategy.name != "scaffold":
            return
        if self._parts.replies is None:
            raise self._journal.refuse(
                "control.state", "this gate keeps no replies, beside which they lie", session.run_id
            )
        if prepared.learning_rate is None:
            raise WorkerError(f"the worker does not tell the model's {LEARNING_RATE}, which SCAFFOLD goes by")

    def payload(self, session: Session, sent: Sent) -> memoryview:
        """What the worker is handed: the model and, with SCAFFOLD, c - c_i behind it; raises Refusal."""
        if sent.control is None:
            return payload_of(sent.model)
        own, _ = self._own(session, sent)
        return payload_of(joined(sent.model, sent.control - own))

    def keep(self, session: Session, number: int, sent: Sent, released: Weights, steps: int) -> None:
        """Keep the control variate that follows from an update that may leave, as it leaves; raises RepliesError.

        Beside the last few rounds' the one counted now stays, and the one before it, to which a coordinator whose
        newest checkpoint is damaged goes back.
        """
        if sent.control is None:
            return
        assert session.prepared is not None and session.prepared.learning_rate is not None  # noqa: S101, PT018  `require`
        own, before = self._own(session, sent)
        own = own + control_change(sent.model, sent.control, released, steps, session.prepared.learning_rate)
        if not is_finite(own):
            raise RepliesError("the control variate that follows from the update is not finite")
        path = self._path(number)
        try:
            write_kept(path, {**_run(session), "before": sent.folded}, {"control": own})
            stay = {*range(number - KEPT + 1, number + 1), sent.folded, before}
            for other in path.parent.glob("control-*.f32"):
                if int(other.stem.removeprefix("control-")) not in stay:
                    other.unlink(missing_ok=True)
        except OSError as error:
            raise RepliesError(f"{path} cannot be written: {error.strerror}") from None

    def _own(self, session: Session, sent: Sent) -> tuple[Weights, int]:
        """The silo's control variate as the coordinator counts it, and the round of the one before; raises Refusal."""
        assert sent.control is not None and sent.folded is not None  # noqa: S101, PT018  a round of SCAFFOLD
        if sent.folded == 0:
            return np.zeros_like(sent.control), 0
        try:
            found = read_kept(self._path(sent.folded))
            own = None if found is None else floats_of(found[1]["control"])
            if found is not None and own is not None and own.shape == sent.control.shape:
                head = found[0]
                if {name: head[name] for name in _run(session)} == _run(session):
                    return own, int(head["before"])
        except (ValueError, KeyError, TypeError):
            pass
        reason = f"this gate does not have its control variate of round {sent.folded} any more"
        raise self._journal.refuse("control.state", reason, session.run_id)

    def _path(self, number: int) -> Path:
        assert self._parts.replies is not None  # noqa: S101  `require` looked
        return self._parts.replies.directory / f"control-{number:08d}.f32"


def _run(session: Session) -> dict[str, Any]:
    return {"run_digest": session.digest}

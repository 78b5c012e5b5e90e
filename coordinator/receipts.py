"""The receipts of one run as the coordinator relays them: what each silo signed of the models it took."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from audit.errors import VerificationError
from federation.errors import WireError
from federation.identity import Role
from federation.manifest import Federation
from federation.receipts import (
    RECEIPT,
    RECEIPTS,
    SILENT,
    Shown,
    beginning,
    element,
    extended,
    keys_of,
    step_of,
    verify_receipt,
)
from federation.wire import Envelope


class Receipts:
    """Collects the silos' receipts, and says with each model what they signed of the steps before."""

    def __init__(self, run_id: str, run_digest: str, federation: Federation, chosen: Collection[str]) -> None:
        members = (member.name for member in federation.with_role(Role.SILO))
        self._silos = frozenset(name for name in members if name in chosen)
        self._keys = keys_of(federation, self._silos)
        self._histories = [beginning(run_id, run_digest)]
        self._links: list[str] = []
        self._before: dict[str, str] = {}
        self._last: dict[str, str] = {}
        self._at: dict[str, int] = {}
        """From where each silo that was asked needs to be shown the history: the last step that it signed."""

    def publish(
        self, action: str, number: int, model: str, said: Mapping[str, str], silos: Collection[str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Begin a step, or ask again in it: what the entry says of receipts, and what the message brings."""
        step, link = step_of(action, number), element(action, number, model, said)
        if step == len(self._links) + 1:
            self._histories.append(extended(self._histories[-1], link))
            self._links.append(link)
            self._before, self._last = self._last, {}
        for silo in silos:
            self._at.setdefault(silo, step - 1)
        base = min([step - 1, *(self._at[silo] for silo in silos)])
        shown = Shown(base, self._histories[base], tuple(self._links[base : step - 1]), self._before)
        silent = {} if step == 1 else {SILENT: shown.silent(self._silos)}
        return silent, {RECEIPTS: shown.dump()}

    def take(self, silo: str, answer: Envelope) -> None:
        """Take the receipt in a silo's answer; raises WireError where it is not of the model that was sent."""
        step, receipt = len(self._links), answer.text(RECEIPT)
        try:
            if silo not in self._keys:
                raise VerificationError("the manifest does not name the key of its log")
            verify_receipt(self._keys[silo], step, self._histories[step], receipt)
        except VerificationError as error:
            raise WireError(f"{silo} gives no receipt: {error}") from None
        self._last[silo], self._at[silo] = receipt, step

    @property
    def history(self) -> str:
        """The history before the last step that was begun."""
        return self._histories[-2]

    @property
    def last(self) -> dict[str, str]:
        """The receipts of the last step that was begun, by silo."""
        return dict(sorted(self._last.items()))

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of a closed round, as JSON."""
        return {"links": list(self._links), "receipts": self.last, "at": dict(self._at)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept; raises KeyError, TypeError or ValueError for what `state` did not make."""
        self._links = [str(link) for link in state["links"]]
        self._histories = self._histories[:1]
        for link in self._links:
            self._histories.append(extended(self._histories[-1], link))
        self._last = {str(silo): str(receipt) for silo, receipt in state["receipts"].items()}
        self._at = {str(silo): int(step) for silo, step in state["at"].items()}

"""Receipts: what silos sign of the models they took, so that each sees at its gate that all took the same.

The models of a run form a hash chain, its history; a step is a training round or, after the last, the evaluation. A
gate that takes a model signs the history up to it with the key of its log, and does so for one history a step. The
next message brings it what the others signed: a coordinator can relay receipts and withhold them, but not make them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from audit.errors import VerificationError
from audit.note import VerifierKey, decode_base64, encode_base64
from federation.identity import Role
from federation.limits import LIMITS
from federation.manifest import Federation
from federation.member_logs import log_key

RECEIPTS = "receipts"
"""The setting in which a message with a model brings what silos signed of the steps before."""
RECEIPT = "receipt"
"""The setting in which a silo's answer brings what it signed itself."""
SILENT = "silent"
"""What the published entry calls the silos of the run of which the message brings no receipt."""

EVALUATION = "evaluation.begin"
"""The action by which the coordinator publishes the model of the evaluation."""

_DIGEST = re.compile("sha256:[0-9a-f]{64}")
_SIGNATURE_CHARACTERS = 88


def step_of(action: str, number: int) -> int:
    """The step of a published model: a round's number, or for the evaluation the one after the last round."""
    return number + (action == EVALUATION)


def beginning(run_id: str, run_digest: str) -> str:
    """The history of a signed run before its first round, `sha256:` and hex digits like all of them."""
    return _digest(f"concordat/history/v1\n{run_digest}\n{run_id}\n".encode())


def element(action: str, number: int, model: str, said: Mapping[str, str]) -> str:
    """One step's link: the digest of which model was published, and of what every silo has to be told beside it."""
    return _digest(rfc8785.dumps({"action": action, "round": number, "model": model, "said": dict(said)}))


def extended(history: str, link: str) -> str:
    """The history with one more step."""
    return _digest(f"{history}\n{link}\n".encode())


def sign_receipt(key: Ed25519PrivateKey, step: int, history: str) -> str:
    """The receipt of whoever holds a log's key: an Ed25519 signature in base64."""
    return encode_base64(key.sign(_text(step, history)))


def verify_receipt(key: VerifierKey, step: int, history: str, receipt: str) -> None:
    """Raise VerificationError where a receipt is not of this history at this step, by this log's key."""
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(decode_base64(receipt), _text(step, history))
    except InvalidSignature as error:
        raise VerificationError(f"{key.name} did not sign that it took these models up to step {step}") from error


def keys_of(federation: Federation, silos: Collection[str]) -> dict[str, VerifierKey]:
    """The log keys of these silos, by name; who has none signs no receipt."""
    members = (member for member in federation.with_role(Role.SILO) if member.name in silos)
    keys = {member.name: log_key(federation, member) for member in members}
    return {name: key for name, key in keys.items() if key is not None}


@dataclass(frozen=True)
class Shown:
    """What a message shows of the steps before: a step, the history up to it, the links since, the last one's receipts.

    The history begins far enough back for every silo that is asked to find the last step it took in it.
    """

    base: int
    history: str
    links: tuple[str, ...] = ()
    receipts: Mapping[str, str] = field(default_factory=dict)

    def dump(self) -> str:
        """As text."""
        fields = {"base": self.base, "history": self.history, "links": self.links, "receipts": dict(self.receipts)}
        return json.dumps(fields, separators=(",", ":"))

    @staticmethod
    def load(text: object) -> Shown:
        """Read it back without verifying anything; raises VerificationError."""
        if not isinstance(text, str) or len(text) > LIMITS.receipts:
            raise VerificationError(f"the message brings no receipts of at most {LIMITS.receipts} characters")
        try:
            fields = json.loads(text)
            shown = Shown(fields["base"], fields["history"], tuple(fields["links"]), dict(fields["receipts"]))
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise VerificationError("the receipts in a message cannot be read") from error
        digests = (shown.history, *shown.links)
        if type(shown.base) is not int or not all(isinstance(one, str) and _DIGEST.fullmatch(one) for one in digests):
            raise VerificationError("got receipts without a step and digests of its history")
        if not all(isinstance(one, str) and len(one) == _SIGNATURE_CHARACTERS for one in shown.receipts.values()):
            raise VerificationError("got a receipt that is no Ed25519 signature in base64")
        return shown

    def silent(self, silos: Iterable[str]) -> str:
        """The silos of a run without a receipt, by name, joined by commas."""
        return ",".join(sorted(set(silos) - set(self.receipts)))


@dataclass(frozen=True)
class Step:
    """One step of a run's history: its number, and the history up to it."""

    number: int
    history: str


def follow(shown: Shown, start: str, taken: Mapping[int, str], number: int, link: str) -> tuple[Step, Step]:
    """The step before a published model's, and the model's own; raises VerificationError.

    `taken` is what this silo signed before, by step. What is shown has to lead through the last of it, and to any of
    it that it meets: so a model that another silo was not given is found at the latest with the next message.
    """
    if shown.base < 0 or shown.base + len(shown.links) != number - 1:
        raise VerificationError(f"the history that is shown does not lead to step {number}")
    if shown.base == 0 and shown.history != start:
        raise VerificationError("the history that is shown is not of this run")
    last = max(taken, default=0)
    if last and shown.base > last:
        raise VerificationError(f"the history that is shown begins after step {last}, which this silo took")
    if last > number and number not in taken:
        raise VerificationError(f"this silo took a model of step {last} before, and none of step {number}")
    found = [shown.history]
    for one in (*shown.links, link):
        found.append(extended(found[-1], one))
    for step, history in enumerate(found, start=shown.base):
        if taken.get(step, history) != history:
            raise VerificationError(f"this silo took another model in step {step} than the one that is shown")
    return Step(number - 1, found[-2]), Step(number, found[-1])


def require_receipts(shown: Shown, before: Step, keys: Mapping[str, VerifierKey], quorum: int, own: str | None) -> None:
    """Raise VerificationError unless as many silos as a round needs signed the history up to the step before.

    `own` is this silo where it took that step itself: then it counts, whether or not its receipt is shown.
    """
    strangers = sorted(set(shown.receipts) - set(keys))
    if strangers:
        raise VerificationError(f"got a receipt of {strangers[0][:80]!r}, expected silos of the run")
    for silo, receipt in shown.receipts.items():
        verify_receipt(keys[silo], before.number, before.history, receipt)
    signed = set(shown.receipts) | ({own} if own is not None else set())
    if before.number and len(signed) < quorum:
        raise VerificationError(
            f"{len(signed)} silos signed that they took the model of step {before.number}, expected at least {quorum}"
        )


def _text(step: int, history: str) -> bytes:
    """What is signed. Its first line is no log's origin and its last no root, so it is no checkpoint either."""
    return f"concordat/receipt/v1\n{step}\n{history}\n".encode()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()

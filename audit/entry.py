"""Events and their form in the log: canonical JSON, one entry a line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal, TypeAlias

import rfc8785

from audit.errors import AuditEventError
from audit.limits import LIMITS
from audit.verify import SCHEMA, VerificationFailure, check_entry

JSON: TypeAlias = "str | int | float | bool | Sequence[JSON] | Mapping[str, JSON] | None"
Decision: TypeAlias = Literal["allow", "deny", "record"]

CLOCK_WENT_BACK = "clock_went_back_us"  # the one detail that the log itself adds
SALT_BYTES = 32
_ZERO_COMMITMENT = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Event:
    """Something that is to be recorded: who did what to which resource, and what was decided by which rule.

    All fields but `payload` become the leaf of an append-only tree: they can never be erased, and auditors,
    witnesses and other parties read them. They must hold no personal data: name a subject by a role, a
    certificate or a digest, never by a patient's or customer's name, number or address. What may have to be
    erased goes into `payload`, of which the leaf holds only a salted commitment; deleting its file erases it.

    `action` is a lower-case dotted name such as "round.egress", `policy` a digest "sha256:<64 hex digits>".
    `detail` is flat, and its values are texts, integers or booleans; `payload` is any JSON object, floats
    included. AuditEventError is raised where the event does not fit, before anything is written.
    """

    actor: str
    action: str
    resource: str
    decision: Decision = "record"
    rule: str | None = None
    reason: str | None = None
    policy: str | None = None
    run: str | None = None
    round: int | None = None
    detail: Mapping[str, str | int | bool] = field(default_factory=dict)
    payload: Mapping[str, JSON] | None = None
    canonical_payload: bytes | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if not isinstance(self.detail, Mapping) or not all(isinstance(name, str) for name in self.detail):
            raise AuditEventError(f"got the detail {repr(self.detail)[:80]}, expected a mapping from names")
        if CLOCK_WENT_BACK in self.detail:
            raise AuditEventError(f"got the detail {CLOCK_WENT_BACK!r}, which only the log itself adds: rename it")
        object.__setattr__(self, "detail", MappingProxyType(dict(self.detail)))
        if self.payload is not None:
            object.__setattr__(self, "canonical_payload", _canonical(self.payload))
        commitment = None if self.payload is None else _ZERO_COMMITMENT
        encode_entry(self, seq=0, time=datetime.now(UTC), commitment=commitment)


def encode_entry(
    event: Event, *, seq: int, time: datetime, commitment: str | None, clock_went_back_us: int = 0
) -> bytes:
    """The line of entry `seq`, with its line feed; AuditEventError where a verifier would refuse it."""
    detail = dict(event.detail)
    if clock_went_back_us:
        detail[CLOCK_WENT_BACK] = clock_went_back_us
    entry = {
        "schema": SCHEMA,
        "seq": seq,
        "time": format_time(time),
        "actor": event.actor,
        "action": event.action,
        "resource": event.resource,
        "decision": event.decision,
        "rule": event.rule,
        "reason": event.reason,
        "policy": event.policy,
        "run": event.run,
        "round": event.round,
        "detail": detail,
        "payload_commitment": commitment,
    }
    try:
        # Without floats and with ASCII names this is RFC 8785, in a fifth of the time.
        text = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        line = text.encode() + b"\n"
        check_entry(line, seq)
    except (TypeError, ValueError, RecursionError, VerificationFailure) as error:
        raise AuditEventError(f"the event {event.action!r} cannot be recorded: {error}") from error
    return line


def format_time(time: datetime) -> str:
    """RFC 3339 in UTC with microseconds; AuditEventError where the time has no zone."""
    if time.tzinfo is None:
        raise AuditEventError(f"got the time {time.isoformat()} without a zone, expected an aware one")
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_time(text: str) -> datetime:
    """The aware time in an entry that was checked."""
    return datetime.fromisoformat(text)


def commit(canonical_payload: bytes, salt: bytes) -> tuple[str, bytes]:
    """The commitment to a payload, and the content of its file in the side store."""
    commitment = "sha256:" + hashlib.sha256(salt + canonical_payload).hexdigest()
    return commitment, b'{"payload":%b,"salt":"%b"}\n' % (canonical_payload, salt.hex().encode())


def _canonical(payload: Mapping[str, JSON]) -> bytes:
    try:
        data = rfc8785.dumps(_plain(payload, LIMITS.payload_depth))
    except (rfc8785.CanonicalizationError, TypeError, ValueError) as error:  # among them names with lone surrogates
        raise AuditEventError(f"the payload is not JSON: {error}") from error
    if len(data) > LIMITS.payload:
        raise AuditEventError(f"got a payload of {len(data)} bytes, expected at most {LIMITS.payload}")
    return data


def _plain(value: JSON, depth: int) -> JSON:
    if depth == 0:
        raise AuditEventError(f"got a payload nested deeper than {LIMITS.payload_depth} levels: flatten it")
    if isinstance(value, Mapping):
        return {name: _plain(item, depth - 1) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item, depth - 1) for item in value]
    return value

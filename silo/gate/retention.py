"""Has the log's own retention follow the policy: what `concordat audit retention` and `erase` go by."""

from __future__ import annotations

from audit.erasure import set_bound
from audit.log import AuditLog
from policies.document import Document
from policies.model import SiloPolicy


def declare_retention(log: AuditLog, policy: Document[SiloPolicy], actor: str) -> None:
    """Put a policy's `audit.retention`, which is of all payloads, beside the log; recorded where it changed."""
    audit = policy.model.audit
    minimum, maximum = (None, None) if audit is None else (audit.retention.minimum, audit.retention.maximum)
    text = None if minimum is maximum is None else f"payload:*={minimum or 'P0D'}..{maximum or ''}"
    set_bound(log, text, actor, policy.digest)

"""Which policy was active last, beside the log: its entry in the log goes when the retention of entries ends."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from audit.errors import AuditError
from audit.limits import LIMITS
from audit.store import replace_file
from policies.bundle import ActiveVersion

ACTIVE = "policy.active"


def remember(folder: Path, version: ActiveVersion) -> None:
    """Keep it in a log's directory, durably; to be called once the activation is in the log."""
    path, data = folder / ACTIVE, json.dumps(asdict(version)).encode() + b"\n"
    if not path.exists() or path.read_bytes() != data:
        replace_file(path, data, mode=0o644)


def remembered(folder: Path) -> ActiveVersion | None:
    """What was kept last; None where nothing was. Raises AuditError."""
    path = folder / ACTIVE
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(LIMITS.retention))
        return ActiveVersion(str(found["name"]), int(found["version"]), str(found["digest"]))
    except FileNotFoundError:
        return None
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise AuditError(f"{path} is damaged: expected the name, version and digest of a policy") from error

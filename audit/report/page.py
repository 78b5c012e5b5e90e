"""The page: its program, its look and the evidence, in one file without any outside part."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from audit.errors import VerificationError
from audit.limits import LIMITS
from audit.report import evidence as embedded
from audit.report.evidence import Verified

SCRIPTS = ("sha2.js", "ed25519.js", "verify.js", "facts.js", "chart.js", "view.js", "boot.js")
_EVIDENCE = re.compile(rb'<script type="application/json" id="evidence">([^<]*)</script>')


def script(*names: str) -> str:
    """The page's program, or the named parts of it, as one text."""
    return '"use strict";\n' + "\n".join(_asset(name) for name in names or SCRIPTS)


def build(evidence: Mapping[str, Any]) -> bytes:
    """The page of this evidence, byte for byte the same each time.

    Its Content-Security-Policy allows this very script and style and nothing else: no network, no other code.
    """
    program, style = script(), _asset("style.css")
    parts = {
        "SCRIPT_HASH": _hash(program),
        "STYLE_HASH": _hash(style),
        "STYLE": style,
        "SCRIPT": program,
        "EVIDENCE": embedded.encode(evidence).decode("ascii"),
    }
    page = re.sub(r"@([A-Z_]+)@", lambda match: parts[match[1]], _asset("page.html"))
    return page.encode()


def check(page: bytes, keys: Sequence[str] = ()) -> list[Verified]:
    """Verify a report outside the browser; raises VerificationError.

    The evidence must verify, and the page must be the one that `build` makes of it, so that its program is ours.
    """
    if len(page) > LIMITS.report:
        raise VerificationError(f"got a report of {len(page)} bytes, expected at most {LIMITS.report}")
    found = _EVIDENCE.findall(page)
    if len(found) != 1:
        raise VerificationError("the page holds no evidence, or more than one: it is not a report of an audit")
    evidence = embedded.decode(found[0])
    logs = embedded.verify(evidence, keys)
    if build(evidence) != page:
        raise VerificationError(
            "the evidence verifies, but the page around it is not the one this version builds: its program was "
            "altered, or another version made it; do not rely on what it shows"
        )
    return logs


def _asset(name: str) -> str:
    return resources.files("audit.report").joinpath("assets", name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

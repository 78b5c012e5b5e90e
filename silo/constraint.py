"""What a policy asks of a view: the gate sends it with "prepare", the worker keeps it and reports that it did."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from silo.channel import ChannelError


@dataclass(frozen=True)
class Constraint:
    """The columns that may be read, those to be replaced by pseudonyms, and the columns that decide on rows."""

    allow: tuple[str, ...]
    pseudonymize: tuple[str, ...] = ()
    consent: str | None = None
    opt_out: str | None = None

    @property
    def changes_rows_or_values(self) -> bool:
        """Whether a view built without the constraint would be another one."""
        return bool(self.pseudonymize or self.consent or self.opt_out)

    @property
    def deciding(self) -> tuple[str, ...]:
        """The columns that decide on rows; they are read and never become part of a view."""
        return tuple(name for name in dict.fromkeys((self.consent, self.opt_out)) if name is not None)

    @property
    def digest(self) -> str:
        """SHA-256 of the constraint as sorted JSON; the worker's report names it."""
        text = json.dumps(self.fields(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def fields(self) -> dict[str, Any]:
        """The form in which it crosses the socket."""
        return {
            "allow": list(self.allow),
            "pseudonymize": list(self.pseudonymize),
            "consent": self.consent,
            "opt_out": self.opt_out,
        }


def parse_constraint(fields: Mapping[str, Any]) -> Constraint:
    """Rebuild a constraint from the form in which it crosses the socket; raises ChannelError."""
    lists = [fields.get(name) for name in ("allow", "pseudonymize")]
    columns = [fields.get(name) for name in ("consent", "opt_out")]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise ChannelError("got a constraint on the view whose columns are no lists of names")
    if not all(name is None or isinstance(name, str) for name in columns):
        raise ChannelError("got a constraint on the view whose deciding columns are no names")
    allow, pseudonymize = (tuple(names or ()) for names in lists)
    return Constraint(allow, pseudonymize, *columns)

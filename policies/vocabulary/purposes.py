"""Purposes: which codes exist, what they are called, which contains which.

In DUO a permission contains the narrower ones: NRES > GRU > HMB > DS:MONDO:<id>, and GRU > POA. A disease is
compared by its code alone; the hierarchy of diseases is not known here.
"""

import re
from collections.abc import Iterable
from typing import Literal

from policies.scalars import Misfit
from policies.vocabulary import data_use
from policies.wording import nearest, shown

Vocabulary = Literal["duo", "own"]

_DISEASE = re.compile(r"MONDO:[0-9]{7}")
_OWN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def _permission(code: str) -> str | None:
    """The DUO permission a purpose code belongs to: DS for `DS:MONDO:0005267`; None for an unknown code."""
    head, _, disease = code.partition(":")
    permission = data_use().permissions.get(head)
    if permission is None:
        return None
    fits = _DISEASE.fullmatch(disease) if permission.disease else not disease and head == code
    return head if fits else None


def is_known(code: str, vocabulary: Vocabulary) -> bool:
    """Whether a code can be a purpose at all."""
    return bool(_OWN.fullmatch(code)) if vocabulary == "own" else _permission(code) is not None


def within(code: str, allowed: str, vocabulary: Vocabulary) -> bool:
    """Whether a purpose equals an allowed one or, in DUO, is contained in it."""
    if not is_known(code, vocabulary):
        return False
    if code == allowed or vocabulary == "own":
        return code == allowed
    permissions = data_use().permissions
    head = _permission(code)
    outer = permissions[head].within if head else None
    while outer is not None:
        if outer == allowed:
            return True
        outer = permissions[outer].within
    return False


def purpose_name(code: str, vocabulary: Vocabulary) -> str:
    """A code with its label, `POA (population origins or ancestry research)`; others stand alone."""
    head = _permission(code) if vocabulary == "duo" else None
    return f"{code} ({data_use().permissions[head].label})" if head else shown(code)


def unknown_purposes(codes: Iterable[str], vocabulary: Vocabulary) -> list[Misfit]:
    """What is wrong with the codes of a policy's list, each at its index."""
    numbered = enumerate(codes)
    return [_explain(code, index, vocabulary) for index, code in numbered if not is_known(code, vocabulary)]


def _explain(code: str, index: int, vocabulary: Vocabulary) -> Misfit:
    if vocabulary == "own":
        return Misfit("a code of at most 64 letters, digits and . _ : -", (index,))
    duo = data_use()
    forms = ("DS:MONDO:<id>" if permission.disease else name for name, permission in duo.permissions.items())
    expected = f"a DUO permission ({', '.join(forms)})"
    if code in duo.modifiers:
        label = duo.modifiers[code]
        return Misfit(expected, (index,), advice=f"{code} ({label}) is a modifier, which a purpose cannot be")
    head = code.partition(":")[0]
    if head in duo.permissions and duo.permissions[head].disease:
        return Misfit(expected, (index,), advice="a disease is seven digits of MONDO, as in DS:MONDO:0005267")
    whole = [(name, permission.label) for name, permission in duo.permissions.items() if not permission.disease]
    known = {name: name for name, _ in whole} | {label: name for name, label in whole}
    close = nearest(code, known)
    return Misfit(expected, (index,), meant=known[close] if close else None)

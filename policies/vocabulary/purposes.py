"""Purposes: which codes exist, what they are called, which contains which.

In DUO a permission contains the narrower ones: NRES > GRU > HMB > DS:MONDO:<id>, and GRU > POA. A disease is
compared by its code alone; the hierarchy of diseases is not known here. In the EHDS vocabulary `ehds-53-1-e` contains
its two points, in DPV a purpose contains those that name it as broader.
"""

import re
from collections.abc import Iterable
from typing import Literal

from policies.scalars import Misfit
from policies.vocabulary import data_use, purpose_codes
from policies.wording import nearest, shown

Vocabulary = Literal["duo", "ehds", "dpv", "own"]

_DISEASE = re.compile(r"MONDO:[0-9]{7}")
_OWN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


def _entry(code: str, vocabulary: Vocabulary) -> str | None:
    """The entry of the vocabulary that a code belongs to: DS for `DS:MONDO:0005267`; None for an unknown code."""
    if vocabulary == "own":
        return code if _OWN.fullmatch(code) else None
    if vocabulary != "duo":
        return code if code in purpose_codes(vocabulary).purposes else None
    head, _, disease = code.partition(":")
    permission = data_use().permissions.get(head)
    if permission is None:
        return None
    fits = _DISEASE.fullmatch(disease) if permission.disease else not disease and head == code
    return head if fits else None


def _wider(entry: str, vocabulary: Vocabulary) -> str | None:
    """The entry that contains an entry."""
    if vocabulary == "own":
        return None
    if vocabulary == "duo":
        return data_use().permissions[entry].within
    return purpose_codes(vocabulary).purposes[entry].within


def is_known(code: str, vocabulary: Vocabulary) -> bool:
    """Whether a code can be a purpose at all."""
    return _entry(code, vocabulary) is not None


def within(code: str, allowed: str, vocabulary: Vocabulary) -> bool:
    """Whether a purpose equals an allowed one or is contained in it."""
    entry = _entry(code, vocabulary)
    if entry is None:
        return False
    if code == allowed:
        return True
    wider = _wider(entry, vocabulary)
    while wider is not None:
        if wider == allowed:
            return True
        wider = _wider(wider, vocabulary)
    return False


def for_public_bodies(code: str, vocabulary: Vocabulary) -> bool:
    """Whether a purpose is reserved to public bodies."""
    if vocabulary not in ("ehds", "dpv"):
        return False
    found = purpose_codes(vocabulary).purposes.get(code)
    return found is not None and found.public_bodies


def purpose_name(code: str, vocabulary: Vocabulary) -> str:
    """A code with its label, `POA (population origins or ancestry research)`; others stand alone."""
    entry = _entry(code, vocabulary)
    if entry is None or vocabulary == "own":
        return shown(code)
    label = (data_use().permissions if vocabulary == "duo" else purpose_codes(vocabulary).purposes)[entry].label
    return f"{code} ({label})"


def unknown_purposes(codes: Iterable[str], vocabulary: Vocabulary) -> list[Misfit]:
    """What is wrong with the codes of a policy's list, each at its index."""
    explain = {"own": _explain_own, "duo": _explain_duo, "ehds": _explain_listed, "dpv": _explain_listed}[vocabulary]
    numbered = enumerate(codes)
    return [explain(code, index, vocabulary) for index, code in numbered if not is_known(code, vocabulary)]


def _explain_own(_: str, index: int, __: Vocabulary) -> Misfit:
    return Misfit("a code of at most 64 letters, digits and . _ : -", (index,))


def _explain_listed(code: str, index: int, vocabulary: Vocabulary) -> Misfit:
    known = purpose_codes("ehds" if vocabulary == "ehds" else "dpv").purposes
    named = {name: name for name in known} | {purpose.label: name for name, purpose in known.items()}
    named |= {re.split(r"[#/]", name)[-1]: name for name in known}
    close = nearest(re.split(r"[#/]", code)[-1].removeprefix("dpv:"), named)
    kind = "purpose of Article 53(1) of the EHDS" if vocabulary == "ehds" else "IRI of a DPV purpose in the list"
    return Misfit(f"a {kind}, such as {next(iter(known))}", (index,), meant=named[close] if close else None)


def _explain_duo(code: str, index: int, _: Vocabulary) -> Misfit:
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

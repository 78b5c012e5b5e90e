"""Laws: which apply, what may be cited, and what a policy under them must at least say."""

import re
from typing import Annotated

from pydantic import AfterValidator

from policies.scalars import SchemaWhenAsked, misfit
from policies.vocabulary import law_table
from policies.wording import nearest

OTHER = "other:"
"""What a citation begins with that the table does not know, such as `other:Krebsregistergesetz 5`."""

_OTHER = re.compile(r"other:\S(.{0,180}\S)?")


def citations() -> dict[str, str]:
    """Every citation of the table with what it says, `gdpr-art-6-1-e`."""
    return {
        f"{code}-{provision}": label
        for code, law in law_table().laws.items()
        for provision, label in law.provisions.items()
    }


def citation_name(code: str) -> str:
    """A citation with what it says; one that the table does not know stands alone."""
    label = citations().get(code)
    return f"{code} ({label})" if label else code


def _law(value: str) -> str:
    known = law_table().laws
    if value not in known:
        named = {law.name: code for code, law in known.items()}
        close = nearest(value, {**{code: code for code in known}, **named})
        raise misfit(f"a law of the table ({', '.join(known)})", meant=named.get(close or "", close))
    if known[value].until is not None:
        raise _ended(value)
    return value


def _citation(value: str) -> str:
    known = citations()
    if _OTHER.fullmatch(value):
        return value
    if value not in known:
        # A safeguard is an instrument of the parties, whose own reference follows the provision.
        owners = [code for code in _instruments() if value.startswith(f"{code}-") and len(value) <= 200]
        if not owners:
            expected = "a citation of the table of laws, or other: and a text"
            raise misfit(
                expected, meant=nearest(value, known), advice=None if nearest(value, known) else _provisions(value)
            )
        return value
    code = next(law for law in sorted(law_table().laws, key=len, reverse=True) if value.startswith(f"{law}-"))
    if law_table().laws[code].until is not None:
        raise _ended(code)
    return value


def _instruments() -> tuple[str, ...]:
    return tuple(f"{code}-{provision}" for code, law in law_table().laws.items() for provision in law.instruments)


def _provisions(value: str) -> str | None:
    """The provisions of the law that a citation begins with, if it does."""
    for code, law in law_table().laws.items():
        if value == code or value.startswith(f"{code}-"):
            return f"of {law.name} the table has {', '.join(f'{code}-{name}' for name in law.provisions)}"
    return None


def _ended(code: str) -> Exception:
    law = law_table().laws[code]
    advice = f"{law.name} ended on {law.until}" + (f" and was replaced by {law.replaced_by}" if law.replaced_by else "")
    return misfit("a law in force", advice=advice)


LawCode = Annotated[
    str,
    AfterValidator(_law),
    SchemaWhenAsked(lambda: {"type": "string", "enum": [c for c, law in law_table().laws.items() if not law.until]}),
]
"""The code of a law that applies, `gdpr`."""

Citation = Annotated[
    str,
    AfterValidator(_citation),
    SchemaWhenAsked(
        lambda: {
            "anyOf": [
                {"type": "string", "enum": sorted(citations())},
                {"type": "string", "pattern": f"^({'|'.join(_instruments())})-"},
                {"type": "string", "pattern": "^other:"},
            ]
        }
    ),
]
"""A provision of a law, `gdpr-art-6-1-e`; with the parties' own instrument, `gdpr-art-46-scc-2026-14`."""

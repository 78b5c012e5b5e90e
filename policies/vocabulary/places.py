"""Countries and blocs: field types, names, membership."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

from policies.scalars import SchemaWhenAsked, misfit
from policies.vocabulary import blocs, country_codes
from policies.wording import nearest, shown


def place_name(code: str) -> str:
    """A code with its name, `US (United States)`; an unknown code stands alone."""
    bloc = blocs().blocs.get(code)
    name = bloc.name if bloc else country_codes().countries.get(code)
    return f"{code} ({name})" if name else shown(code)


def members(codes: Iterable[str]) -> frozenset[str]:
    """The countries that a list of countries and blocs comprises."""
    known = blocs().blocs
    comprised = (known[code].members if code in known else (code,) for code in codes)
    return frozenset(country for countries in comprised for country in countries)


def _meant(value: str, codes: Iterable[str]) -> str | None:
    """The code that a wrong one most likely stands for: another case, a usual confusion, or a name."""
    known = set(codes)
    upper = value.strip().upper()
    if upper in known:
        return upper
    listed = country_codes()
    if upper in listed.confused:
        return listed.confused[upper]
    named = {name: code for code, name in listed.countries.items()}
    named |= {bloc.name: code for code, bloc in blocs().blocs.items() if code in known}
    close = nearest(value, named)
    return named[close] if close else None


def _country(value: str) -> str:
    codes = country_codes().countries
    if value not in codes:
        raise misfit("a country code of ISO 3166 alpha-2", meant=_meant(value, codes))
    return value


def _place(value: str) -> str:
    codes = {**country_codes().countries, **blocs().blocs}
    if value not in codes:
        expected = f"a country code of ISO 3166 alpha-2 or a bloc ({', '.join(blocs().blocs)})"
        raise misfit(expected, meant=_meant(value, codes))
    return value


Country = Annotated[
    str,
    AfterValidator(_country),
    SchemaWhenAsked(lambda: {"type": "string", "enum": sorted(country_codes().countries)}),
]
"""A country code."""

Place = Annotated[
    str,
    AfterValidator(_place),
    SchemaWhenAsked(lambda: {"type": "string", "enum": [*blocs().blocs, *sorted(country_codes().countries)]}),
]
"""A country code or the code of a bloc."""

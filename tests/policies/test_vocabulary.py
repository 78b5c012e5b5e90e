"""The dated lists: complete, consistent, and how purposes contain each other."""

import re

import pytest

from policies.vocabulary import blocs, country_codes, data_use
from policies.vocabulary.places import members, place_name
from policies.vocabulary.purposes import is_known, purpose_name, within


def test_the_country_codes_are_complete() -> None:
    countries = country_codes().countries
    assert len(countries) == 249
    assert all(re.fullmatch(r"[A-Z]{2}", code) for code in countries)
    assert len(set(countries.values())) == 249
    assert {"NO", "GB", "GR", "TW", "SS", "CW", "XK"} - set(countries) == {"XK"}


def test_blocs_have_their_members() -> None:
    known = blocs().blocs
    assert (len(known["EU"].members), len(known["EEA"].members), len(known["EFTA"].members)) == (27, 30, 4)
    assert set(known["EEA"].members) - set(known["EU"].members) == {"IS", "LI", "NO"}
    assert set(known["EFTA"].members) == {"CH", "IS", "LI", "NO"}
    assert not {"GB", "CH"} & set(known["EEA"].members)
    for bloc in known.values():
        assert len(set(bloc.members)) == len(bloc.members)
        assert set(bloc.members) <= set(country_codes().countries)


def test_bloc_codes_are_no_country_codes() -> None:
    assert not set(blocs().blocs) & set(country_codes().countries)
    assert not set(country_codes().confused) & set(country_codes().countries)
    assert set(country_codes().confused.values()) <= set(country_codes().countries)


def test_members_and_names_of_places() -> None:
    assert members(["CH", "EFTA"]) == {"CH", "IS", "LI", "NO"}
    assert members([]) == frozenset()
    assert place_name("US") == "US (United States)"
    assert place_name("EU") == "EU (European Union)"
    assert place_name("X\n") == "X?"


def test_the_vocabularies_are_dated_and_sourced() -> None:
    for listed in (country_codes(), blocs(), data_use()):
        assert listed.as_of.year >= 2022
        assert listed.source
        assert "://" not in listed.source


CONTAINED = {
    ("NRES", "NRES"),
    ("GRU", "NRES"),
    ("HMB", "NRES"),
    ("POA", "NRES"),
    ("DS:MONDO:0005267", "NRES"),
    ("GRU", "GRU"),
    ("HMB", "GRU"),
    ("POA", "GRU"),
    ("DS:MONDO:0005267", "GRU"),
    ("HMB", "HMB"),
    ("DS:MONDO:0005267", "HMB"),
    ("POA", "POA"),
    ("DS:MONDO:0005267", "DS:MONDO:0005267"),
}


@pytest.mark.parametrize("inner", ["NRES", "GRU", "HMB", "POA", "DS:MONDO:0005267"])
@pytest.mark.parametrize("outer", ["NRES", "GRU", "HMB", "POA", "DS:MONDO:0005267", "DS:MONDO:0000001"])
def test_containment_of_duo_permissions(inner: str, outer: str) -> None:
    assert within(inner, outer, "duo") == ((inner, outer) in CONTAINED)


@pytest.mark.parametrize("code", ["", "DS", "DS:", "DS:MONDO:1", "HMB:", "HMB:x", "hmb", "NMDS", "DS:MONDO:0005267\n"])
def test_what_is_no_purpose(code: str) -> None:
    assert not is_known(code, "duo")
    assert not within(code, code, "duo")


def test_own_purposes_match_exactly() -> None:
    assert within("HMB", "HMB", "own")
    assert not within("HMB", "GRU", "own")
    assert purpose_name("HMB", "own") == "HMB"
    assert purpose_name("DS:MONDO:0005267", "duo") == "DS:MONDO:0005267 (disease specific research)"

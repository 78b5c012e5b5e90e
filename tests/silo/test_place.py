"""A gate that finds itself elsewhere than its policy says does not start."""

from __future__ import annotations

import pytest

from federation.errors import ManifestError
from policies.model import load_policy
from silo.config import Place
from silo.gate.place import check_place

from .simulator import POLICY

GERMAN = load_policy(POLICY, source="policy.yaml")


def test_the_place_that_the_policy_names_is_recorded() -> None:
    place = Place(country="DE", regions=("eu-central-1", "europe-west3"))
    assert check_place(place, "europe-west3", GERMAN) == {"country": "DE", "region": "europe-west3"}


def test_a_region_that_the_environment_does_not_tell_is_recorded_as_such() -> None:
    assert check_place(Place(country="DE", regions=("eu-central-1",)), "", GERMAN)["region"] == "not told"


def test_without_a_place_nothing_is_claimed() -> None:
    assert check_place(None, "eu-central-1", GERMAN) == {}


def test_another_country_than_the_policys_is_refused_with_its_position() -> None:
    with pytest.raises(ManifestError, match=r"runs in FR, expected DE, .*policy\.yaml:5:3"):
        check_place(Place(country="FR"), "", GERMAN)


def test_a_node_in_another_region_is_refused() -> None:
    with pytest.raises(ManifestError, match="region 'us-east-1', expected one of eu-central-1, which lie in DE"):
        check_place(Place(country="DE", regions=("eu-central-1",)), "us-east-1", GERMAN)

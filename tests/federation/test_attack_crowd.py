"""Laws of who has to leave: nobody with many idle guests takes the place of one with few."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.crowd import Crowd, network_of

HOLDERS = st.sampled_from(["a", "b", "c", "d"])
STEPS = st.lists(st.tuples(st.sampled_from(["enter", "enter", "occupy", "rest", "leave"]), HOLDERS, st.integers(0, 30)))


@given(STEPS, st.integers(1, 8), st.integers(1, 8))
def test_the_bounds_hold_whatever_comes_and_goes(steps: list[tuple[str, str, int]], together: int, of_one: int):
    crowd: Crowd[int] = Crowd(together, of_one)
    here: dict[int, str] = {}
    for number, (step, holder, which) in enumerate(steps):
        if step == "enter":
            here[number] = holder
            leaving = crowd.enter(number, holder)
            if leaving is not None:
                before = Counter(here.values())
                assert (
                    before[here[leaving]] == max(before.values())
                    or before[here[leaving]] > of_one
                    or (leaving == number)
                )
                del here[leaving]
        else:
            getattr(crowd, step)(which)
            if step == "leave":
                here.pop(which, None)
        assert len(crowd) == len(here) <= together
        assert max(Counter(here.values()).values(), default=0) <= of_one


@given(st.integers(2, 40), st.integers(1, 200))
def test_a_flood_from_one_takes_nothing_from_another(together: int, flood: int):
    crowd: Crowd[str] = Crowd(together, together)
    assert crowd.enter("honest", "a") is None
    assert "honest" not in [crowd.enter(f"flood-{number}", "b") for number in range(flood)]


@given(st.integers(2, 40), st.integers(0, 100))
def test_a_newcomer_finds_room_among_the_idle_of_many_holders(together: int, others: int):
    crowd: Crowd[str] = Crowd(together, together)
    for number in range(together + others):
        crowd.enter(f"idle-{number}", f"network-{number % (together + 1)}")
    assert crowd.enter("honest", "a") != "honest"


def test_the_longest_idle_leaves_and_a_busy_one_stays():
    crowd: Crowd[str] = Crowd(10, 3)
    for guest in ("first", "second", "third"):
        crowd.enter(guest, "a")
    crowd.occupy("first")
    assert crowd.enter("fourth", "a") == "second"
    crowd.occupy("third")
    crowd.occupy("fourth")
    assert crowd.enter("fifth", "a") == "fifth"
    crowd.rest("first")
    assert crowd.enter("sixth", "a") == "first"


def test_busy_guests_leave_for_whoever_has_fewer():
    crowd: Crowd[int] = Crowd(4, 4)
    for guest in range(4):
        crowd.enter(guest, "a")
        crowd.occupy(guest)
    assert crowd.enter(4, "b") == 0
    crowd.occupy(4)
    assert crowd.enter(5, "b") == 1
    crowd.occupy(5)
    assert crowd.enter(6, "c") == 2


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_an_address_counts_as_its_network(address: str, network: str):
    assert network_of(address) == network


@given(st.ip_addresses(v=6))
def test_the_addresses_of_one_ipv6_network_count_as_one(address: object):
    first = network_of(str(address))
    assert network_of(f"{str(first).removesuffix('/64')}1") in {first, network_of(str(address))} or "." in first

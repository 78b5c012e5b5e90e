"""The protocol among silos in one process: whoever is lost, the sum is that of the survivors; attacks on each step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.unmasking import MaskedSum, shares_of
from federation.errors import WireError
from federation.identity import load_certificate
from federation.manifest import SignedManifest
from federation.secure_aggregation.cohort import Advert, Cohort, Place, advertise, adverts_of, text_of
from federation.secure_aggregation.fixed_point import PlainSum, add_mean
from federation.secure_aggregation.shamir import PRIME
from silo.gate.masking import StepRefused

from .attempt import LARGEST, PLACE, Attempt, Silos, updates_of

SIZE = 70_001
FIVE = tuple(f"silo-{index:02}" for index in range(5))


@pytest.fixture
def attempt(silos: Silos) -> Attempt:
    """Five of the seven silos, four of which open."""
    return attempt_of(silos, FIVE, 4)


def attempt_of(silos: Silos, names: tuple[str, ...], threshold: int, size: int = 50) -> Attempt:
    return Attempt(silos, updates_of(names, size), {name: 90 + 17 * at for at, name in enumerate(names)}, threshold)


def refused(act: Callable[[], object]) -> str:
    """The rule by which a step is refused."""
    with pytest.raises(StepRefused) as caught:
        act()
    return caught.value.rule


# -- who stays


def test_the_sum_of_all_has_the_bits_of_the_unmasked_one(silos: Silos) -> None:
    names = silos.names
    attempt = attempt_of(silos, names, 4, SIZE)
    total, opened = attempt.run(set(names), set(names), set(names))
    assert total.survivors == names
    np.testing.assert_array_equal(opened, attempt.plain(names))

    model = np.linspace(-1, 1, SIZE, dtype=np.float32)
    plain = PlainSum(SIZE, attempt.planned, LARGEST)
    for name in names:
        plain.add(attempt.updates[name], attempt.examples[name])
    after = add_mean(model, opened, plain.examples, attempt.planned, LARGEST)
    np.testing.assert_array_equal(after, plain.model_after(model))
    exact = sum(attempt.examples[name] * attempt.updates[name].astype(np.float64) for name in names) / attempt.planned
    np.testing.assert_allclose(after, model + exact, rtol=0, atol=2**-23)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whoever_is_lost_where_the_threshold_stays_the_sum_is_the_survivors(silos: Silos, data: st.DataObject) -> None:
    """Lost before sharing, after it, after masking, after signing: at each step any that leave the threshold."""
    names = silos.names

    def stay(of: set[str]) -> set[str]:
        count = data.draw(st.integers(4, len(of)))
        return set(data.draw(st.permutations(sorted(of)))[:count])

    sharing = stay(set(names))
    masking = stay(sharing)
    opening = stay(masking)
    attempt = attempt_of(silos, names, 4)
    total, opened = attempt.run(sharing, masking, opening)
    assert total.survivors == tuple(sorted(masking))
    np.testing.assert_array_equal(opened, attempt.plain(masking))


def test_a_masked_update_tells_nothing_of_its_values(attempt: Attempt) -> None:
    """Two attempts at the same update have nothing in common, and neither has the bits of what it hides."""
    cohort = attempt.cohort()
    attempt.share(cohort)
    masked = attempt.members["silo-00"].mask(cohort.names, 4)
    again = attempt_of(attempt.silos, FIVE, 4)
    other = again.cohort()
    again.share(other)
    plain = attempt.plain(["silo-00"])
    assert np.count_nonzero(masked == plain) <= 1
    assert np.count_nonzero(masked == again.members["silo-00"].mask(other.names, 4)) <= 1


def test_fewer_shares_than_the_threshold_open_nothing(attempt: Attempt) -> None:
    cohort, names = attempt.cohort(), FIVE
    sealed = attempt.share(cohort)
    total = MaskedSum(cohort, names)
    for name in names:
        total.add(name, attempt.members[name].mask(names, 4))
    signatures = {name: attempt.members[name].confirm(names, 4) for name in names}
    shares = {
        name: attempt.members[name].unmask(
            signatures, {sender: sealed[sender][name] for sender in names if sender != name}
        )
        for name in names[:3]
    }
    with pytest.raises(WireError, match="got 3 shares of silo-00's secret, expected at least 4"):
        total.open(shares)


@pytest.mark.parametrize("lost", [False, True])
def test_wrong_shares_are_found_and_open_nothing(attempt: Attempt, lost: bool) -> None:
    """Of a survivor's own mask, and of a lost silo's key: more of them than there are shares to spare."""
    cohort, names = attempt.cohort(), FIVE
    sealed = attempt.share(cohort)
    total = MaskedSum(cohort, names)
    survivors = names[1:] if lost else names
    for name in survivors:
        total.add(name, attempt.members[name].mask(names, 4))
    signatures = {name: attempt.members[name].confirm(survivors, 4) for name in survivors}
    shares = {
        name: attempt.members[name].unmask(
            signatures, {sender: sealed[sender][name] for sender in names if sender != name}
        )
        for name in survivors
    }
    wrong = ("silo-01",) if lost else ("silo-01", "silo-02")
    for name in wrong:
        shares[name]["silo-00"] = (shares[name]["silo-00"] + 1) % PRIME
    with pytest.raises(WireError, match="silo-00's secret are not those"):
        total.open(shares)
    # Of four shares that are needed and five that are there, one may be wrong: it is left out, and the sum is right.
    shares["silo-01"]["silo-00"] = (shares["silo-01"]["silo-00"] - 1) % PRIME
    np.testing.assert_array_equal(total.open(shares), attempt.plain(survivors))


# -- keys: the coordinator in the middle


def forged(attempt: Attempt, silos: Silos, name: str) -> Advert:
    """Keys of a coordinator's own, signed with whatever key the homes of `silos` have under this name."""
    home = silos.homes[name]
    other = Attempt(silos, attempt.updates, attempt.examples, 4).members[name]
    assert other.advert.silo == home.identity().name
    return other.advert


def with_advert(cohort: Cohort, advert: Advert) -> Cohort:
    return replace(cohort, adverts=tuple(advert if one.silo == advert.silo else one for one in cohort.adverts))


def test_keys_that_another_authority_certified_are_refused(attempt: Attempt, impostors: Silos) -> None:
    cohort = with_advert(attempt.cohort(), forged(attempt, impostors, "silo-02"))
    assert refused(lambda: attempt.members["silo-00"].share(cohort, attempt.silos.manifest, 4)) == "secure.keys"


def swapped_key(attempt: Attempt) -> Advert:
    """The silo's own certificate and signature over keys that it did not make."""
    honest = attempt.members["silo-02"].advert
    return replace(honest, share_key=forged(attempt, attempt.silos, "silo-03").share_key)


def other_silos_certificate(attempt: Attempt) -> Advert:
    return replace(attempt.members["silo-03"].advert, silo="silo-02")


def another_rounds_keys(attempt: Attempt) -> Advert:
    later = replace(attempt, place=Place(PLACE.run_digest, PLACE.run_id, PLACE.round - 1))
    return later.members["silo-02"].advert


def another_runs_keys(attempt: Attempt) -> Advert:
    other = replace(attempt, place=Place("sha256:" + "9" * 64, PLACE.run_id, PLACE.round))
    return other.members["silo-02"].advert


def another_silos_word(attempt: Attempt) -> Advert:
    """A silo that conspires signs keys for another with its own certificate."""
    home = attempt.silos.homes["silo-03"]
    certificate = load_certificate(home.certificate.read_bytes())
    mine = attempt.member("silo-03").advert
    keys = mine.mask_key, mine.share_key, mine.commitment
    return advertise("silo-02", home.private_key(), certificate, PLACE, *keys)


def broken_signature(attempt: Attempt) -> Advert:
    honest = attempt.members["silo-02"].advert
    return replace(honest, signature=honest.signature[:-1] + bytes([honest.signature[-1] ^ 1]))


def no_certificate(attempt: Attempt) -> Advert:
    return replace(attempt.members["silo-02"].advert, certificate="none")


@pytest.mark.parametrize(
    "attack",
    [
        swapped_key,
        other_silos_certificate,
        another_silos_word,
        another_rounds_keys,
        another_runs_keys,
        broken_signature,
        no_certificate,
    ],
)
def test_keys_that_their_silo_did_not_sign_for_this_round_are_refused(
    attempt: Attempt, attack: Callable[[Attempt], Advert]
) -> None:
    cohort = attempt.cohort()
    victim, advert = attempt.members["silo-00"], attack(attempt)
    assert refused(lambda: victim.share(_forced(cohort, advert), attempt.silos.manifest, 4)) == "secure.keys"
    # The same silo goes on with the honest cohort: nothing was shared.
    assert set(victim.share(cohort, attempt.silos.manifest, 4)) == set(FIVE) - {"silo-00"}


def _forced(cohort: Cohort, advert: Advert) -> Cohort:
    """A cohort with one silo's advert replaced, also by one whose keys are another's."""
    adverts = tuple(advert if one.silo == advert.silo else one for one in cohort.adverts)
    if advert.mask_key in {one.mask_key for one in cohort.adverts if one.silo != advert.silo}:
        adverts = tuple(one for one in adverts if one.silo == advert.silo or one.mask_key != advert.mask_key)
    return replace(cohort, adverts=adverts)


def test_a_revoked_silos_keys_are_refused(attempt: Attempt) -> None:
    manifest: SignedManifest = attempt.silos.manifest
    members = tuple(one for one in manifest.federation.members if one.name != "silo-02")
    model = manifest.federation.model_copy(update={"members": members})
    without = replace(manifest, document=replace(manifest.document, model=model))
    assert refused(lambda: attempt.members["silo-00"].share(attempt.cohort(), without, 4)) == "secure.keys"


def test_a_cohort_without_the_keys_that_this_silo_made_last_is_refused(attempt: Attempt) -> None:
    """Keys made before are gone: whatever was shared under them is of no use."""
    cohort = attempt.cohort()
    fresh = attempt.member("silo-00")
    assert refused(lambda: fresh.share(cohort, attempt.silos.manifest, 4)) == "secure.keys"
    others = attempt.cohort(FIVE[1:])
    assert refused(lambda: fresh.share(others, attempt.silos.manifest, 4)) == "secure.keys"


def test_one_key_twice_is_no_cohort(attempt: Attempt) -> None:
    cohort = attempt.cohort()
    again = replace(attempt.members["silo-01"].advert, silo="silo-05")
    with pytest.raises(WireError, match="one key twice"):
        replace(cohort, adverts=(*cohort.adverts, again))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda adverts: adverts[::-1], "out of order"),
        (lambda adverts: (*adverts, adverts[-1]), "out of order"),
        (lambda adverts: (*adverts[:-1], replace(adverts[-1], silo="stranger")), "got stranger in the cohort"),
    ],
)
def test_a_cohort_is_each_silo_of_the_run_once(
    attempt: Attempt, change: Callable[[tuple[Advert, ...]], tuple[Advert, ...]], message: str
) -> None:
    cohort = attempt.cohort()
    with pytest.raises(WireError, match=message):
        replace(cohort, adverts=change(cohort.adverts))


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[1]", "[" * 100_000, '[{"silo": "a"}]', text_of([{"silo": "a", "mask_key": "zz"}])],
)
def test_adverts_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(WireError):
        adverts_of(text)


def test_an_advert_of_another_size_is_refused(attempt: Attempt) -> None:
    fields = attempt.members["silo-00"].advert.fields()
    for change in ({"mask_key": "00"}, {"silo": "../x"}, {"certificate": "x" * 100_000}):
        with pytest.raises(WireError):
            Advert.parse({**fields, **change})


# -- thresholds and cohorts


@pytest.mark.parametrize(("threshold", "fits"), [(1, False), (2, False), (3, False), (4, True), (7, True), (8, False)])
def test_a_threshold_is_more_than_half_of_the_runs_silos(silos: Silos, threshold: int, fits: bool) -> None:
    terms = replace(attempt_of(silos, FIVE, 4).terms, threshold=threshold)
    if fits:
        terms.check()
    else:
        with pytest.raises(WireError, match="more than half of them"):
            terms.check()


def test_a_cohort_below_the_minimum_is_refused(attempt: Attempt) -> None:
    assert refused(lambda: attempt.members["silo-00"].share(attempt.cohort(), attempt.silos.manifest, 6)) == (
        "secure.cohort"
    )


@pytest.mark.parametrize(
    "names",
    [FIVE[:3], FIVE[1:], (*FIVE, "silo-06"), (*FIVE[:4], "silo-00")],
)
def test_silos_that_shared_must_be_enough_each_once_and_this_one_among_them(
    attempt: Attempt, names: tuple[str, ...]
) -> None:
    attempt.share(attempt.cohort())
    assert refused(lambda: attempt.members["silo-00"].mask(names, 4)) == "secure.cohort"


def test_a_second_cohort_for_the_same_keys_is_refused(attempt: Attempt) -> None:
    member = attempt.members["silo-00"]
    sealed = member.share(attempt.cohort(), attempt.silos.manifest, 4)
    assert member.share(attempt.cohort(), attempt.silos.manifest, 4) == sealed
    smaller = attempt.cohort(FIVE[:4])
    assert refused(lambda: member.share(smaller, attempt.silos.manifest, 4)) == "secure.cohort"
    scaled = replace(attempt.cohort(), terms=replace(attempt.terms, planned=attempt.planned + 1))
    assert refused(lambda: member.share(scaled, attempt.silos.manifest, 4)) == "secure.cohort"


def test_gates_that_were_shown_different_cohorts_have_nothing_in_common(attempt: Attempt) -> None:
    """A coordinator that tells silo-00 of another scale than the rest cannot open what silo-00 sent (nor anything)."""
    honest = attempt.cohort()
    skewed = replace(honest, terms=replace(honest.terms, planned=10**9))
    sealed = {name: attempt.members[name].share(honest, attempt.silos.manifest, 4) for name in FIVE[1:]}
    sealed["silo-00"] = attempt.members["silo-00"].share(skewed, attempt.silos.manifest, 4)
    for name in FIVE:
        attempt.members[name].mask(FIVE, 4)
    signatures = {name: attempt.members[name].confirm(FIVE, 4) for name in FIVE}
    for name in FIVE:
        own = {sender: sealed[sender][name] for sender in FIVE if sender != name}
        assert refused(lambda name=name, own=own: attempt.members[name].unmask(signatures, own)) == "secure.survivors"  # type: ignore[misc]
    # With the signatures of those that agree, shares of silo-00 do not decrypt at the others.
    honest_ones = {name: signatures[name] for name in FIVE[1:]}
    told = attempt.members["silo-01"].unmask(
        honest_ones, {sender: sealed[sender]["silo-01"] for sender in FIVE if sender != "silo-01"}
    )
    assert set(told) == set(FIVE[1:])


# -- masking twice, survivors twice, both kinds of shares


def test_nothing_is_masked_twice_with_other_masks(attempt: Attempt) -> None:
    attempt.share(attempt.cohort())
    member = attempt.members["silo-00"]
    masked = member.mask(FIVE, 4)
    np.testing.assert_array_equal(member.mask(FIVE, 4), masked)
    assert refused(lambda: member.mask(FIVE[:4], 4)) == "secure.repeated"


def test_a_second_set_of_survivors_is_never_signed(attempt: Attempt) -> None:
    attempt.share(attempt.cohort())
    member = attempt.members["silo-00"]
    member.mask(FIVE, 4)
    signature = member.confirm(FIVE, 4)
    assert member.confirm(FIVE, 4) == signature
    assert refused(lambda: member.confirm(FIVE[:4], 4)) == "secure.repeated"


@pytest.mark.parametrize("survivors", [FIVE[:3], FIVE[1:], (*FIVE, "silo-05")])
def test_survivors_must_be_enough_of_the_cohort_and_this_silo_among_them(
    attempt: Attempt, survivors: tuple[str, ...]
) -> None:
    attempt.share(attempt.cohort())
    attempt.members["silo-00"].mask(FIVE, 4)
    assert refused(lambda: attempt.members["silo-00"].confirm(survivors, 4)) == "secure.cohort"


def test_a_survivor_that_did_not_share_is_refused(attempt: Attempt) -> None:
    attempt.share(attempt.cohort())
    attempt.members["silo-00"].mask(FIVE[:4], 4)
    assert refused(lambda: attempt.members["silo-00"].confirm(FIVE, 4)) == "secure.survivors"


def test_the_steps_have_their_order(attempt: Attempt) -> None:
    member = attempt.members["silo-00"]
    assert refused(lambda: member.mask(FIVE, 4)) == "secure.state"
    assert refused(lambda: member.confirm(FIVE, 4)) == "secure.state"
    assert refused(lambda: member.unmask({}, {})) == "secure.state"
    attempt.share(attempt.cohort())
    assert refused(lambda: member.confirm(FIVE, 4)) == "secure.survivors"
    member.mask(FIVE, 4)
    assert refused(lambda: member.unmask({}, {})) == "secure.survivors"


def ready(attempt: Attempt) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Everyone masked and signed, silo-04 is lost; returns the signatures, and what was sealed for silo-00."""
    sealed = attempt.share(attempt.cohort())
    for name in FIVE:
        attempt.members[name].mask(FIVE, 4)
    signatures = {name: attempt.members[name].confirm(FIVE[:4], 4) for name in FIVE[:4]}
    return signatures, {sender: sealed[sender]["silo-00"] for sender in FIVE[1:]}


def test_of_each_silo_one_kind_of_share_is_told(attempt: Attempt) -> None:
    """Of a survivor that of its own mask, of a lost one that of its key: with both its update would be open."""
    signatures, sealed = ready(attempt)
    member = attempt.members["silo-00"]
    told = member.unmask(signatures, sealed)
    assert set(told) == set(FIVE)
    assert member.unmask(signatures, sealed) == told
    # The coordinator cannot have the other kind by showing another set afterwards.
    assert refused(lambda: member.confirm(FIVE, 4)) == "secure.repeated"
    # silo-04, which is said to be lost, never signs that, and so tells nothing.
    assert refused(lambda: attempt.members["silo-04"].confirm(FIVE[:4], 4)) == "secure.cohort"
    assert refused(lambda: attempt.members["silo-04"].unmask(signatures, {})) == "secure.survivors"


def test_signatures_over_the_survivors_are_checked(attempt: Attempt) -> None:
    signatures, sealed = ready(attempt)
    member = attempt.members["silo-00"]
    few = dict(list(signatures.items())[:3])
    swapped = {**signatures, "silo-01": signatures["silo-02"]}
    stranger = {**few, "stranger": signatures["silo-03"]}
    of_the_lost = {**few, "silo-04": signatures["silo-03"]}
    garbage = {**signatures, "silo-01": b"no signature"}
    for attack in (few, swapped, stranger, of_the_lost, garbage, {}):
        assert refused(lambda attack=attack: member.unmask(attack, sealed)) == "secure.survivors"  # type: ignore[misc]


def test_signatures_of_another_attempt_or_set_are_of_no_use(attempt: Attempt) -> None:
    """Signed by the same silos for the same round: late, or over another set of survivors."""
    signatures, sealed = ready(attempt)
    again = attempt_of(attempt.silos, FIVE, 4)
    late, _ = ready(again)
    member = attempt.members["silo-00"]
    assert refused(lambda: member.unmask(late, sealed)) == "secure.survivors"
    assert refused(lambda: member.unmask({**signatures, "silo-03": late["silo-03"]}, sealed)) == "secure.survivors"


def test_shares_of_another_attempt_do_not_open(attempt: Attempt) -> None:
    """A coordinator that replays what was sealed for another round or attempt gets no share for it."""
    signatures, sealed = ready(attempt)
    other = attempt_of(attempt.silos, FIVE, 4)
    _, stale = ready(other)
    told = attempt.members["silo-00"].unmask(signatures, {**sealed, "silo-01": stale["silo-01"]})
    assert set(told) == {"silo-00", "silo-02", "silo-03", "silo-04"}


def test_shares_for_another_silo_do_not_open(attempt: Attempt) -> None:
    sealed = attempt.share(attempt.cohort())
    for name in FIVE:
        attempt.members[name].mask(FIVE, 4)
    signatures = {name: attempt.members[name].confirm(FIVE, 4) for name in FIVE}
    told = attempt.members["silo-00"].unmask(signatures, {"silo-01": sealed["silo-01"]["silo-02"], "silo-02": b""})
    assert set(told) == {"silo-00"}


# -- the coordinator's sum


def test_what_is_added_to_a_sum_is_checked(attempt: Attempt) -> None:
    total = MaskedSum(attempt.cohort(), FIVE[:4])
    masked = np.zeros(50, dtype=np.uint32)
    with pytest.raises(WireError, match="expected 50"):
        total.add("silo-00", masked[:49])
    with pytest.raises(WireError, match="expected 50"):
        total.add("silo-00", masked.view(np.float32))  # type: ignore[arg-type]
    with pytest.raises(WireError, match="not asked for"):
        total.add("silo-04", masked)
    total.add("silo-00", masked)
    with pytest.raises(WireError, match="not asked for"):
        total.add("silo-00", masked)
    assert total.survivors == ("silo-00",)


@pytest.mark.parametrize("told", [{"stranger": bytes(66)}, {"silo-00": b"\xff" * 67}])
def test_shares_that_are_none_are_refused(told: dict[str, bytes]) -> None:
    with pytest.raises(WireError, match="none of this cohort"):
        shares_of(told, FIVE)

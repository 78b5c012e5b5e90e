"""A passport says of one model what this federation's coordinator signed, and of nothing else."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from audit import keys as log_keys
from audit.cosignature import cosign, with_signature
from audit.errors import VerificationError
from audit.note import sign_note
from federation.dsse import IN_TOTO, parse_envelope, seal
from federation.errors import ConcordatError, IdentityError, WireError
from federation.home import Home
from federation.identity import Role
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.passport import Agreed, Contribution, Predicate, Spent, Summed, Trained, issue, lines, spans, verify
from federation.receipts import EVALUATION, element, extended, sign_receipt

from .conftest import NAME, Founded

MODEL = "5" * 64
"""The SHA-256 of a model file."""
DIGESTS = ["sha256:" + letter * 64 for letter in "abcde"]
HUB, SILO = f"{NAME}/coordinator/hub", f"{NAME}/silo/clinic-a"


class Site:
    """A coordinator and a silo, and what a passport of theirs says."""

    def __init__(self, directory: Path) -> None:
        self.founded = Founded(directory)
        self.hub = self.founded.member("hub", Role.COORDINATOR, "127.0.0.1:1")
        self.clinic = self.founded.member("clinic-a")
        self.manifest = self.founded.authority.manifest()
        now = datetime.now(UTC).replace(microsecond=0)
        self.predicate = predicate(self.manifest, self.logs(), now, self.agreed())
        self.passport = self.issue(self.predicate)

    def agreed(self, normalization: str | None = None, weights: str = DIGESTS[2]) -> Agreed:
        """The silo's receipt for the model, after five rounds of which only the history is shown."""
        said = {} if normalization is None else {"normalization": normalization}
        history = extended(DIGESTS[4], element(EVALUATION, 5, weights, said))
        receipt = sign_receipt(log_keys.load_key(self.clinic.log_key), 6, history)
        return Agreed(history=DIGESTS[4], normalization=normalization, receipts={"clinic-a": receipt})

    def logs(self) -> dict[str, str]:
        """A checkpoint of each log, cosigned by the other."""
        keys = {HUB: log_keys.load_key(self.hub.log_key), SILO: log_keys.load_key(self.clinic.log_key)}
        found = {}
        for origin, other in ((HUB, SILO), (SILO, HUB)):
            text = f"{origin}\n7\n{base64.b64encode(b'r' * 32).decode()}\n"
            note = sign_note(text, origin, keys[origin])
            found[origin] = with_signature(note, cosign(text, other, keys[other], 1_790_000_000))
        return found

    def issue(self, said: Predicate, home: Home | None = None, model: str = MODEL) -> bytes:
        home = home or self.hub
        return issue(model, said, home.private_key(), home.certificate.read_bytes())


def predicate(
    manifest: SignedManifest, logs: dict[str, str], finished: datetime, agreed: Agreed | None = None
) -> Predicate:
    return Predicate(
        federation=NAME,
        coordinator="hub",
        manifest=manifest.document.digest,
        manifest_version=manifest.version,
        run=Trained(
            id="r-1", digest=DIGESTS[0], name="r", purpose="HMB", dataset="heart", strategy="fedprox", rounds=5, seed=7,
            operator="ops",
        ),
        app=DIGESTS[1],
        weights=DIGESTS[2],
        silos={
            "clinic-a": Contribution(
                policies=(DIGESTS[3],),
                examples=140,
                rounds=spans([1, 2, 3, 5]),
                privacy=Spent(epsilon=2.5, delta=1e-5),
            ),
            "clinic-b": Contribution(policies=(DIGESTS[4],), examples=20, rounds=(), privacy=None),
        },
        logs=logs,
        finished=finished,
        agreed=agreed,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("passport")
    yield Site(directory)
    shutil.rmtree(directory)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    else:
        yield path


def test_a_passport_says_who_contributed_under_which_policies_at_what_cost(site: Site) -> None:
    found = verify(site.passport, site.manifest, MODEL)
    assert found.statement.predicate == site.predicate
    assert {origin: (log.size, set(log.witnesses)) for origin, log in found.logs.items()} == {
        HUB: (7, {SILO}),
        SILO: (7, {HUB}),
    }
    text = "\n".join(lines(found))
    assert "clinic-a: 140 rows, rounds 1-3, 5, epsilon at most 2.5 at delta 1e-05" in text
    assert "silo_dp" not in text
    assert "clinic-b: 20 rows, rounds none, not private" in text
    assert all(digest in text for digest in (DIGESTS[1], DIGESTS[3], DIGESTS[4]))


def test_secure_aggregation_is_said_where_there_was_any_and_else_the_form_is_the_older_one(site: Site) -> None:
    said = site.predicate
    run = said.run.model_copy(update={"secure_aggregation": Summed(threshold=2, largest_change=8.0)})
    found = verify(site.issue(said.model_copy(update={"run": run})), site.manifest, MODEL)
    assert found.statement.predicate.run.secure_aggregation == Summed(threshold=2, largest_change=8.0)
    assert "sums     masked updates, each sum opened by 2 silos or more" in lines(found)

    plain = site.issue(said)
    assert b"secure_aggregation" not in parse_envelope(plain, LIMITS.passport).payload
    assert not any(line.startswith("sums") for line in lines(verify(plain, site.manifest, MODEL)))


def test_who_signed_for_the_model_is_said_and_a_receipt_for_another_is_found(site: Site) -> None:
    assert "taken    by clinic-a: each signed" in "\n".join(lines(verify(site.passport, site.manifest, MODEL)))
    normalised = site.predicate.model_copy(update={"agreed": site.agreed(DIGESTS[3])})
    verify(site.issue(normalised), site.manifest, MODEL)
    honest = site.agreed()
    stranger = honest.model_copy(update={"receipts": {"clinic-z": honest.receipts["clinic-a"]}})
    for wrong in (
        site.agreed(weights=DIGESTS[3]),
        honest.model_copy(update={"history": DIGESTS[3]}),
        honest.model_copy(update={"normalization": DIGESTS[3]}),
        stranger,
    ):
        with pytest.raises(VerificationError, match=r"did not sign|clinic-z"):
            verify(site.issue(site.predicate.model_copy(update={"agreed": wrong})), site.manifest, MODEL)
    before = site.issue(site.predicate.model_copy(update={"agreed": None}))
    assert b"agreed" not in parse_envelope(before, LIMITS.passport).payload
    assert not any(line.startswith("taken") for line in lines(verify(before, site.manifest, MODEL)))


def test_it_is_an_in_toto_statement_on_the_file(site: Site) -> None:
    statement = json.loads(parse_envelope(site.passport, LIMITS.passport).payload)
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "urn:concordat:passport:v1",
    )
    assert [subject["name"] for subject in statement["subject"]] == ["model.npz"]


def test_a_change_of_any_field_is_refused(site: Site) -> None:
    envelope = json.loads(site.passport)
    statement = json.loads(base64.b64decode(envelope["payload"]))
    places = list(leaves(statement))
    assert len(places) > 25
    for path in places:
        changed = deepcopy(statement)
        inner = changed
        for step in path[:-1]:
            inner = inner[step]
        value = inner[path[-1]]
        inner[path[-1]] = f"{value}x" if isinstance(value, str) else (value or 0) + 1
        payload = base64.b64encode(rfc8785.dumps(changed)).decode()
        with pytest.raises(IdentityError, match="does not verify"):
            verify(json.dumps({**envelope, "payload": payload}).encode(), site.manifest, MODEL)


def test_a_change_of_any_byte_of_the_file_is_refused(site: Site) -> None:
    for place in range(0, len(site.passport) - 1, 5):
        changed = bytearray(site.passport)
        changed[place] ^= 1
        with pytest.raises(ConcordatError):
            verify(bytes(changed), site.manifest, MODEL)


def test_a_field_that_is_not_known_is_refused_although_it_is_signed(site: Site) -> None:
    statement = json.loads(parse_envelope(site.passport, LIMITS.passport).payload)
    for inner in (statement, statement["predicate"], statement["predicate"]["silos"]["clinic-a"]):
        inner["approved"] = True
        data = seal(rfc8785.dumps(statement), IN_TOTO, site.hub.private_key(), site.hub.certificate.read_bytes())
        with pytest.raises(WireError, match="not a passport"):
            verify(data, site.manifest)
        del inner["approved"]


def test_another_model_is_refused(site: Site) -> None:
    with pytest.raises(IdentityError, match="the passport is of another model"):
        verify(site.passport, site.manifest, "6" * 64)


def test_a_passport_signed_by_another_member_is_refused(site: Site) -> None:
    with pytest.raises(IdentityError, match="signed by clinic-a, a silo, expected the coordinator"):
        verify(site.issue(site.predicate, site.clinic), site.manifest)


def test_the_key_of_another_federation_is_refused(site: Site, tmp_path: Path) -> None:
    other = Founded(tmp_path / "same-name")
    hub = other.member("hub", Role.COORDINATOR, "127.0.0.1:1")
    with pytest.raises(IdentityError, match="was not issued by this federation's authority"):
        verify(site.issue(site.predicate, hub), site.manifest)
    foreign = Founded(tmp_path / "other-name", "other.example").member("hub", Role.COORDINATOR, "127.0.0.1:1")
    with pytest.raises(IdentityError, match=r"certificate of federation other\.example"):
        verify(site.issue(site.predicate, foreign), site.manifest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"federation": "other.example"}, "names the federation"),
        ({"coordinator": "hub-2"}, "names the coordinator"),
        ({"manifest": DIGESTS[0]}, "names the manifest"),
        ({"manifest_version": 99}, "manifest version"),
        ({"finished": datetime(2020, 1, 1, tzinfo=UTC)}, "certificate is valid from"),
        ({"finished": datetime.now(UTC) + timedelta(days=4000)}, "certificate is valid from"),
    ],
)
def test_a_statement_that_does_not_fit_the_manifest_is_refused(site: Site, change: dict[str, Any], words: str) -> None:
    with pytest.raises(IdentityError, match=words):
        verify(site.issue(site.predicate.model_copy(update=change)), site.manifest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda logs: {"a.example/silo/x": logs[SILO]}, "no member"),
        (lambda logs: {SILO: logs[HUB]}, "not signed by"),
        (lambda logs: {SILO: logs[SILO].replace("\n7\n", "\n8\n")}, "does not verify"),
    ],
)
def test_a_checkpoint_that_its_log_did_not_sign_is_refused(
    site: Site, change: Callable[[dict[str, str]], dict[str, str]], words: str
) -> None:
    said = site.predicate.model_copy(update={"logs": change(dict(site.predicate.logs))})
    with pytest.raises(VerificationError, match=words):
        verify(site.issue(said), site.manifest)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"[" * 100_000, b'{"payload": 1, "payload": 2}', b"\xff"])
def test_what_is_no_envelope_is_refused(site: Site, data: bytes) -> None:
    with pytest.raises(WireError, match="not a DSSE envelope"):
        verify(data, site.manifest)


def test_an_envelope_of_another_type_or_beyond_the_limit_is_refused(site: Site) -> None:
    payload = parse_envelope(site.passport, LIMITS.passport).payload
    data = seal(payload, "text/plain", site.hub.private_key(), site.hub.certificate.read_bytes())
    with pytest.raises(IdentityError, match="payload of type text/plain"):
        verify(data, site.manifest)
    with pytest.raises(WireError, match="expected at most"):
        verify(b" " * (LIMITS.passport + 1), site.manifest)


@pytest.mark.parametrize(("rounds", "expected"), [([], ()), ([3], ((3, 3),)), ([5, 1, 2, 2, 4], ((1, 2), (4, 5)))])
def test_rounds_are_spans(rounds: list[int], expected: tuple[tuple[int, int], ...]) -> None:
    assert spans(rounds) == expected


@pytest.mark.parametrize(
    ("mode", "keys"), [("example_dp", {"epsilon", "delta"}), ("silo_dp", {"epsilon", "delta", "mode"})]
)
def test_a_mode_is_said_where_it_is_not_that_of_rows(mode: Any, keys: set[str]) -> None:
    """Passports from before there were two modes keep their canonical form."""
    spent = Spent(epsilon=2.5, delta=1e-5, mode=mode)
    dumped = spent.model_dump(mode="json")
    assert set(dumped) == keys
    assert Spent.model_validate(dumped) == spent

"""A cohort of silos with certified keys, and an attempt at a sum step by step, in one process."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from coordinator.authority import Authority
from coordinator.unmasking import MaskedSum
from federation.enrolment import join, parse_request, request_enrolment
from federation.home import Home
from federation.identity import Role, load_certificate
from federation.manifest import SignedManifest
from federation.secure_aggregation.cohort import Cohort, Place, Terms
from federation.secure_aggregation.fixed_point import Integers, encode
from federation.wire import Weights
from silo.gate.masking import Member, Update

PLACE = Place("sha256:" + "1" * 64, "run-1", 3)
MODEL = "sha256:" + "2" * 64
LARGEST = 8.0


@dataclass
class Silos:
    """Members of one federation, with their homes."""

    manifest: SignedManifest
    homes: dict[str, Home]
    authority: Authority

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.homes))


def found_silos(directory: Path, count: int) -> Silos:
    """A federation of silo-00, silo-01 and so on."""
    authority = Authority(directory / "authority")
    authority.found("cardio.example")
    homes = {}
    for index in range(count):
        home = homes[f"silo-{index:02}"] = Home(directory / f"silo-{index:02}")
        request_enrolment(home, "cardio.example", f"silo-{index:02}", Role.SILO, "DE", ())
        certificate, _ = authority.enrol(parse_request(home.request.read_bytes()))
        join(home, json.dumps(authority.bundle(certificate)).encode())
    return Silos(authority.manifest(), homes, authority)


@dataclass
class Attempt:
    """One attempt at one sum; `updates` are the silos' changes, `examples` their rows."""

    silos: Silos
    updates: Mapping[str, Weights]
    examples: Mapping[str, int]
    threshold: int
    place: Place = PLACE
    members: dict[str, Member] = field(init=False)

    def __post_init__(self) -> None:
        self.members = {name: self.member(name) for name in sorted(self.updates)}
        self.planned = sum(self.examples.values())
        self.size = next(iter(self.updates.values())).size

    def member(self, name: str) -> Member:
        home = self.silos.homes[name]
        update = Update(self.updates[name], self.examples[name], LARGEST)
        return Member(name, home.private_key(), load_certificate(home.certificate.read_bytes()), self.place, update)

    @property
    def terms(self) -> Terms:
        return Terms(self.place, MODEL, self.planned, self.threshold, self.size, self.silos.names)

    def cohort(self, names: Iterable[str] | None = None) -> Cohort:
        chosen = sorted(self.members if names is None else names)
        return Cohort(self.terms, tuple(self.members[name].advert for name in chosen))

    def share(self, cohort: Cohort, names: Iterable[str] | None = None) -> dict[str, dict[str, bytes]]:
        """What each silo sealed, by the silo and then by whom it is for."""
        chosen = cohort.names if names is None else sorted(names)
        return {name: self.members[name].share(cohort, self.silos.manifest, self.threshold) for name in chosen}

    def run(self, sharing: set[str], masking: set[str], opening: set[str]) -> tuple[MaskedSum, Integers]:
        """The whole protocol where only these silos are still there at each step."""
        cohort = self.cohort()
        sealed = self.share(cohort, sharing)
        names = tuple(sorted(sharing))
        total = MaskedSum(cohort, names)
        for name in sorted(masking):
            total.add(name, self.members[name].mask(names, self.threshold))
        signatures = {name: self.members[name].confirm(total.survivors, self.threshold) for name in sorted(opening)}
        shares = {
            name: self.members[name].unmask(
                signatures, {sender: sealed[sender][name] for sender in names if sender != name}
            )
            for name in sorted(opening)
        }
        return total, total.open(shares)

    def plain(self, names: Iterable[str]) -> Integers:
        """The sum of the encoded updates of some silos, without any mask."""
        total: Integers = np.zeros(self.size, dtype=np.uint32)
        for name in names:
            total += encode(self.updates[name], self.examples[name], self.planned, LARGEST)
        return total


def updates_of(names: Iterable[str], size: int, seed: int = 1) -> dict[str, Weights]:
    """Normal changes of a hundredth, another for each silo."""
    generator = np.random.default_rng(seed)
    return {name: (generator.normal(size=size) * 0.01).astype(np.float32) for name in names}

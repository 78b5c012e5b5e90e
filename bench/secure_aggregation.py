"""What secure aggregation costs: one round's arithmetic of all silos and the coordinator, in one process, in turns.

Beside the plain fold of the same updates. Silos do their part at the same time: a round takes one silo's part and the
coordinator's: `ratio` is these two to the plain fold. `all` is the coordinator's and every silo's, as one machine pays
it. Messages are not in it: a round has five short exchanges more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from coordinator.aggregation import RunningMean
from coordinator.authority import Authority
from coordinator.unmasking import MaskedSum
from federation.enrolment import join, parse_request, request_enrolment
from federation.home import Home
from federation.identity import Role, load_certificate
from federation.manifest import SignedManifest
from federation.secure_aggregation.cohort import Cohort, Place, Terms
from federation.secure_aggregation.fixed_point import add_mean
from federation.wire import Weights
from silo.gate.masking import Member, Update

DEMONSTRATION = 1_537
"""The values of the breast-cancer example's model."""
LARGEST = 8.0
T = TypeVar("T")


@dataclass
class Clock:
    """Seconds, by who spent them."""

    silo: float = 0.0
    coordinator: float = 0.0

    def of(self, who: str, work: Callable[[], T]) -> T:
        """Do some work for one of the two."""
        started = time.perf_counter()
        found = work()
        setattr(self, who, getattr(self, who) + time.perf_counter() - started)
        return found


@dataclass
class Silo:
    """A member with its key."""

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def enrolled(directory: Path, count: int) -> tuple[SignedManifest, list[Silo]]:
    """A federation of so many silos."""
    authority = Authority(directory / "authority")
    authority.found("bench.example")
    silos = []
    for index in range(count):
        home = Home(directory / f"silo-{index:03}")
        request_enrolment(home, "bench.example", home.path.name, Role.SILO, "DE", ())
        certificate, _ = authority.enrol(parse_request(home.request.read_bytes()))
        join(home, json.dumps(authority.bundle(certificate)).encode())
        silos.append(Silo(home.path.name, home.private_key(), load_certificate(home.certificate.read_bytes())))
    return authority.manifest(), silos


def secure(
    manifest: SignedManifest, silos: list[Silo], model: Weights, updates: list[Weights], lost: int
) -> tuple[Clock, Weights]:
    """One round; `lost` silos share and are not heard of again."""
    clock, size, names = Clock(), len(silos), tuple(silo.name for silo in silos)
    place = Place("sha256:" + "0" * 64, "bench", 1)
    examples, threshold = 100, size // 2 + 1

    def member(silo: Silo, update: Weights) -> Member:
        return Member(silo.name, silo.key, silo.certificate, place, Update(update, examples, LARGEST))

    members = [clock.of("silo", lambda s=s, u=u: member(s, u)) for s, u in zip(silos, updates, strict=True)]
    terms = Terms(place, "sha256:" + "1" * 64, examples * size, threshold, model.size, names)
    cohort = clock.of("coordinator", lambda: Cohort(terms, tuple(one.advert for one in members)))
    sealed = {
        name: clock.of("silo", lambda m=m: m.share(cohort, manifest, threshold))
        for name, m in zip(names, members, strict=True)
    }
    total = MaskedSum(cohort, names)
    left = list(zip(names, members, strict=True))[lost:]
    for name, one in left:
        masked = clock.of("silo", lambda m=one: m.mask(names, threshold))
        clock.of("coordinator", lambda n=name, v=masked: total.add(n, v))
    signatures = {name: clock.of("silo", lambda m=one: m.confirm(total.survivors, threshold)) for name, one in left}
    shares = {}
    for name, one in left:
        own = {sender: told[name] for sender, told in sealed.items() if sender != name}
        shares[name] = clock.of("silo", lambda m=one, o=own: m.unmask(signatures, o))
    opened = clock.of("coordinator", lambda: total.open(shares))
    folded = examples * len(left)
    return clock, clock.of("coordinator", lambda: add_mean(model, opened, folded, examples * size, LARGEST))


def plain(model: Weights, updates: list[Weights]) -> tuple[float, Weights]:
    """The fold of the same updates without secure aggregation."""
    started = time.perf_counter()
    mean = RunningMean(model.size, 100 * len(updates))
    for index, update in enumerate(updates):
        mean.fold(str(index), model + update, 100)
    return time.perf_counter() - started, mean.result()


def main() -> int:
    """Print a line a case; the exit code is 1 where the two models differ by more than rounding."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--silos", type=int, nargs="+", default=[3, 10, 30])
    parser.add_argument("--values", type=int, nargs="+", default=[DEMONSTRATION, 1_000_000])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(
        f"{'values':>9} {'silos':>5} {'lost':>4} "
        f"{'plain ms':>9} {'a silo ms':>9} {'coord. ms':>9} {'all ms':>9} {'ratio':>7}"
    )
    differs = False
    with tempfile.TemporaryDirectory() as directory:
        manifest, everyone = enrolled(Path(directory), max(arguments.silos))
        generator = np.random.default_rng(1)
        for values in arguments.values:
            model = generator.normal(size=values).astype(np.float32)
            for count in arguments.silos:
                among = everyone[:count]
                updates = [(generator.normal(size=values) * 0.01).astype(np.float32) for _ in among]
                for lost in sorted({0, count // 10, (count - 1) // 2}):
                    rows = []
                    for _ in range(arguments.repeats):
                        seconds, mean = plain(model, updates[lost:])
                        clock, opened = secure(manifest, among, model, updates, lost)
                        differs |= float(np.abs(opened - mean).max()) > 1e-6
                        rows.append((seconds, clock.silo / count, clock.coordinator, clock.silo + clock.coordinator))
                    fold, one, coordinator, whole = (
                        1e3 * statistics.median(column) for column in zip(*rows, strict=True)
                    )
                    ratio = statistics.median((row[1] + row[2]) / row[0] for row in rows)
                    print(
                        f"{values:9} {count:5} {lost:4} "
                        f"{fold:9.2f} {one:9.2f} {coordinator:9.2f} {whole:9.1f} {ratio:7.1f}"
                    )
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())

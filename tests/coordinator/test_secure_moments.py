"""The coordinator's conduct of the one sum that a run normalises by, among played silos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coordinator.checkpoints import LayerShape
from coordinator.normalization import NORMALIZATION, kept_normalization, open_normalization
from coordinator.roster import Admitted, Roster
from coordinator.secure_rounds import ATTEMPTS, SecureRounds
from federation.errors import RunFailedError
from federation.identity import load_certificate
from federation.run import load_run
from federation.secure_aggregation.cohort import MOMENTS, Cohort, Terms, adverts_of, by_name, text_of
from federation.statistics.exact_sums import encoded, values_of
from federation.statistics.normalization import Normalization, normalization_layout, read_normalization
from federation.statistics.summary import Summary, Tally
from federation.wire import Envelope, Kind
from silo.gate.masking import Member, Sums
from tests.secure_aggregation.attempt import PLACE, Attempt, Silos, found_silos, updates_of

from .test_secure_rounds import RUN, THRESHOLD, PlayedDialogue, PlayedSilo, Spoil

NORMALISED = load_run(RUN + "normalization: federated\n").model


@pytest.fixture(scope="module")
def silos(tmp_path_factory: pytest.TempPathFactory) -> Silos:
    return found_silos(tmp_path_factory.mktemp("silos"), 4)


def summary(rows: int) -> Summary:
    tally = Tally(normalization_layout(("age",)))
    tally.add(np.random.default_rng(rows).normal(50, 9, (rows, 1)).astype(np.float32).astype(np.float64))
    return tally.summary()


class PlayedMoments(PlayedSilo):
    """A silo that masks its sums."""

    def answer(self, kind: str, question: Envelope) -> Envelope:
        place = replace(PLACE, round=MOMENTS)
        if kind == Kind.KEYS:
            home = self.attempt.silos.homes[self.name]
            sums = Sums(encoded(summary(self.attempt.examples[self.name])), "")
            certificate = load_certificate(home.certificate.read_bytes())
            self.member = Member(self.name, home.private_key(), certificate, place, sums)
            return Envelope({"advert": text_of(self.member.advert.fields())})
        if kind == Kind.SHARES:
            terms = Terms(place, "", 1, THRESHOLD, values_of(1), self.attempt.silos.names)
            cohort = Cohort(terms, adverts_of(question.text("adverts")))
            return Envelope({"sealed": by_name(self.member.share(cohort, self.attempt.silos.manifest, THRESHOLD))})
        return super().answer(kind, question)


@dataclass
class Conducted:
    """The sum among four played silos; `wrong` is by how many rows what each announced is off."""

    silos: Silos
    directory: Path
    spoil: Spoil = lambda _kind, _name, answer: answer
    opened: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    records: list[tuple[str, Any]] = field(default_factory=list)
    wrong: int = 0

    def open(self) -> tuple[Normalization, list[str]]:
        """What the silos of the sum come to without it, and who they are."""
        names = self.silos.names
        examples = {name: 50 + 30 * at for at, name in enumerate(names)}
        attempt = Attempt(self.silos, updates_of(names, 4), examples, THRESHOLD)
        self.dialogue = PlayedDialogue({name: PlayedMoments(attempt, name) for name in names}, self.spoil)
        secure = SecureRounds(
            self.dialogue,  # type: ignore[arg-type]
            NORMALISED,
            lambda number: replace(PLACE, round=number),
            lambda: self.silos.manifest,
            lambda action, **fields: self.records.append((action, fields)),
            names,
            self.opened,
        )
        shapes = (LayerShape("dense", (4,)),)
        admitted = {name: Admitted(at, examples[name] + self.wrong, shapes, "") for at, name in enumerate(names)}
        nodes = {name: part.node_id for name, part in admitted.items()}
        text, found = open_normalization(secure, NORMALISED, self.directory, Roster(admitted), nodes, THRESHOLD)
        assert (self.directory / NORMALIZATION).read_text() == text == kept_normalization(self.directory, NORMALISED)
        return Normalization.of(summary(examples[name]) for name in found), found


def test_what_is_opened_is_what_the_silos_that_stayed_have_together(silos: Silos, tmp_path: Path) -> None:
    lost = silos.names[1]
    conducted = Conducted(silos, tmp_path, lambda *at: None if at[:2] == (Kind.MASKED, lost) else at[2])
    plain, found = conducted.open()
    assert found == [name for name in silos.names if name != lost]
    kept = read_normalization((tmp_path / NORMALIZATION).read_text(), 1)
    np.testing.assert_allclose(kept.mean, plain.mean, rtol=1e-12)
    np.testing.assert_allclose(kept.scale, plain.scale, rtol=1e-12)
    ((action, fields),) = conducted.records
    assert (action, fields["round"], fields["detail"]["silos"]) == ("round.unmask", MOMENTS, ",".join(found))


def test_an_interrupted_sum_is_opened_of_the_same_silos(silos: Silos, tmp_path: Path) -> None:
    before = silos.names[:3]
    _, found = Conducted(silos, tmp_path, opened={MOMENTS: before}).open()
    assert found == list(before)


def test_a_sum_that_does_not_open_ends_the_run_and_leaves_no_file(silos: Silos, tmp_path: Path) -> None:
    gone = silos.names[:2]
    conducted = Conducted(silos, tmp_path, lambda _kind, name, answer: None if name in gone else answer)
    with pytest.raises(RunFailedError, match="the sum of means and variances cannot be opened: 2 silos answered"):
        conducted.open()
    assert conducted.dialogue.asked == [Kind.KEYS] * ATTEMPTS
    assert not (tmp_path / NORMALIZATION).exists()


def test_a_sum_of_other_rows_than_were_announced_ends_the_run(silos: Silos, tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="are of 380 rows, the silos announced 384"):
        Conducted(silos, tmp_path, wrong=1).open()
    assert not (tmp_path / NORMALIZATION).exists()

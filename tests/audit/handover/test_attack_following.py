"""Logs that are made to hold up, or to end, the commands that read them."""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import pytest

from audit import bundle, verify
from audit.cosignature import cosigner_id
from audit.errors import VerificationError
from audit.export import package
from audit.follow import Follower
from audit.forward import Forwarder, Target
from audit.merkle import leaf_hash, root_of
from audit.note import Checkpoint, parse_note, sign_note, verifier_key
from audit.query import Selection
from audit.report import evidence, page
from audit.snapshot import take, take_all

from .conftest import FEDERATION, RUN, Party, key_of
from .test_attack_checkpoints import with_payload
from .test_attack_entries import entry


def rewritten(party: Party, lines: list[str], size: int | None = None) -> None:
    """Give a party's log these entries, with right hashes and a right signature."""
    origin = f"{FEDERATION}/{party.role}/{party.name}"
    hashes = [leaf_hash(line.encode()) for line in lines]
    count = len(lines) if size is None else size
    kept = party.directory / "segments" / f"{0:012d}.jsonl"
    for payload in (party.directory / "payloads").iterdir():
        payload.unlink()
    kept.write_text("".join(f"{line}\n" for line in lines[:count]))
    kept.with_suffix(".hashes").write_bytes(b"".join(hashes[:count]))
    text = Checkpoint(origin, len(lines), root_of(hashes)).text
    (party.directory / "checkpoint").write_text(sign_note(text, origin, key_of(party.name)))


@pytest.mark.parametrize("suffix", ["jsonl", "hashes"])
def test_a_signed_entry_whose_segment_is_empty_ends_the_following(parties: list[Party], suffix: str) -> None:
    """The empty segment was read again and again, for ever."""
    lines = [entry(seq=number) for number in range(4)]
    rewritten(parties[1], lines[:3])
    follower = Follower(parties[1].directory, parties[1].vkey)
    assert len(list(follower.poll())) == 3
    rewritten(parties[1], lines, size=3)
    (parties[1].directory / "segments" / f"{3:012d}.{suffix}").touch()
    with pytest.raises(VerificationError, match="is empty, but the checkpoint signs entry 3"):
        list(follower.poll())


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_cursor_in_a_logs_directory_that_is_no_file_is_refused(parties: list[Party], make) -> None:
    cursor = parties[1].directory / "forward.cursor"
    make(cursor)
    with pytest.raises((VerificationError, OSError), match=r"not a plain file|symbolic links"):
        Forwarder(parties[1].directory, Target("localhost", 1, None), cursor)  # type: ignore[arg-type]


def test_a_payload_of_bytes_that_are_no_text_makes_no_report(tmp_path: Path) -> None:
    """Half a character in UTF-8: Python's JSON takes it, and nothing else does."""
    directories = with_payload(tmp_path, '{"who":"\ud800"}')
    assert verify.verify(directories[1]).size
    with pytest.raises(VerificationError, match=r"by 'spiffe://heart\.example/silo/north' is not JSON"):
        evidence.collect(take_all(directories), RUN, payloads=True)


@pytest.mark.parametrize("form", sorted(package.FORMATS))
def test_an_admission_of_no_run_is_exported(parties: list[Party], tmp_path: Path, form: str) -> None:
    admitted = {"action": "run.admit", "decision": "allow", "detail": {"dataset": "d", "purpose": "p"}}
    rewritten(parties[1], [entry(seq=0, run=None, **admitted), entry(seq=1, run=RUN, **admitted)])
    package.write(take(parties[1].directory), Selection(), form, tmp_path / form)
    assert package.check(tmp_path / form, [parties[1].vkey]).entries == 2


def test_entries_that_name_erased_payloads_one_by_one_keep_no_verifier_busy() -> None:
    """Each removal from the list of absent ones moved all that were left."""
    count = 150_000
    own: list[tuple[int, str, dict[str, object]]] = [
        (count + number, "log.erased", {"seqs": str(number)}) for number in range(count - 7)
    ]
    began = time.monotonic()
    assert verify._unrecorded(set(range(count)), own) == 7
    assert time.monotonic() - began < 5
    assert verify._unrecorded({1, 2, 5, 9}, [(7, "log.erased", {"seqs": "2-5,2,9,4-3,1-1"}), (3, "x", {})]) == 1


def spoiled(note: str) -> dict[str, str]:
    """What a hostile party may hold as a checkpoint of another's log, which that one signed as the note says."""
    text, origin = note.rpartition("\n\n")[0], note.partition("\n")[0]
    own = parse_note(note.encode()).signatures[0]
    witness = verifier_key(f"{FEDERATION}/coordinator/hub", key_of("hub").public_key())

    def line(name: str, blob: bytes) -> str:
        return f"— {name} {base64.b64encode(blob).decode()}\n"

    return {
        "nothing": f"{origin}\n5\nAAAA\n\n",
        "no signature": f"{text}\n\n",
        "another signature": f"{text}\n\n" + line(origin, own[1] + b"x" * 64),
        "one more of its own": note + line(origin, own[1] + b"\0" * 64),
        "a line that is none": note + "— \n",
        "a witness's that is none": note + line(witness.name, cosigner_id(witness) + b"\0" * 72),
    }


@pytest.mark.parametrize("what", spoiled(sign_note("o\n0\nx\n", "o", key_of("o"))))
def test_no_party_spoils_anothers_evidence(parties: list[Party], tmp_path: Path, what: str) -> None:
    """A note that its log did not sign kept every report from being made, and a bundle from being verified."""
    directories = [str(party.directory) for party in parties]
    sound = evidence.collect(take_all(directories), RUN)
    held = parties[2].directory / "witness"
    held.mkdir(exist_ok=True)
    (held / "0").write_text(spoiled((parties[1].directory / "checkpoint").read_text())[what])
    made = evidence.collect(take_all(directories), RUN)
    assert made == sound
    assert page.check(page.build(made))
    bundle.write(take_all(directories), RUN, tmp_path / "bundle.zip")
    assert len(verify.verify_bundle(tmp_path / "bundle.zip")) == 3

"""Commands that check: logs, hand-overs, single entries, two copies of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from audit.cli.terminal import (
    Directory,
    Key,
    Keys,
    check_directory,
    json_text,
    printable,
    read_key,
    read_keys,
    say,
    sentences,
    stop,
)

if TYPE_CHECKING:
    from audit.check import Result
    from audit.snapshot import Entry, Leaf


def verify(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="DIR|FILE...", help="Logs, exports, bundles (.zip) and reports (.html)."),
    ],
    keys: Keys = None,
    witness: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="A witness's copy of a checkpoint, or a directory of them (audit/witness)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object for each on standard output.")] = False,
) -> None:
    """Re-hash every entry, rebuild the Merkle tree and check the signature.

    With --witness a log, also one in a bundle, must lead to the checkpoints of it that other parties cosigned and kept:
    that shows that it was neither cut back nor rewritten since. A path with no copy of these logs is an error.

    With --key this shows that the holder of that key signed exactly these entries. Without it the key is
    taken from beside the entries, which shows only that they are consistent. Where something is wrong, the
    first bad entry is named, and the exit status is 1.

    An export must also be what its entries give when they are exported again, and a report the very page that
    its evidence gives.

    A log and a bundle can be checked without this program: copy audit/verify.py and run it with any Python 3.9
    or later.
    """
    import json

    from audit.check import check
    from audit.errors import AuditError
    from audit.verify import Given, VerificationFailure

    vkeys = read_keys(keys)
    with sentences():
        given = Given(vkeys, witness or ())
    results: list[tuple[str, Result]] = []
    failures: list[tuple[str, Exception]] = []
    for path in paths:
        try:
            results += [(path, result) for result in check(path, given)]
        except (VerificationFailure, AuditError) as error:
            failures.append((path, error))
        except FileNotFoundError:
            stop(f"{path} is not there: give a log's directory, a bundle, an export or a report", status=2)
    if not failures:
        with sentences():
            given.require_used(result.fields["origin"] for _, result in results)
    for path, result in results:
        fields = {"directory": path, "verified": True, **result.fields}
        typer.echo(json.dumps(fields) if as_json else "\n".join(map(printable, result.text.splitlines())))
    for path, failure in failures:
        fields = {"directory": path, "verified": False, "seq": getattr(failure, "seq", None), "error": str(failure)}
        if as_json:
            typer.echo(json.dumps(fields))
        else:
            say(f"FAILED {path}: {failure}", err=True)
    if failures:
        raise typer.Exit(1)


def key(directory: Directory) -> None:
    """Print the log's verifier key.

    Hand it to auditors over a channel that they trust: a key that lies next to the log proves nothing about
    who wrote the log.
    """
    from pathlib import Path

    check_directory(directory)
    typer.echo(read_key(str(Path(directory) / "log.vkey")))


def prove(
    directory: Directory,
    seq: Annotated[int, typer.Argument(metavar="SEQ", help="Number of the entry.", min=0)],
    out: Annotated[str, typer.Option(metavar="FILE", help="Where to write; default: <SEQ>.tlog-proof.")] = "",
    key: Key = None,
) -> None:
    """Prove that one entry is in the log, in a file of its own (C2SP tlog-proof).

    The file holds the entry, its Merkle inclusion proof and the signed checkpoint, and nothing of the other
    entries. `verify-proof` checks it, with the log's verifier key and without the log.
    """
    from pathlib import Path

    from audit.note import parse_vkey
    from audit.proof import TlogProof, verify_proof
    from audit.snapshot import take

    check_directory(directory)
    with sentences():
        snapshot = take(directory, read_keys(key))
        if seq >= snapshot.size:
            stop(f"got entry {seq}, expected one of 0..{snapshot.size - 1}", status=2)
        line = b""

        def keep(entry: Entry) -> None:
            nonlocal line
            line = entry.line if entry.seq == seq else line

        paths = snapshot.paths(keep)
        if not line:
            stop(f"entry {seq} was purged: its retention has ended, and only its hash is left", status=1)
        proof = TlogProof(seq, tuple(paths.of(seq)), snapshot.note.decode(), line)
        verify_proof(proof, line, parse_vkey(snapshot.vkey))
        target = Path(out or f"{seq}.tlog-proof")
        target.write_text(proof.text, encoding="utf-8")
    say(f"wrote {target}: entry {seq} of {snapshot.origin}, proved in a tree of {snapshot.size}")


def verify_proof(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .tlog-proof file.")],
    key: Annotated[str, typer.Option(metavar="VKEY_OR_FILE", help="The log's verifier key, from a source you trust.")],
    entry: Annotated[
        str, typer.Option(metavar="FILE", help="The entry, where the proof does not carry it.", show_default=False)
    ] = "",
) -> None:
    """Check a proof of one entry and print the entry.

    The entry is the line as it stands in the log. The proof shows that the holder of the key signed a log with this
    entry at this place. It says nothing about the other entries.
    """
    from audit import proof
    from audit.limits import LIMITS
    from audit.note import parse_vkey
    from audit.verify import check_entry

    vkey = read_key(key)
    with sentences():
        parsed = proof.parse_proof(_read(file, LIMITS.proof_file))
        line = _read(entry, LIMITS.entry + 1).removesuffix(b"\n") if entry else parsed.extra
        if line is None:
            stop("the proof does not carry its entry: give it with --entry", status=2)
        checkpoint = proof.verify_proof(parsed, line, parse_vkey(vkey))
        check_entry(line + b"\n", parsed.index)
    entries = f"a tree of {checkpoint.size} entries"
    say(f"verified: entry {parsed.index} of {checkpoint.origin}, signed in {entries}", err=True)
    say(f"root: {checkpoint.root.hex()}", err=True)
    typer.echo(json_text(line.decode()))


def diff(
    one: Annotated[str, typer.Argument(metavar="DIR_A", help="A copy of a log.")],
    other: Annotated[str, typer.Argument(metavar="DIR_B", help="Another copy of the same log.")],
    key: Key = None,
) -> None:
    """Compare two copies of one party's log, for instance the party's own and an auditor's of last year.

    Both are verified first. Where one continues the other, nothing was rewritten, and the exit status is 0. Where
    they differ at an entry that both have, the party signed two histories: the first such entry is shown from
    both, the exit status is 1, and the two copies are the evidence.
    """
    from audit.diff import compare
    from audit.snapshot import take

    for directory in (one, other):
        check_directory(directory)
    with sentences():
        keys = read_keys(key)
        found = compare(take(one, keys), take(other, keys))
    say(f"{found.origin}: {found.sizes[0]} entries in {one}, {found.sizes[1]} in {other}")
    if found.sizes[0] == found.sizes[1] == found.common:
        typer.echo("the same: every entry is equal")
    elif found.consistent:
        longer = one if found.sizes[0] > found.sizes[1] else other
        say(f"consistent: {longer} continues the other after {found.common} common entries")
    else:
        say(f"TWO HISTORIES: they differ from entry {found.common} on, and both are signed by {found.origin}")
        for name, leaf in zip((one, other), found.first, strict=True):
            say(f"  {name}: {_text(leaf)}")
        raise typer.Exit(1)


def _text(leaf: Leaf | None) -> str:
    if leaf is None:
        return "no entry"
    return f"purged, hash {leaf.hash.hex()}" if leaf.entry is None else printable(leaf.entry.line.decode())


def _read(file: str, limit: int) -> bytes:
    from pathlib import Path

    with Path(file).open("rb") as opened:
        return opened.read(limit + 1)

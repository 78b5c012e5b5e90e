"""`concordat audit`: verify a log, list its entries, print its verifier key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

app = typer.Typer(
    add_completion=False,
    name="audit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Check and read transparency logs. Everything here works offline and changes nothing.",
)

_COLOURS = {"allow": "green", "deny": "red", "record": "cyan"}
_Directory = Annotated[str, typer.Argument(metavar="DIR", help="Directory of a log: checkpoint, log.vkey, segments/.")]


@app.command()
def verify(
    directories: Annotated[list[str], typer.Argument(metavar="DIR...", help="Directories of logs.")],
    key: Annotated[
        str | None,
        typer.Option(metavar="VKEY_OR_FILE", help="Verifier key, or a file with it, from a source you trust."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a log on standard output.")] = False,
) -> None:
    """Re-hash every entry, rebuild the Merkle tree and check the signature.

    With --key this shows that the holder of that key signed exactly these entries. Without it the key is
    taken from the log's own directory, which shows only that the log is consistent. Where something is
    wrong, the first bad entry is named, and the exit status is 1.

    The same check runs without this program: copy audit/verify.py and run it with any Python 3.9 or later.
    """
    import json

    from audit import verify as verifier

    if key is not None and len(directories) > 1:
        _stop("--key belongs to one log: verify the logs one at a time", status=2)
    vkey = None if key is None else _read_key(key)
    failed = False
    for directory in directories:
        _check_directory(directory)
        try:
            report = verifier.verify(directory, vkey)
        except verifier.VerificationFailure as failure:
            failed = True
            if as_json:
                result = {
                    "directory": directory,
                    "verified": False,
                    "seq": failure.seq,
                    "error": str(failure),
                }
                typer.echo(json.dumps(result))
            else:
                typer.echo(f"FAILED {directory}: {printable(str(failure))}", err=True)
        else:
            result = {"directory": directory, "verified": True, **vars(report)}
            typer.echo(json.dumps(result) if as_json else verifier.describe(report))
    if failed:
        raise typer.Exit(1)


@app.command()
def show(
    directory: _Directory,
    run: Annotated[str, typer.Option(help="Only entries of this run.")] = "",
    action: Annotated[str, typer.Option(help="Only this action; * stands for anything: 'round.*'.")] = "",
    decision: Annotated[str, typer.Option(help="Only allow, deny or record.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="The entries as they stand, one JSON object a line.")] = False,
) -> None:
    """List entries, one a line: number, time, decision, action, actor, resource, and why.

    Listing does not verify: run `verify` on the same directory to know that nothing was altered.
    """
    import json
    from fnmatch import fnmatchcase
    from pathlib import Path

    from audit.verify import VerificationFailure

    if decision not in {"", *_COLOURS}:
        _stop(f"got --decision {decision}, expected allow, deny or record", status=2)
    _check_directory(directory)
    try:
        for entry in _entries(Path(directory)):
            wanted = (not run or entry["run"] == run) and (not decision or entry["decision"] == decision)
            if not wanted or not fnmatchcase(str(entry["action"]), action or "*"):
                continue
            if as_json:
                typer.echo(json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False))
            else:
                _print_entry(entry)
    except VerificationFailure as failure:
        _stop(f"{directory}: {printable(str(failure))}; run `verify` to know more", status=1)
    except BrokenPipeError:
        raise
    except OSError as error:
        _stop(f"cannot read {error.filename}: {error.strerror}", status=1)


@app.command()
def key(directory: _Directory) -> None:
    """Print the log's verifier key.

    Hand it to auditors over a channel that they trust: a key that lies next to the log proves nothing about
    who wrote the log.
    """
    from pathlib import Path

    _check_directory(directory)
    typer.echo(_read_key(str(Path(directory) / "log.vkey")))


def printable(text: str) -> str:
    """The text with what could steer a terminal or break the line written out as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _print_entry(entry: dict[str, object]) -> None:
    decision = str(entry["decision"])
    parts = [f"{entry['seq']:>6}", str(entry["time"]), typer.style(f"{decision:<6}", fg=_COLOURS[decision])]
    parts += [printable(str(entry[name])) for name in ("action", "actor", "resource")]
    parts += [f"{name}={printable(str(entry[name]))}" for name in ("run", "round", "rule") if entry[name] is not None]
    detail = entry["detail"]
    if isinstance(detail, dict):
        parts += [f"{name}={printable(str(value))}" for name, value in detail.items()]
    if entry["reason"] is not None:
        parts.append(f"- {printable(str(entry['reason']))}")
    typer.echo("  ".join(parts))


def _entries(folder: Path) -> Iterator[dict[str, object]]:
    from audit.verify import check_entry, read_segments

    for seq, (_, line) in enumerate(read_segments(folder, "jsonl")):
        yield check_entry(line, seq)


def _stop(message: str, *, status: int) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(status)


def _check_directory(directory: str) -> None:
    from pathlib import Path

    if not Path(directory).is_dir():
        _stop(f"{directory} is not a directory: give the directory of a log", status=2)


def _read_key(argument: str) -> str:
    """A verifier key given as itself, or as a file that holds it."""
    from pathlib import Path

    from audit.verify import VerificationFailure, parse_vkey

    try:
        path = Path(argument)
        if path.is_file():
            with path.open(encoding="ascii", errors="replace") as file:
                argument = file.read(1024).strip()
        parse_vkey(argument)
    except VerificationFailure as failure:
        _stop(printable(str(failure)), status=2)
    except OSError as error:
        _stop(f"cannot read {argument}: {error.strerror}", status=2)
    return argument

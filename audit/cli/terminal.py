"""What every command here shares: arguments, errors as one sentence, text that cannot steer a terminal."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Annotated, NoReturn

import click
import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Iterator

Directory = Annotated[str, typer.Argument(metavar="DIR", help="Directory of a log: checkpoint, log.vkey, segments/.")]
Directories = Annotated[list[str], typer.Argument(metavar="DIR...", help="Directories of logs, one for each party.")]
Key = Annotated[
    str | None,
    typer.Option(metavar="VKEY_OR_FILE", help="Verifier key, or a file with it, from a source you trust."),
]
Keys = Annotated[
    list[str] | None,
    typer.Option("--key", metavar="VKEY_OR_FILE", help="Verifier key of one of the logs; may be given several times."),
]

COLOURS = {"allow": "green", "deny": "red", "record": "cyan"}


class Command(TyperCommand):
    """A command that takes nothing empty, and no option without effect: one that is given twice is an error."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Look at the options as they were given, then read them as ever."""
        given, _, order = self.make_parser(ctx).parse_args(list(args))
        for argument in self.params:
            value = given.get(argument.name or "") if isinstance(argument, click.Argument) else None
            if (value == "" or (isinstance(value, list | tuple) and "" in value)) and not ctx.resilient_parsing:
                # It would be the directory in which the command runs.
                raise click.UsageError(f"got an empty {argument.make_metavar(ctx)}, expected a path or a number", ctx)
        for option in order:
            value = given.get(option.name or "")
            if not isinstance(option, click.Option) or option.is_flag or ctx.resilient_parsing:
                continue
            if value == "" or (isinstance(value, list) and "" in value):
                raise click.UsageError(f"got an empty {option.opts[0]}: give a value, or leave it out", ctx)
            if not option.multiple and order.count(option) > 1:
                raise click.UsageError(f"got {option.opts[0]} {order.count(option)} times, expected it once", ctx)
        return super().parse_args(ctx, args)


def printable(text: str) -> str:
    """The text with what could steer a terminal or break the line written out as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def json_text(text: str) -> str:
    """JSON with what nobody sees written out as JSON does; it says the same."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def say(text: str, *, err: bool = False) -> None:
    """Print one line, whatever is in it."""
    typer.echo(printable(text), err=err)


def stop(message: str, *, status: int) -> NoReturn:
    """End with one sentence on standard error."""
    say(f"Error: {message}", err=True)
    raise typer.Exit(status)


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Turn this package's errors, and those of files, into one sentence and an exit status."""
    from audit.errors import AuditError
    from audit.query import SelectionError
    from audit.verify import VerificationFailure

    try:
        yield
    except SelectionError as error:
        stop(printable(str(error)), status=2)
    except (AuditError, VerificationFailure) as error:
        stop(printable(str(error)), status=1)
    except BrokenPipeError:
        raise
    except OSError as error:
        stop(f"cannot use {error.filename or 'a file'}: {error.strerror or error}", status=1)


def check_directory(directory: str) -> None:
    """Stop unless there is such a directory."""
    from pathlib import Path

    if not Path(directory).is_dir():
        stop(f"{directory} is not a directory: give the directory of a log", status=2)


def read_key(argument: str) -> str:
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
        stop(printable(str(failure)), status=2)
    except OSError as error:
        stop(f"cannot read {argument}: {error.strerror}", status=2)
    return argument


def read_keys(arguments: str | list[str] | None) -> list[str]:
    """Verifier keys, each as itself or as a file; none where the option was not given."""
    given = [arguments] if isinstance(arguments, str) else arguments or []
    return [read_key(argument) for argument in given]

"""The `concordat` command: one group a persona, each loaded only when it is used."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import NoReturn

import click

from federation.errors import ConcordatError, Exit
from federation.processes import end_with_parent_if_asked
from federation.terminal import say, visible_output

GROUPS = {
    "federation": ("coordinator.cli:federation", "Found a federation, enrol members, show the manifest."),
    "coordinator": ("coordinator.cli:coordinator", "Run the coordinator."),
    "silo": ("silo.cli:app", "Join a federation as a silo; run its gate and its worker."),
    "data": ("silo.worker.data.cli:data", "Describe a dataset in a contract and hold the data against it."),
    "policy": ("silo.governance.cli:policy", "Write, test, compare, sign and explain a policy."),
    "audit": ("audit.cli:app", "Verify and read an audit log."),
    "run": ("silo.governance.cli:run", "Try, submit, follow and fetch training runs."),
    "demo": ("demo.cli:app", "Found a federation on this machine and train together."),
}

EPILOG = """Exit codes: 0 done; 1 failed or did not verify; 2 wrong usage; 3 refused by a policy or a peer;
4 a peer does not answer; 130 interrupted."""


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The subcommands in the order of the table."""
        return list(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one subcommand."""
        if cmd_name not in GROUPS:
            return None
        import typer

        module, _, name = GROUPS[cmd_name][0].partition(":")
        command = typer.main.get_command(getattr(importlib.import_module(module), name))
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the subcommands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in GROUPS.items()])


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="concordat-fl", message="concordat %(version)s")
def command() -> None:
    """Federated learning between institutions that may not pool their data.

    Start with `concordat demo`: it founds a federation on this machine, trains, refuses, and verifies.
    """


def main() -> None:
    """Run the command; a user's mistake ends in one sentence and the exit code that fits it."""
    end_with_parent_if_asked()
    with visible_output():
        _run()


def _run() -> NoReturn:
    try:
        # click returns what a command's Exit carries, where it would raise it in standalone mode.
        status = command.main(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        sys.exit(Exit.USAGE)
    except click.ClickException as error:
        _show(error)
        sys.exit(Exit.USAGE)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted", err=True)
        sys.exit(Exit.INTERRUPTED)
    except ConcordatError as error:
        say(f"concordat: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output is gone; nothing more can be told, not even by the interpreter's own last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.FAILED)
    except OSError as error:
        say(f"concordat: the machine refused: {error}", err=True)
        sys.exit(Exit.FAILED)
    except Exception as error:  # noqa: BLE001  a fault of our own is shown, by way of what makes it visible
        if _is_sentence(error):
            for line in str(error).splitlines():  # a document's problems, one a line
                say(f"concordat: {line}", err=True)
        else:
            traceback.print_exc()
        sys.exit(Exit.FAILED)
    sys.exit(status if isinstance(status, int) else Exit.OK)


def _show(error: click.ClickException) -> None:
    """What is wrong with a command line, as click says it, but in one line: it repeats what was given."""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try '{error.ctx.command_path} --help' for help.\n", err=True)
    say(f"Error: {error.format_message()}", err=True)


def _is_sentence(error: Exception) -> bool:
    """Whether an error is of the policies' or the audit's family, whose messages are written for people."""
    for module, name in (("policies.errors", "PolicyError"), ("audit.errors", "AuditError")):
        loaded = sys.modules.get(module)
        if loaded is not None and isinstance(error, getattr(loaded, name)):
            return True
    return False

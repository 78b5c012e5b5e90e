"""`concordat policy`: begin a policy, check it, test it, ask it, compare it."""

import typer

from policies.cli.checking import rules, validate
from policies.cli.comparing import diff
from policies.cli.explaining import explain
from policies.cli.linting import lint
from policies.cli.testing import run_tests
from policies.cli.writing import new, schema

app = typer.Typer(
    add_completion=False,
    name="policy",
    no_args_is_help=True,
    help="Write a silo's policy, test it before it is live, and ask it why something is refused.",
    epilog="Start with: concordat policy new",
)

app.command()(new)
app.command()(schema)
app.command()(validate)
app.command()(lint)
app.command("test")(run_tests)
app.command()(explain)
app.command()(diff)
app.command()(rules)

"""`concordat policy test`."""

from pathlib import Path
from typing import Annotated

import typer

Paths = Annotated[
    list[Path] | None,
    typer.Argument(help="Test files, or directories searched for *.test.yaml.", show_default="."),
]
RequireTests = Annotated[
    bool,
    typer.Option(
        "--require-tests", help="Fail unless a case of each policy is allowed and each rule it uses decides a case."
    ),
]
JUnit = Annotated[Path | None, typer.Option(help="Write the result as JUnit XML.", show_default=False)]


def run_tests(paths: Paths = None, require_tests: RequireTests = False, junit: JUnit = None) -> None:
    """Run the tests of policies: requests in YAML with the decision expected of each (kind: PolicyTest).

    Prints every case that was decided otherwise, with the decision, its place and its reason. Exit status 1 if any
    case failed, any file could not be read or, with --require-tests, anything is not covered.
    """
    from policies.testing import report
    from policies.testing.junit import junit as as_junit
    from policies.testing.suite import run_paths
    from policies.wording import visible

    searched = paths or [Path()]
    suite = run_paths(searched, require_tests=require_tests)
    for _, text in suite.problems:
        typer.echo(text, err=True)
    for line in (*report.failures(suite.tested), *report.gaps(suite.coverages)):
        typer.echo(line, err=True)
    if not suite.files:
        where = ", ".join(visible(path) for path in searched)
        typer.echo(f"got no test in {where}, expected a file that ends in .test.yaml", err=True)
    typer.echo(report.summary(suite.tested))
    if suite.coverages:
        typer.echo(report.covered(suite.coverages))
    if junit is not None:
        junit.write_bytes(as_junit(suite.tested, suite.coverages, suite.problems))
    if not suite.passed:
        raise typer.Exit(1)

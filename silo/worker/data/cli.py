"""`concordat data`: for whoever owns the data. These commands read data where they lie; no peer sees the output."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from federation.terminal import printable, say

data = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Describe a dataset in a contract, hold the data against it, draft statistics, make up a table like it.",
)

ContractFile = Annotated[Path, typer.Argument(help="The contract (kind: Dataset).", show_default=False)]


@data.command()
def describe(
    source: Annotated[
        Path,
        typer.Argument(
            help="A CSV or Parquet file, a directory of Parquet files or of a FHIR export, or a YAML file with a "
            "contract's source, such as a query.",
            show_default=False,
        ),
    ],
    name: Annotated[str | None, typer.Option(help="The dataset's name.", show_default="the file's")] = None,
) -> None:
    """Draft a contract from data: types, ranges, missing values. Print it; complete it before you use it.

    A column whose name suggests an identifier is drafted without any of its values, and so is every other text
    of which some value is in fewer than ten rows. A FHIR export is drafted with the columns that its resources
    suggest, each from ten patients or more.
    """
    from silo.worker.data.owner.describe import draft
    from silo.worker.data.owner.locating import located

    found, suggested = located(source)
    typer.echo(draft(found, name or suggested), nl=False)


@data.command()
def check(
    contract: ContractFile,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write the report as one HTML page.", show_default=False)] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Keep this check's figures here; the next one is compared with them.", show_default=False),
    ] = None,
) -> None:
    """Hold the data against their contract and report whether they are ready. Exit code 1 where they are not."""
    import json

    from federation.home import read_limited, replace_file
    from silo.dataset.limits import LIMITS
    from silo.dataset.loading import load_contract
    from silo.dataset.readiness import parse_summaries
    from silo.worker.data.owner.check import check as hold_against
    from silo.worker.data.owner.page import lines, page

    found_contract = load_contract(contract)
    earlier = None
    if record is not None and record.exists():
        earlier = parse_summaries(read_limited(record, LIMITS.record))
        if earlier is None:
            say(f"{record}: not an earlier check's figures; nothing to compare with", err=True)
    found = hold_against(found_contract, earlier)
    text = json.dumps(found.fields(), indent=2, ensure_ascii=False)
    if html is not None:
        replace_file(html, page(found).encode())
    if record is not None:
        replace_file(record, text.encode(), 0o600)
    typer.echo(text if as_json else "\n".join(map(printable, lines(found))))
    if not found.ready:
        raise typer.Exit(1)


@data.command()
def statistics(
    contract: ContractFile,
    purpose: Annotated[str, typer.Option(help="What the statistics are for, a code of the policies' vocabulary.")],
) -> None:
    """Draft a run of statistics from a contract alone: its columns, with the ranges that it declares. Print it.

    The file is for the operator, who signs it: concordat run stats.
    """
    from silo.dataset.loading import load_contract
    from silo.worker.data.owner.survey import survey

    typer.echo(survey(load_contract(contract).dataset, purpose), nl=False)


@data.command()
def mock(
    contract: ContractFile,
    out: Annotated[Path, typer.Option(help="A directory for the table and its contract.", show_default=False)],
    rows: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many rows.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same table.")] = 0,
) -> None:
    """Make up a table that satisfies a contract, from the contract alone, with a contract of its own beside it."""
    from federation.home import replace_file
    from silo.dataset.loading import load_contract
    from silo.worker.data.owner.mock import contract as mocked_contract
    from silo.worker.data.owner.mock import table

    found = load_contract(contract)
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{found.name}.csv"
    replace_file(file, table(found.dataset, rows, seed).encode())
    beside = out / f"{found.name}.dataset.yaml"
    replace_file(beside, mocked_contract(found.dataset, file.name).encode())
    say(f"{file}: {rows} made-up rows; {beside}: their contract")

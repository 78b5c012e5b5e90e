"""`concordat demo`: the whole kit on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from federation.terminal import say

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def demo(
    example: Annotated[
        str,
        typer.Option(
            help="breast_cancer (data included), heart (UCI Heart Disease) or credit (UCI credit cards, private)."
        ),
    ] = "breast_cancer",
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="heart, credit: directory with the published files (processed.*.data, "
            "taiwan_credit_default.csv); else they are downloaded."
        ),
    ] = None,
    data_url: Annotated[str | None, typer.Option(help="heart, credit: where to download them from.")] = None,
    directory: Annotated[
        Path, typer.Option(help="Where the federation is founded; an earlier demo there is replaced.")
    ] = Path("concordat-demo"),
) -> None:
    """Found a federation of hospitals or banks on this machine, train together, be refused, and verify every log.

    One coordinator, and per silo one gate and one worker, are processes of their own over mutually authenticated
    TLS 1.3.
    """
    from demo.federate import demonstrate
    from demo.founding import clear, found
    from demo.report import write_report
    from demo.scenarios import DataSource, scenario

    chosen = scenario(example)
    if (data_dir or data_url) and not chosen.published:
        from federation.errors import UsageError

        raise UsageError("--data-dir and --data-url are for --example heart and --example credit")
    place = directory.resolve()
    clear(place)
    heading(f"1. Found the federation: {chosen.title}")
    founded = found(place, chosen, DataSource(data_dir, data_url))
    for member in founded.manifest.federation.members:
        say(f"  {member.name:16} {member.role.value:12} {member.country}")
    say(f"  data: {chosen.provenance}")
    outcome = demonstrate(chosen, founded, typer.echo, heading)
    heading(f"{7 if outcome.spent else 6}. Verify every audit log from the outside")
    for log in outcome.logs:
        say(f"  {log['member']:16} {log['size']:>4} entries verified, root {str(log['root'])[:16]}…  {log['path']}")
    report = write_report(place / "report.html", chosen, founded, outcome)
    model = founded.coordinator.runs / outcome.run_id / "model.npz"
    typer.echo(f"\nmodel:    {model}\npassport: {outcome.passport}\nlogs:     {place / 'logs'}\nreport:   {report}")
    say(f"done in {outcome.seconds:.0f} s")


def heading(text: str) -> None:
    """A step's title."""
    typer.echo("\n" + typer.style(text, bold=True))

"""`concordat audit`: check logs, read them, and hand over what they prove."""

from __future__ import annotations

import typer

from audit.cli import custody, evidence, handover, reading, terminal

app = typer.Typer(
    add_completion=False,
    name="audit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Check, read and hand over transparency logs. Everything here works offline; only `forward` uses the network.",
)

for _command in (
    evidence.verify,
    evidence.key,
    evidence.prove,
    evidence.verify_proof,
    evidence.diff,
    reading.show,
    reading.query,
    reading.watch,
    handover.export,
    handover.report,
    handover.bundle,
    handover.forward,
    custody.acknowledge_rollback,
    custody.erase,
    custody.retention,
):
    app.command(cls=terminal.Command)(_command)

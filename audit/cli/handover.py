"""Commands that hand evidence over: to other systems, to a regulator, to a collector of logs."""

from __future__ import annotations

from typing import Annotated

import typer

from audit.cli.reading import Action, Actor, Dataset, Decision, Rule, Run, Since, Until, selection
from audit.cli.terminal import Directories, Directory, Key, Keys, check_directory, printable, read_keys, say, sentences

TheRun = Annotated[str, typer.Option("--run", metavar="ID", help="The run.")]
Payloads = Annotated[
    bool,
    typer.Option(
        "--payloads",
        help="Add the payloads of the run's entries, such as metrics. A copy outlives an erasure in the log.",
    ),
]


def export(
    directory: Directory,
    *,
    form: Annotated[str, typer.Option("--format", metavar="FORMAT", help="fhir, ocsf, cef, csv, jsonl or ropa.")],
    out: Annotated[str, typer.Option(metavar="DIRECTORY", help="A new directory.")],
    since: Since = "",
    until: Until = "",
    run: Run = "",
    dataset: Dataset = "",
    actor: Actor = "",
    rule: Rule = "",
    decision: Decision = "",
    action: Action = "",
    key: Key = None,
) -> None:
    """Verify the log, then export the selected entries in the form of another system.

    fhir: HL7 FHIR R4 AuditEvent after IHE BALP, as NDJSON. ocsf: API and Datastore Activity. cef: ArcSight. csv: safe
    to open in a spreadsheet. jsonl: as they stand. ropa: an extract for the record of processing activities
    (GDPR Article 30).

    The directory also holds the entries as they stand, an inclusion proof of each, the signed checkpoint and a
    manifest. `verify` checks it without the log, and that the form is what the entries give.
    """
    from audit.export import package
    from audit.snapshot import take

    wanted = selection(since, until, run, dataset, actor, rule, decision, action)
    check_directory(directory)
    with sentences():
        exported = package.write(take(directory, read_keys(key)), wanted, form, out)
    say(f"wrote {out}: {exported.entries} of {exported.size} entries of {exported.origin} as {form}")


def report(
    directories: Directories,
    *,
    run: TheRun,
    out: Annotated[str, typer.Option(metavar="FILE", help="The page to write; overwritten.")] = "report.html",
    payloads: Payloads = False,
    only_run: Annotated[
        bool,
        typer.Option(
            "--only-run", help="Embed only the run's entries, each with its proof, and not what the logs say of others."
        ),
    ] = False,
    keys: Keys = None,
) -> None:
    """Write one page about one run, for a regulator: self-contained, and verified in the reader's browser, offline.

    Every log is verified first. Give the logs of all parties: the page compares what they recorded. A log of more
    than 20,000 entries is embedded as with --only-run; the page then says that others could have been left out.
    """
    from pathlib import Path

    from audit.report import evidence, page
    from audit.snapshot import take_all

    for directory in directories:
        check_directory(directory)
    with sentences():
        snapshots = take_all(directories, read_keys(keys))
        data = page.build(evidence.collect(snapshots, run, payloads=payloads, only_run=only_run))
        logs = page.check(data)
        Path(out).write_bytes(data)
    say(f"wrote {out}: run {printable(run)}, {sum(log.entries for log in logs)} entries of {len(logs)} logs")


def bundle(
    directories: Directories,
    *,
    run: TheRun,
    out: Annotated[str, typer.Option(metavar="FILE", help="The archive to write.")] = "bundle.zip",
    payloads: Payloads = False,
    keys: Keys = None,
) -> None:
    """Put the logs of all parties of a run into one archive, for an auditor.

    Every log is verified first, and goes in whole, so that it shows that nothing about the run was left out. The
    same logs give the same archive, byte for byte. `verify` checks it, and so does audit/verify.py alone.
    """
    from audit import bundle as bundles
    from audit.snapshot import take_all

    for directory in directories:
        check_directory(directory)
    with sentences():
        made = bundles.write(take_all(directories, read_keys(keys)), run, out, payloads=payloads)
    say(
        f"wrote {out}: run {printable(run)}, {len(made.logs)} logs, {made.entries} entries, "
        f"{made.about_run} of them about the run, {made.payloads} payloads"
    )


def forward(
    directory: Directory,
    *,
    to: Annotated[str, typer.Option(metavar="HOST:PORT", help="The collector; 6514 is the registered port.")],
    ca: Annotated[str, typer.Option(metavar="FILE", help="Certificates (PEM) that the collector's must chain to.")],
    cursor: Annotated[
        str, typer.Option(metavar="FILE", help="Where to keep how far it got; default: forward.cursor in DIR.")
    ] = "",
    certificate: Annotated[
        str, typer.Option(metavar="FILE", help="Our certificate and its key (PEM, mode 0600), if asked for.")
    ] = "",
    key: Key = None,
    once: Annotated[bool, typer.Option("--once", help="Forward what is there and end.")] = False,
) -> None:
    """Follow the log and send each entry to a syslog collector (RFC 5424 over TLS, RFC 5425). Ctrl-C ends it.

    A mirror, never the record: syslog has no acknowledgement. The cursor moves only over what the collector's machine
    has acknowledged on a connection that then stood for five more seconds, or was closed in order; after a broken
    connection everything since then is sent again, so that entries may arrive twice. `meta sequenceId` is the
    entry's number plus one: a gap in it is an entry to be looked up in the log.

    Nothing is sent that does not verify, and nothing more where the log does not continue what was sent.
    """
    from pathlib import Path

    from audit.forward import Forwarder, Target

    check_directory(directory)
    with sentences():
        target = Target.parse(to, ca, certificate or None)
        place = Path(cursor) if cursor else Path(directory) / "forward.cursor"
        forwarder = Forwarder(directory, target, place, read_keys(key))
        forwarder.run(once=once, say=lambda text: typer.echo(printable(text), err=True))

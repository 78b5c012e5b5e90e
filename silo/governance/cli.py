"""Commands beside the policy language's own: those that need keys, and the preflight of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from federation.cli.run import app as run
from federation.terminal import say
from policies.cli import app as policy
from policies.cli.reading import AtOption, moment

PolicyFile = Annotated[Path, typer.Argument(help="The policy (kind: SiloPolicy).", show_default=False)]
KeyFile = Annotated[Path, typer.Option("--key", help="Your private key, mode 0600.", show_default=False)]
Config = Annotated[Path, typer.Option("--config", help="The gate's configuration (kind: Silo).")]


@policy.command("key")
def make_key(
    path: Annotated[Path, typer.Argument(help="Where to write the private key.", show_default=False)],
) -> None:
    """Make a key with which to sign policies or approvals: PATH, mode 0600, and its public half beside it.

    The private key stays with you. Give the public half, PATH.pub.pem, to whoever writes the gate's silo.yaml.
    """
    from federation.home import replace_file
    from federation.identity import fingerprint, new_key, public_key_pem, save_private_key

    key = new_key()
    save_private_key(path, key)
    public = public_key_pem(key.public_key())
    beside = path.with_name(path.name + ".pub.pem")
    replace_file(beside, public)
    say(f"{path}: private, keep it; {beside}: public, fingerprint {fingerprint(public)}")


@policy.command()
def sign(
    file: PolicyFile,
    key: KeyFile,
    signer: Annotated[str, typer.Option(help="Your name, as it is to stand in the signature.", show_default=False)],
) -> None:
    """Sign a policy: its name, version and digest, in POLICY.sig beside it.

    A policy that is not valid is not signed. Sign again after every change: raise metadata.version first.
    """
    from datetime import UTC, datetime

    from federation.home import replace_file
    from federation.identity import load_private_key
    from federation.signed_policy import sign_policy, signature_path
    from policies.model import load_policy

    document = load_policy(file)
    text = sign_policy(document, signer, load_private_key(key), datetime.now(UTC))
    replace_file(signature_path(file), text.encode())
    metadata = document.model.metadata
    say(f"{signature_path(file)}: {metadata.name} version {metadata.version}, signed by {signer}")


@policy.command()
def activate(file: PolicyFile, config: Config) -> None:
    """Put a policy in the place from which the gate reads it.

    Refused unless the signature is that of the policy_signer in silo.yaml, if one is named, and the version is later
    than the active one's: nobody can return to an older policy by copying its file. A running gate takes the new
    policy at once and records the activation in the audit log.
    """
    from silo.governance.activation import activate as put

    done = put(file, config)
    metadata = done.policy.model.metadata
    before = f"version {done.before.model.metadata.version}" if done.before else "no policy"
    signed = "signature verified" if done.signed else "not signed: silo.yaml names no policy_signer"
    say(f"{metadata.name} version {metadata.version} is active, before it {before}; {signed}")


def approve(
    run_file: Annotated[Path, typer.Argument(help="The run.yaml, as it will be submitted.", show_default=False)],
    config: Config,
    reviewer: Annotated[str, typer.Option(help="Your name, as silo.yaml has it.", show_default=False)],
    key: KeyFile,
    app: Annotated[
        Path | None, typer.Option(help="The app's bundle (.fab).", show_default="built from the run's app.path")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show every file, not only what changed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Review an app with its run, and sign your approval.

    Shows the app's files, its authors, the run, and the difference to the version approved last. The approval names
    the digests of app, run, policy and dataset section: if one of them changes it counts no more. Nobody approves
    an app they wrote.
    """
    from datetime import UTC, datetime

    from federation.identity import load_private_key
    from silo.governance.review import check_reviewer, prepare

    signing_key = load_private_key(key)
    check_reviewer(config, reviewer, signing_key)
    review = prepare(run_file, config, app)
    for line in review.lines(full=full):
        typer.echo(line)  # whole: what a reviewer is not shown is not approved
    if not yes:
        typer.confirm(f"approve this as {reviewer}?", abort=True)
    say(f"approved: {review.approve(reviewer, signing_key, datetime.now(UTC))}")


def revoke_approval(
    file: Annotated[Path, typer.Argument(help="The approval (*.approval.yaml).", show_default=False)],
    config: Config,
    key: KeyFile,
    reason: Annotated[str, typer.Option(help="Why.", show_default=False)],
) -> None:
    """Take back an approval that you gave; the gate counts it no more."""
    from datetime import UTC, datetime

    from federation.identity import load_private_key
    from silo.governance.review import revoke

    say(f"revoked: {revoke(file, config, load_private_key(key), reason, datetime.now(UTC))}")


@run.command()
def preflight(
    run_file: Annotated[Path, typer.Argument(help="The run.yaml (kind: Run).", show_default=False)],
    policy_file: Annotated[Path, typer.Option("--policy", help="The silo's policy.", show_default=False)],
    manifest: Annotated[
        Path | None,
        typer.Option(help="The federation's manifest, for who takes part and where.", show_default=False),
    ] = None,
    silo: Annotated[str | None, typer.Option(help="Which of its silos the policy is of.", show_default=False)] = None,
    operator: Annotated[
        str | None, typer.Option(help="Who will submit the run.", show_default="the manifest's only operator")
    ] = None,
    app: Annotated[
        Path | None, typer.Option(help="The app: its directory or bundle (.fab).", show_default="the run's app.path")
    ] = None,
    at: AtOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the trace as JSON.")] = False,
) -> None:
    """Ask a policy about a run before it is submitted: what every rule of every stage says.

    A rule that depends on what only the silo knows (rows, approvals, its log, what was spent) is open. Exit status 3
    if a rule refuses, 0 if none does, though open ones may.
    """
    import json

    from silo.governance import preflight as flight

    stages = flight.preflight(run_file, policy_file, moment(at), manifest, silo, operator, app)
    if as_json:
        typer.echo(json.dumps(flight.plain(stages), indent=2, ensure_ascii=False))
    else:
        for line in flight.lines(stages):
            say(line)
    if any(stage.refused for stage in stages):
        raise typer.Exit(3)


def approve_release(
    passport: Annotated[Path, typer.Argument(help="The passport of the run's model (.json).", show_default=False)],
    to: Annotated[str, typer.Option("--to", help="The operator who may have the model.", show_default=False)],
    home: Annotated[Path, typer.Option("--home", help="The gate's home.", show_default=False)],
    config: Config,
    reviewer: Annotated[str, typer.Option(help="Your name, as silo.yaml has it.", show_default=False)],
    key: KeyFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Agree to hand the final model of a run to one operator.

    Shows the model's passport, verified against the federation's manifest, and signs its run, weights and receiver. The
    policy's section `release` says how many have to agree; the gate counts when the operator asks for the release.
    """
    from datetime import UTC, datetime

    from federation.home import Home, read_limited
    from federation.identity import load_private_key
    from federation.limits import LIMITS
    from federation.manifest import load_manifest
    from federation.passport import lines, verify
    from silo.governance.review import agree_to_release, check_reviewer

    signing_key = load_private_key(key)
    check_reviewer(config, reviewer, signing_key)
    manifest = load_manifest(Home(home))
    found = verify(read_limited(passport, LIMITS.passport), manifest)
    for line in lines(found):
        say(line)
    receiver = manifest.federation.member(to)
    if not yes:
        typer.confirm(f"hand this model to {to} ({receiver.role.value}, {receiver.country}) as {reviewer}?", abort=True)
    path = agree_to_release(config, found.statement.predicate, to, reviewer, signing_key, datetime.now(UTC))
    say(f"agreed: {path}")

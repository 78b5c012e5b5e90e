"""`concordat policy new` and `concordat policy schema`."""

from pathlib import Path
from typing import Annotated

import typer

KINDS = ("SiloPolicy", "PolicyTest", "PolicyRequest", "PolicySignature")


def new(
    source: Annotated[
        str | None, typer.Option("--from", help="Which starter policy.", show_default="list them")
    ] = None,
    into: Annotated[Path, typer.Option("--into", help="Directory for policy.yaml and policy.test.yaml.")] = Path(),
) -> None:
    """Begin a policy: copy a starter policy and its test, to be changed. Without --from, list the starters.

    Each is a starting point with comments that cite the law, and no legal advice. No file is overwritten.
    """
    from policies.errors import PolicyError
    from policies.library import POLICY, TEST, starter, starters
    from policies.wording import visible

    if source is None:
        for name, title in starters().items():
            typer.echo(f"{name:28} {title}")
        return
    texts = starter(source)
    targets = [into / POLICY, into / TEST]
    for target in targets:
        if target.exists():
            raise PolicyError(f"{target} exists, expected a directory without it: give another with --into")
    into.mkdir(parents=True, exist_ok=True)
    for target, text in zip(targets, texts, strict=True):
        target.write_text(text, encoding="utf-8")
        typer.echo(visible(target))


def schema(
    kind: Annotated[str, typer.Option(help=f"Kind of document: {', '.join(KINDS)}.")] = KINDS[0],
) -> None:
    """Print the JSON Schema of a kind of document, for editors that check while you type.

    Save it, and begin a file with: # yaml-language-server: $schema=policy.schema.json
    """
    import json

    from policies.bundle import PolicySignature
    from policies.document import json_schema
    from policies.model import SiloPolicy
    from policies.testing.model import PolicyRequest, PolicyTest

    models = dict(zip(KINDS, (SiloPolicy, PolicyTest, PolicyRequest, PolicySignature), strict=True))
    if kind not in models:
        raise typer.BadParameter(f"got {kind}, expected one of: {', '.join(models)}", param_hint="--kind")
    typer.echo(json.dumps(json_schema(models[kind]), indent=2, ensure_ascii=False))

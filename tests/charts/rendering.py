"""Charts rendered by the real Helm, and what is asked of the objects."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
CHARTS = ROOT / "charts"
GOLDEN = Path(__file__).resolve().parent / "golden"
HELM = str(Path(sys.executable).with_name("helm"))
CASES = sorted((path.parent.parent.name, path.name.removesuffix("-values.yaml")) for path in CHARTS.glob("*/ci/*.yaml"))
MADE_ANEW = ("tls.crt", "tls.key", "ca.crt")

Object = dict[str, Any]


@dataclass
class Rendered:
    """The objects of a release."""

    objects: list[Object]

    def kind(self, kind: str) -> list[Object]:
        return [one for one in self.objects if one["kind"] == kind]

    def one(self, kind: str, ending: str = "") -> Object:
        (found,) = [one for one in self.kind(kind) if one["metadata"]["name"].endswith(ending)]
        return found

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Every pod or pod template: its name, and its metadata and spec."""
        for one in self.objects:
            if one["kind"] == "Pod":
                yield one["metadata"]["name"], one
            elif one["kind"] in {"StatefulSet", "Deployment", "Job"}:
                yield f"{one['kind']}/{one['metadata']['name']}", one["spec"]["template"]

    def pod(self, component: str) -> Object:
        return next(
            pod for _, pod in self.pods() if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component
        )


@dataclass
class HelmRefusedError(Exception):
    """Helm did not render."""

    said: str
    arguments: Sequence[str] = field(default=())


def helm(*arguments: str) -> str:
    """Run Helm with no cluster and no settings of the person who runs the tests; raises HelmRefusedError."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    done = subprocess.run(
        [HELM, *arguments], capture_output=True, text=True, check=False, env={**kept, "HOME": "/nonexistent"}
    )
    if done.returncode != 0:
        raise HelmRefusedError(done.stderr + done.stdout, arguments)
    return done.stdout


def template(chart: str, case: str, sets: Mapping[str, str] | None = None, *more: str) -> str:
    """The text of a release `site` in namespace `research`."""
    changes = [word for key, value in (sets or {}).items() for word in ("--set-json", f"{key}={value}")]
    values = CHARTS / chart / "ci" / f"{case}-values.yaml"
    return helm("template", "site", str(CHARTS / chart), "-n", "research", "-f", str(values), *changes, *more)


def parse(text: str) -> Rendered:
    return Rendered([one for one in YAML(typ="safe", pure=True).load_all(text) if one])


@lru_cache
def rendered(chart: str, case: str) -> Rendered:
    return parse(template(chart, case))


def comparable(text: str) -> str:
    """A release's text with what is made anew each time taken out."""
    lines = []
    for line in text.splitlines():
        key = line.strip().partition(":")[0]
        lines.append(f"  {key}: (made anew)" if key in MADE_ANEW and line.startswith("  ") and len(line) > 60 else line)
    return "\n".join(lines) + "\n"


def golden_path(chart: str, case: str) -> Path:
    return GOLDEN / f"{chart}-{case}.yaml"


if __name__ == "__main__":
    for chart, case in CASES:
        golden_path(chart, case).write_text(comparable(template(chart, case)))

"""A gate of the kit's own code whose every reply can be changed after all was decided: a silo's party that lies.

What it changes stands in a JSON file that the environment names, read anew for each reply: by the kind of the message,
the `config` and `metrics` that take the place of its own (null takes one away), and the `weights` all values become.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from federation.cli import main
from federation.wire import Envelope
from silo.gate.fleet import FleetNode, Task

LIES = "CONCORDAT_TEST_LIES"
honest_reply = FleetNode.reply


def changed(values: dict[str, Any], lies: dict[str, Any]) -> dict[str, Any]:
    """A record with a lie's values in it."""
    return {name: value for name, value in {**values, **lies}.items() if value is not None}


def reply(self: FleetNode, task: Task, envelope: Envelope) -> None:
    path = Path(os.environ[LIES])
    lies = json.loads(path.read_text()).get(task.kind, {}) if path.exists() else {}
    config = changed(dict(envelope.config), lies.get("config", {}))
    metrics = changed(dict(envelope.metrics), lies.get("metrics", {}))
    weights = envelope.weights
    if weights is not None and "weights" in lies:
        weights = np.full(weights.size + lies.get("more", 0), lies["weights"], dtype=np.float32)
    honest_reply(self, task, replace(envelope, config=config, metrics=metrics, weights=weights))


if __name__ == "__main__":
    FleetNode.reply = reply  # type: ignore[method-assign]
    sys.exit(main())

"""A process that has TensorFlow and runs checks: functions named `check_…` of the modules given as arguments.

It reads the name of a check a line, `module.check_…`, and prints what came of it, as JSON, a line.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")

import pytest

from silo.worker.training.model import configure


def serve(modules: list[str]) -> None:
    """Run the checks whose names come in, each answered by one line."""
    configure(1)
    found = {name: importlib.import_module(name) for name in modules}
    for line in sys.stdin:
        module, _, check = line.strip().partition(".")
        try:
            getattr(found[module], check)()
            said = {"problem": None}
        except (Exception, pytest.fail.Exception):  # noqa: BLE001  whatever goes wrong is the check's result
            said = {"problem": traceback.format_exc()}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1:])

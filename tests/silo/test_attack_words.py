"""Words that an app puts into an exception, for the gate to pass on: the kind of the exception alone leaves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from policies.errors import PolicyError
from silo.channel import Frame
from silo.worker.errors import AppError, DataError, WorkError, kind_of
from silo.worker.trainer import Trainer

SECRET = "patient 17 is ill"


class Same(type):
    """A class that equals any other."""

    def __eq__(cls, other: object) -> bool:
        return True

    def __hash__(cls) -> int:
        return hash(ValueError)


NAMED = Same(SECRET, (Exception,), {"__module__": "builtins"})


@pytest.mark.parametrize("kind", [type(SECRET, (ValueError,), {"__module__": "builtins"}), NAMED])
def test_no_kind_that_an_app_made_is_named(kind: type[Exception]) -> None:
    assert kind_of(kind()) == "an exception of its own"
    assert kind_of(ValueError(SECRET)) == "ValueError"
    assert kind_of(OSError(SECRET)) == "OSError"


def trainer(scratch: Path, code: str, place: Path) -> Trainer:
    """A trainer whose work is this code, in a file at this place."""
    made = Trainer(cast(Any, SimpleNamespace()), scratch)
    names: dict[str, Any] = {
        "WorkError": WorkError,
        "AppError": AppError,
        "PolicyError": PolicyError,
        "DataError": DataError,
    }
    exec(compile(code, str(place), "exec"), names)
    made._operations["train"] = names["work"]
    return made


@pytest.mark.parametrize("kind", ["WorkError", "AppError", "DataError", "PolicyError"])
def test_an_app_that_raises_the_kits_own_kinds_says_nothing_by_them(tmp_path: Path, kind: str) -> None:
    scratch = tmp_path / "trainer-1"
    code = f"def work(frame):\n    raise {kind}({SECRET!r})\n"
    said = trainer(scratch, code, scratch / "app" / "model.py").answer(Frame("train", {}))
    assert said.fields["message"] == "training raised an exception of its own"
    said = trainer(scratch, code, tmp_path / "kit.py").answer(Frame("train", {}))
    assert SECRET in said.fields["message"], "what the kit says itself is told"

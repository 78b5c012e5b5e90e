"""Reads a table or builds a view in a process of its own, which ends before any app code runs.

What is left out or replaced, and the key for pseudonyms, are never in the memory of the process that runs the app.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from silo.channel import ChannelError, Frame, receive, send
from silo.config import CsvSource, ParquetSource
from silo.constraint import Constraint, parse_constraint
from silo.dataset.contract import Contract, Dataset
from silo.worker.door import DOOR_VARIABLE
from silo.worker.errors import DataError

if TYPE_CHECKING:
    from silo.worker.data.building import Asked
    from silo.worker.data.constrain import Constrained

SECONDS = 100.0
"""How long reading may take; within the gate's own limit for preparing a run."""

_SOURCES: TypeAdapter[CsvSource | ParquetSource] = TypeAdapter(CsvSource | ParquetSource)


@dataclass(frozen=True)
class ViewRead:
    """A view as it was built apart: complete rows, with what was left out and a digest of which rows were not."""

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.float32]
    kept: npt.NDArray[np.bool_]
    withheld: int
    identities: str


def read_apart(
    source: CsvSource | ParquetSource, columns: tuple[str, ...], constraint: Constraint, key: Path | None
) -> Constrained:
    """Read these columns of a source in another process and keep the constraint there; raises DataError.

    The process inherits this one's confinement. The frame's columns are float64.
    """
    question = {
        "source": source.model_dump(mode="json"),
        "columns": list(columns),
        "constraint": constraint.fields(),
        "key": None if key is None else str(key),
    }
    with _asked(Frame("read", question)) as answers:
        return _constrained(receive(answers))


def read_view_apart(asked: Asked, key: Path | None) -> ViewRead:
    """Build the view of a dataset with a contract in another process, which sends it in parts; raises DataError."""
    question = {
        "contract": asked.contract.dataset.model_dump(mode="json", by_alias=True),
        "features": list(asked.features),
        "label": asked.label,
        "positive_above": asked.positive_above,
        "constraint": asked.constraint.fields(),
        "key": None if key is None else str(key),
    }
    width = len(asked.features)
    features, labels = np.empty((0, width), np.float32), np.empty(0, np.float32)
    rows = 0
    with _asked(Frame("view", question)) as answers:
        while (frame := receive(answers)).op == "part":
            more = int(frame.fields["rows"])
            if rows + more > len(labels):
                # Grown in place: the kernel moves pages, and those that are not written yet cost nothing.
                room = max(rows + more, 2 * len(labels))
                features.resize((room, width), refcheck=False)
                labels.resize(room, refcheck=False)
            values = np.frombuffer(frame.payload, dtype="<f4")
            features[rows : rows + more] = values[: more * width].reshape(more, width)
            labels[rows : rows + more] = values[more * width :]
            rows += more
    if frame.op != "view":
        raise DataError(str(frame.fields.get("message", "the data could not be read"))[:500])
    told = frame.fields
    kept = np.unpackbits(np.frombuffer(frame.payload, np.uint8), count=int(told["considered"])).astype(bool)
    return ViewRead(features[:rows], labels[:rows], kept, int(told["withheld"]), str(told["identities"]))


def summarise_apart(
    source: CsvSource | ParquetSource | Contract, run: str, constraint: Constraint, key: Path | None, cell: int
) -> dict[str, Any]:
    """The statistics that a run asks for, made in another process, which alone sees the rows; raises DataError."""
    question = {
        "run": run,
        "constraint": constraint.fields(),
        "key": None if key is None else str(key),
        "cell": cell,
    }
    if isinstance(source, Contract):
        question["contract"] = source.dataset.model_dump(mode="json", by_alias=True)
    else:
        question["source"] = source.model_dump(mode="json")
    with _asked(Frame("summary", question)) as answers:
        answer = receive(answers)
    if answer.op != "summary":
        raise DataError(str(answer.fields.get("message", "the data could not be read"))[:500])
    return dict(answer.fields)


@contextlib.contextmanager
def _asked(question: Frame) -> Iterator[socket.socket]:
    """A process that was asked, by the socket on which it answers; it is ended afterwards. Raises DataError."""
    here, there = socket.socketpair()
    with here, contextlib.closing(there):
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "silo.worker.data.reader"],
            stdin=there.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            # Of the door to a database the reader has a copy, as long as this process has one.
            pass_fds=[int(number) for number in os.environ.get(DOOR_VARIABLE, "").split()[:1]],
        )
        try:
            there.close()
            here.settimeout(SECONDS)
            send(here, question)
            yield here
        except ChannelError as error:
            raise DataError(f"the process that reads the data ended early: {error}") from None
        finally:
            child.kill()
            child.wait()


def _constrained(answer: Frame) -> Constrained:
    if answer.op != "table":
        raise DataError(str(answer.fields.get("message", "the data could not be read"))[:500])
    import pandas as pd  # noqa: PLC0415

    from silo.worker.data.constrain import Constrained  # noqa: PLC0415

    names = [str(name) for name in answer.fields["columns"]]
    values = np.frombuffer(answer.payload, dtype="<f8").reshape(int(answer.fields["rows"]), len(names))
    return Constrained(pd.DataFrame(values, columns=names), int(answer.fields["withheld"]))


def answers(question: Frame) -> Iterator[Frame]:
    """What answers a question, or one sentence that holds no data."""
    try:
        yield from {"read": _table, "view": _view, "summary": _summary}[question.op](dict(question.fields))
    except DataError as error:
        yield Frame("error", {"message": str(error)})
    except Exception as error:  # noqa: BLE001  an exception's words may hold data and stay inside
        yield Frame("error", {"message": f"reading the data raised {type(error).__name__}"})


def _table(fields: dict[str, Any]) -> Iterator[Frame]:
    from silo.worker.data.constrain import constrain  # noqa: PLC0415
    from silo.worker.data.view import read_columns  # noqa: PLC0415

    constraint = parse_constraint(fields["constraint"])
    columns = tuple(fields["columns"])
    source = _SOURCES.validate_python(fields["source"], strict=False)
    free = [name for name in columns if name in constraint.pseudonymize or name in constraint.deciding]
    found = constrain(read_columns(source, columns, free=free), constraint, _path(fields["key"]))
    values = np.ascontiguousarray(found.frame.to_numpy(dtype="<f8", na_value=np.nan))
    shape = {"columns": list(found.frame.columns), "rows": len(values), "withheld": found.withheld}
    yield Frame("table", shape, values.data.cast("B"))


def _view(fields: dict[str, Any]) -> Iterator[Frame]:
    from silo.worker.data.building import Asked, Tally, parts  # noqa: PLC0415

    dataset = Dataset.model_validate_json(json.dumps(fields["contract"]))
    asked = Asked(
        Contract(dataset, "", Path()),
        tuple(fields["features"]),
        fields["label"],
        float(fields["positive_above"]),
        parse_constraint(fields["constraint"]),
    )
    tally = Tally()
    for part in parts(asked, _path(fields["key"]), tally):
        payload = np.concatenate((part.features.ravel(), part.labels))
        yield Frame("part", {"rows": len(part.labels)}, payload.data.cast("B"))
    kept = np.concatenate(tally.kept) if tally.kept else np.zeros(0, dtype=bool)
    told = {"withheld": tally.withheld, "considered": len(kept), "identities": tally.identities}
    yield Frame("view", told, np.packbits(kept).data)


def _summary(fields: dict[str, Any]) -> Iterator[Frame]:
    from federation.statistics.document import load_statistics  # noqa: PLC0415
    from federation.statistics.summary import layout_of, ranges_of  # noqa: PLC0415
    from silo.worker.data.building import Asked, Tally, parts  # noqa: PLC0415
    from silo.worker.data.constrain import constrain  # noqa: PLC0415
    from silo.worker.data.summary import summarise  # noqa: PLC0415
    from silo.worker.data.view import read_columns  # noqa: PLC0415

    asked, constraint, key = load_statistics(fields["run"]).model, parse_constraint(fields["constraint"]), fields["key"]
    names, layout, cell = asked.names, layout_of(asked), int(fields["cell"])
    ranges = None if asked.privacy is None else ranges_of(asked)
    if "contract" in fields:
        dataset = Dataset.model_validate_json(json.dumps(fields["contract"]))
        # A view has a label; this one has no use for it, so that any of its columns will do.
        view = Asked(Contract(dataset, "", Path()), names, names[0], 0.0, constraint)
        tally = Tally()
        found = summarise((part.features for part in parts(view, _path(key), tally)), layout, cell, ranges)
        considered, withheld = sum(len(kept) for kept in tally.kept), tally.withheld
    else:
        source = _SOURCES.validate_python(fields["source"], strict=False)
        columns = tuple(dict.fromkeys((*names, *constraint.deciding)))
        table = constrain(read_columns(source, columns, free=constraint.deciding), constraint, _path(key))
        complete = table.frame.dropna()[list(names)]
        found = summarise([complete.to_numpy(dtype=np.float32)], layout, cell, ranges)
        considered, withheld = len(table.frame), table.withheld
    yield Frame("summary", {**found, "dropped": considered - int(found["rows"]), "withheld": withheld})


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def main() -> None:
    """Answer the one question that comes over the socket on standard input."""
    with socket.socket(fileno=0) as worker, contextlib.suppress(ChannelError):
        for frame in answers(receive(worker)):
            send(worker, frame)


if __name__ == "__main__":
    main()

"""What the gate cannot decide, for a reason nobody foresaw, is a refusal by `evaluation-error`, in the log; it goes on.

Only a log or a ledger that cannot be written stops it.
"""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from audit.errors import AuditWriteError
from federation.wire import Kind
from silo.gate.fleet import Task
from silo.gate.ledger import LedgerError
from silo.gate.service import Gate

from .simulator import POLICY, RUN, GateBench, refused

NEWER = POLICY.replace("version: 1,", "version: 2,")
SECRET = "a value of the data \x1b[2J"


@pytest.mark.parametrize("version", ["1.0", "1.3", "2.0", "1." + "9" * 40])
def test_a_run_with_a_directive_is_refused_and_recorded(bench: GateBench, version: str) -> None:
    bench.work()
    answer = bench.admit(bench.consortium.sign(f"%YAML {version}\n---\n{RUN}"))
    assert refused(answer) == "run.document"
    assert "run.yaml:1:1: got the directive" in str(answer.config["reason"])
    assert (bench.last["decision"], bench.last["rule"]) == ("deny", "run.document")
    assert bench.admit().config["status"] == "admitted"


@pytest.mark.parametrize("head", ["%YAML 1.3\n---\n", 'x: "\\UFFFFFFFF"\n', "%FOO\n---\n", "\ufeff\ufeff"])
def test_a_policy_file_that_breaks_the_parser_is_refused_recorded_and_said(bench: GateBench, head: str) -> None:
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    bench.policy_path.write_text(head + NEWER)
    assert bench.round(1).config["status"] == "ok"
    (entry,) = [entry for entry in bench.state().entries if entry["action"] == "policy.rejected"]
    assert "policy.yaml:1:" in entry["reason"]
    assert "stays active" in bench.said[-1]


class Trap:
    """Fails as no part of the gate does, with words of somebody else's."""

    def __init__(self, kind: type[Exception] = AssertionError) -> None:
        self.kind = kind

    def __call__(self, *_: object, **__: object) -> Any:
        raise self.kind(SECRET)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


TRAPS = [
    AssertionError,
    OverflowError,
    RecursionError,
    UnicodeError,
    ZeroDivisionError,
    MemoryError,
    NotImplementedError,
]


@pytest.mark.parametrize("kind", TRAPS)
@pytest.mark.parametrize("part", ["accept_manifest", "log_facts", "certificate", "history", "now"])
def test_a_fault_while_deciding_is_a_refusal_that_is_recorded(
    bench: GateBench, kind: type[Exception], part: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench.work()
    signed = bench.consortium.sign()
    setattr(bench.handler._parts, part, Trap(kind))
    with caplog.at_level(logging.ERROR, "concordat"):
        answer = bench.admit(signed)
    assert refused(answer) == "evaluation-error"
    denied = [entry for entry in bench.state().entries if entry["decision"] == "deny"]
    assert [entry["rule"] for entry in denied] == ["evaluation-error"]
    assert kind.__name__ in denied[0]["reason"]
    # Those who run the gate are told where; nobody is told the words.
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"{kind.__name__} at" in said
    assert "handler.py" in said
    assert SECRET not in said
    assert SECRET not in str(answer.config)
    assert SECRET not in denied[0]["reason"]
    bench.serve_policy(POLICY)
    assert bench.admit().config["status"] == "admitted"


@pytest.mark.parametrize(
    "kind", [Kind.TRAIN, Kind.EVALUATE, Kind.STATISTICS, Kind.RELEASE, Kind.WITNESS, "no-such-kind"]
)
def test_a_fault_at_any_message_is_a_refusal(bench: GateBench, kind: str) -> None:
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    bench.node.fetch = Trap()  # type: ignore[method-assign]
    answer = bench.handler.handle(Task(kind, 1, "m", None, None))  # type: ignore[arg-type]
    assert answer.config["status"] == "refused"
    assert answer.config["rule"] == "evaluation-error"
    assert bench.last["rule"] == "evaluation-error"


def test_a_worker_of_whom_an_answer_may_still_come_is_let_go(bench: GateBench) -> None:
    """Else the answer to the question that failed would be taken for the answer to the next."""
    worker = bench.work()
    assert bench.admit().config["status"] == "admitted"
    from silo.gate import worker_link

    receive = worker_link.receive
    worker_link.receive = Trap()
    try:
        answer = bench.round(1)
    finally:
        worker_link.receive = receive
    assert refused(answer) == "evaluation-error"
    assert worker.ended.wait(60)
    bench.workers.remove(worker)
    bench.work()
    assert refused(bench.round(1)) == "run.unknown"
    assert bench.admit().config["status"] == "admitted"
    assert bench.round(1).config["status"] == "ok"


@pytest.mark.parametrize("error", [AuditWriteError("the disk is gone"), LedgerError("the ledger cannot be written")])
def test_a_log_or_a_ledger_that_cannot_be_written_still_stops_the_gate(bench: GateBench, error: Exception) -> None:
    def fails(*_: object) -> None:
        raise error

    bench.work()
    bench.node.fetch = fails  # type: ignore[method-assign, assignment]
    with pytest.raises(type(error)):
        bench.handler.handle(Task(Kind.WITNESS, 1, "m", None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", TRAPS)
def test_a_fault_while_the_policy_file_is_read_is_recorded_and_the_policy_stays(
    bench: GateBench, kind: type[Exception]
) -> None:
    bench.work()
    bench.policy_file.poll = Trap(kind)  # type: ignore[method-assign]
    bench.handler.reload()
    assert (bench.last["action"], kind.__name__ in bench.last["reason"]) == ("policy.rejected", True)
    assert bench.handler.policy.model.metadata.version == 1


def test_a_fault_while_a_newer_policy_is_held_against_the_run_ends_the_run(bench: GateBench) -> None:
    bench.work()
    assert bench.admit().config["status"] == "admitted"
    bench.handler._parts.certificate = Trap()  # the facts of a run in progress
    bench.policy_path.with_name("fresh").write_text(NEWER)
    bench.policy_path.with_name("fresh").replace(bench.policy_path)
    bench.handler.reload()
    revoked = [entry for entry in bench.state().entries if entry["action"] == "run.revoke"]
    assert [entry["rule"] for entry in revoked] == ["evaluation-error"]
    assert refused(bench.round(1)) == "evaluation-error"


def test_the_thread_that_watches_the_policy_goes_on_after_a_fault() -> None:
    """Whatever it meets: a thread that ended would leave a run under a policy that was replaced."""
    gate = object.__new__(Gate)
    gate._stopping = threading.Event()
    gate._stopping.wait = lambda _=None: gate._stopping.is_set()  # type: ignore[method-assign, assignment]
    looked: list[int] = []

    def reload() -> None:
        looked.append(1)
        if len(looked) == 3:
            gate._stopping.set()
            return
        raise AssertionError(SECRET)

    gate._handler = SimpleNamespace(reload=reload)  # type: ignore[assignment]
    said: list[str] = []
    gate._watch_policy(said.append)
    assert len(looked) == 3
    assert said
    assert SECRET not in "".join(said)

"""Executes a run of statistics: one question to every silo, the answers merged; each silo decides by itself."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from audit.log import AuditLog
from coordinator.contributions import policy_of
from coordinator.execution import ONLINE_SECONDS, Execution
from coordinator.recorded import Logged
from coordinator.rounds import Round, Verdict, quorum_of
from coordinator.superlink import SuperLink
from coordinator.witnessing import Witnessing
from federation.errors import RefusedError, RunFailedError
from federation.home import read_limited, replace_file
from federation.limits import LIMITS
from federation.manifest import SignedManifest
from federation.run import SignedRun
from federation.statistics.document import Statistics, load_statistics
from federation.statistics.reading import Noisy, read_noisy, read_summary
from federation.statistics.result import noisy_result_of, result_of
from federation.statistics.summary import Summary, layout_of
from federation.wire import Envelope, Kind

STATISTICS = "statistics.json"
"""The file of a run's directory that holds the merged statistics."""


class Survey(Execution):
    """One run of statistics from submission to its end. An interrupted one asks again; silos answer as they did."""

    def __init__(
        self,
        run_id: str,
        directory: Path,
        signed: SignedRun,
        newest: Callable[[], SignedManifest],
        superlink: SuperLink,
        log: AuditLog,
        actor: str,
        witnessing: Witnessing,
        logged: Logged | None = None,
    ) -> None:
        self._asked: Statistics = load_statistics(signed.text).model
        super().__init__(
            run_id,
            directory,
            signed,
            newest,
            superlink,
            log,
            actor,
            witnessing,
            again=logged is not None,
        )
        self._logged = logged or Logged()
        self._app_digest = signed.app_digest

    def take_up(self) -> None:
        """Say that the run goes on."""
        self.events.emit("run.resumed", run=self.run_id, round=0, damaged=[])

    def _execute(self) -> None:
        asked, silos = self._asked, self._silos()
        quorum = quorum_of(asked.quorum, len(silos))
        if not asked.per_silo and min(quorum, len(silos)) < 2:
            raise RunFailedError("the statistics would be one silo's, expected two silos or more, or per_silo")
        if quorum > len(silos):
            raise RunFailedError(f"got quorum {quorum}, expected at most the {len(silos)} silos of the run")
        detail: dict[str, str | int | bool] = {"silos": ",".join(silos), "quorum": quorum}
        if not self._logged.begun:
            self._record("run.begin", detail={**detail, "statistics": ",".join(asked.statistics)})
        if self._taken_up:
            self._record("run.resume", detail=detail)
        if self.events.find("run.started") is None:
            self.events.emit(
                "run.started",
                run=self.run_id,
                name=asked.metadata.name,
                purpose=asked.purpose,
                silos=silos,
                rounds=1,
                strategy="statistics",
                mu=0.0,
            )
        if self._taken_up and (self.directory / STATISTICS).exists():
            self._merged(read_limited(self.directory / STATISTICS, LIMITS.statistics_result))
            return
        patience = ONLINE_SECONDS + (asked.deadline_seconds if self._taken_up else 0.0)
        nodes = self._wait_online(silos, quorum, patience)
        self._dialogue.open(asked.metadata.name, b"", self._app_digest)
        self._close(self._ask(nodes, quorum))

    def _ask(self, nodes: dict[str, int], quorum: int) -> dict[str, Any]:
        asked, layout = self._asked, layout_of(self._asked)
        exact: dict[str, Summary] = {}
        sums: dict[str, Noisy] = {}

        def take(name: str, answer: Envelope) -> None:
            policy_of(answer)
            if asked.privacy is None:
                exact[name] = read_summary(answer.text("statistics"), layout)
            else:
                sums[name] = read_noisy(answer.text("statistics"), layout)
            self.events.emit("silo.summarised", silo=name)

        state = Round(frozenset(nodes), quorum, time.monotonic() + asked.deadline_seconds)
        self._dialogue.ask(Kind.STATISTICS, self._dialogue.admission, nodes, state, take, "statistics")
        if state.verdict(time.monotonic()) is Verdict.FAIL:
            lost = "; ".join(f"{name}: {why}" for name, why in sorted(state.dropped.items()))
            if state.refused:
                refusing = ", ".join(sorted(state.refused))
                raise RefusedError(f"{len(state.refused)} of {len(nodes)} silos refused the run: {refusing}")
            raise RunFailedError(f"{len(state.answered)} silos sent statistics, expected {quorum} ({lost})")
        return result_of(asked, exact) if asked.privacy is None else noisy_result_of(asked, sums)

    def _close(self, result: dict[str, Any]) -> None:
        """Put the result on disk; from then on it is the run's, whatever becomes of this process."""
        content = json.dumps({"run": self.run_id, **result}, allow_nan=False, indent=1).encode() + b"\n"
        replace_file(self.directory / STATISTICS, content)
        self._merged(content)

    def _merged(self, content: bytes) -> None:
        """Record the result that lies on disk, then say that it is there, each where that was not done yet."""
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        try:
            result = json.loads(content)
            silos, rows = [str(name) for name in result["silos"]], int(result["rows"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunFailedError("the statistics that were merged cannot be read") from None
        if self._logged.merged not in {None, digest}:
            raise RunFailedError("the statistics on disk are not those that were recorded")
        if self._logged.merged is None:
            detail: dict[str, str | int | bool] = {"statistics": digest, "silos": ",".join(silos), "rows": rows}
            self._record("statistics.merge", detail=detail)
        if self.events.find("run.summarised") is None:
            self.events.emit("run.summarised", silos=silos, rows=rows, statistics=digest)

"""Answers of a coordinator that have other parts, kinds or depths than a command shows: each is a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from federation.cli import run as commands
from federation.errors import ConcordatError, WireError
from federation.operator import CONTROL, OperatorClient
from federation.statistics.plot import svg
from federation.statistics.result import FORMAT

HOME = Path("home")
MEMBER = {"name": "a", "role": "silo", "country": "DE", "online": True}
STANDING = {"run": "r", "state": "running", "resumed": 0}
ENDED = '{"number": 1, "event": "run.completed"}\n'
STATISTICS = {"format": FORMAT, "silos": ["a"], "name": "x", "rows": 1, "dataset": "d", "privacy": None, "columns": {}}


def deep(levels: int, **fields: object) -> str:
    return json.dumps({**fields, "x": 0})[:-2] + "[" * levels + "]" * levels + "}"


Play = Callable[..., None]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Has the coordinator answer with these texts, by the last part of the path."""
    answers: dict[str, str] = {}

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=iter([answers[request.url.path.removeprefix(CONTROL)].encode()]))

    def begin(self: OperatorClient, home: object) -> None:
        self._home, self._address = home, "hub:1"  # type: ignore[assignment]
        self._http = httpx.Client(base_url="https://hub:1", transport=httpx.MockTransport(answer))

    def set_to(**given: Any) -> None:
        for name, text in given.items():
            answers[name.replace("_", "/")] = text if isinstance(text, str) else json.dumps(text)

    monkeypatch.setattr(OperatorClient, "__init__", begin)
    return set_to


@pytest.mark.parametrize(
    "members",
    [[{**MEMBER, "name": ["x"]}], [{**MEMBER, "role": None}], f"[{deep(500, **MEMBER)}]", {"name": "x"}, 5],
)
def test_members_of_another_form_are_a_sentence(play: Play, members: object) -> None:
    play(members=members)
    with pytest.raises(WireError):
        commands.members(HOME)


@pytest.mark.parametrize(
    "standing",
    [
        {**STANDING, "number": "x"},
        {**STANDING, "number": []},
        '{"run": "r", "state": "running", "resumed": 0, "number": 1e999}',
        deep(600, **STANDING),
        deep(950, **STANDING),
    ],
)
def test_a_standing_of_another_form_is_a_sentence(play: Play, standing: object) -> None:
    play(runs_r=standing)
    for command in (commands.watch, commands.show_run, commands.resume):
        with pytest.raises(WireError):
            command("r", HOME)


def test_a_state_that_is_a_list_is_shown(play: Play) -> None:
    play(runs_r={**STANDING, "state": []})
    commands.watch("r", HOME)


def test_events_and_lists_that_are_deep_are_a_sentence(play: Play) -> None:
    play(runs=f"[{deep(600, **STANDING)}]", runs_r_events=deep(600, number=1, event="run.started") + "\n")
    with pytest.raises(WireError, match="levels"):
        commands.list_runs(HOME)
    with pytest.raises(WireError, match="levels"):
        commands.follow_run("r", HOME)


@pytest.mark.parametrize("run", ["a\nb", "a\0b", "a" * 70_000])
def test_an_id_that_no_url_can_have_is_a_sentence(play: Play, run: str) -> None:
    """It is the coordinator that says which id a run has."""
    play()
    for command in (commands.follow_run, commands.stop):
        with pytest.raises(WireError, match="expected a run's id"):
            command(run, HOME)


@pytest.mark.parametrize("manifest", [[1], 5, None, "x"])
def test_a_manifest_of_another_form_is_a_sentence(play: Play, manifest: object) -> None:
    play(manifest=manifest)
    with pytest.raises(WireError):
        OperatorClient(HOME)._every_silo()  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [{"status": [], "rule": "", "reason": ""}, 5])
def test_what_a_silo_said_of_a_release_is_a_line_or_a_sentence(
    play: Play, monkeypatch: pytest.MonkeyPatch, said: object
) -> None:
    passport = SimpleNamespace(run=SimpleNamespace(digest="d"), weights="w")
    verified = SimpleNamespace(statement=SimpleNamespace(predicate=passport))
    monkeypatch.setattr("federation.passport.verify", lambda *_: verified)
    monkeypatch.setattr("federation.manifest.load_manifest", lambda _: None)
    monkeypatch.setattr("federation.operator.read_limited", lambda *_: b"")
    monkeypatch.setattr("federation.operator.request_release", lambda *_: SimpleNamespace(fields=dict))
    monkeypatch.setattr("federation.home.Home.private_key", lambda _: None)
    monkeypatch.setattr("federation.home.Home.certificate", HOME)
    play(runs_r_passport="{}", runs_r_release={"north": said})
    with pytest.raises(WireError):
        commands.release("r", HOME)


@pytest.mark.parametrize(
    "found",
    [
        {"format": FORMAT},
        {**STATISTICS, "silos": 5},
        {**STATISTICS, "columns": {"a": {"mean": "x"}}},
        deep(600, **STATISTICS),
    ],
)
def test_statistics_of_another_form_are_a_sentence(
    play: Play, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: object
) -> None:
    monkeypatch.setattr(OperatorClient, "submit_statistics", lambda *_: "r")
    play(runs_r_events=ENDED, runs_r_statistics=found)
    with pytest.raises(ConcordatError, match=r"cannot be read|levels"):
        commands.stats(HOME, HOME, tmp_path, json_only=False)


def test_no_text_of_a_coordinator_is_markup_in_a_picture() -> None:
    """Counts beyond the edges were written as they came: two texts make one, and a browser runs it."""
    histogram = {"counts": [1], "edges": [0, 1], "incomplete": [], "below": "<script>alert(1)</script>", "above": ""}
    with pytest.raises(ValueError, match="format code 'd'"):
        svg({**STATISTICS, "columns": {"a": {"histogram": histogram}}})

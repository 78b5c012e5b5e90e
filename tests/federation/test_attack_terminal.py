"""Whatever came from somebody else steers no terminal: escaped in one place, as one line, bounded, still readable."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import WireError
from federation.limits import LIMITS
from federation.logs import tell
from federation.progress import line_of, list_line, standing_lines
from federation.terminal import Visible, all_printable, printable, visible_output

HOSTILE = [
    "\x1b]0;owned\x07",
    "\x1b[2J\x1b[H",
    "\x1b[31mred",
    "\x1b]8;;http://evil.example\x1b\\link",
    "\x9b2J",
    "\x90q\x9c",
    "\u202etxt.exe",
    "\u2066\u2069",
    "\u200b\u200d\u2060\ufeff",
    "\r\nround 40 closed, run completed",
    "\rrun completed",
    "\x0b\x0c\x85\u2028\u2029",
    "\x00\x07\x08\x7f",
    "\ud800\udfff",
    "\ue000\U0010ffff\u0378",
    "\U000e0041",
    "\u00ad\u061c\u180e",
    "\u3164\u2800",
    "x" * 100_000,
    "\x1b" * 100_000,
]
SEEN = ["Zürich, Łódź, 北京, عربي, naïve, ½, €, 😀, e\u0301", "C:\\new\\table", "[red]not markup[/red]", "a  b"]


def hidden(text: str) -> set[str]:
    """The characters of a text that nobody sees, or that steer."""
    return {c for c in text if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in {"Zl", "Zp"}}


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:16]))
def test_a_hostile_text_is_one_bounded_line_of_visible_characters(text: str) -> None:
    line = printable("before " + text + " after")
    assert not hidden(line)
    assert line.isprintable()
    assert len(line) <= LIMITS.shown_text
    assert line.startswith("before ")
    assert printable(line) == line


@pytest.mark.parametrize("text", SEEN)
def test_what_can_be_read_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_every_space_is_a_space_and_an_escape_names_its_character() -> None:
    assert printable("10\u00a0000\u2003x") == "10 000 x"
    assert printable("a\x1bb\u202ec\U000e0001\n\r\t") == "a\\u001bb\\u202ec\\udb40\\udc01\\n\\r\\t"


@given(st.text(st.characters(), max_size=200))
def test_any_text_becomes_a_visible_line(text: str) -> None:
    line = printable(text)
    assert line.isprintable()
    line.encode()


@given(st.text(st.characters(), max_size=60))
def test_an_escape_says_which_character_it_was(text: str) -> None:
    if "\\" not in text and not any(unicodedata.category(c) == "Zs" for c in text):
        assert json.loads('"' + printable(text).replace('"', '\\"') + '"') == _joined(text)


def _joined(text: str) -> str:
    """Surrogates that stand together are one character, as JSON reads them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def test_the_texts_of_a_value_are_escaped_with_their_names() -> None:
    value = {"a\x1b": ["\r", {"b": "\u202e"}], "n": 1.5, "t": (None, True)}
    assert all_printable(value) == {"a\\u001b": ["\\r", {"b": "\\u202e"}], "n": 1.5, "t": [None, True]}


EVENTS = [
    {"event": "silo.refused", "silo": "H", "rule": "H", "reason": "H", "location": "H", "remedy": "H"},
    {"event": "silo.dropped", "silo": "H", "phase": "H", "reason": "H"},
    {"event": "silo.absent", "silo": "H"},
    {"event": "silo.returned", "silo": "H"},
    {"event": "silo.summarised", "silo": "H"},
    {"event": "silo.admitted", "silo": "H", "examples": "H"},
    {"event": "run.started", "run": "H", "purpose": "H", "strategy": "H", "mu": 0.1, "rounds": "H", "silos": ["H"]},
    {"event": "run.started", "run": "H", "purpose": "H", "strategy": "statistics", "silos": ["H"]},
    {"event": "run.resumed", "run": "H", "round": "H", "damaged": ["H"]},
    {"event": "run.normalised", "silos": ["H"]},
    {"event": "run.summarised", "rows": "H", "silos": ["H"]},
    {"event": "run.completed", "release": ["H"]},
    *({"event": f"run.{end}", "problem": "H"} for end in ("failed", "refused", "stopped")),
    {
        "event": "round.closed",
        "round": "H",
        "metrics": {"loss": 0.5},
        "silos": {"H": {"loss": 0.1}},
        "dropped": ["H"],
        "seconds": 1.0,
        "work": {"H": [1, 2]},
    },
    {
        "event": "run.evaluated",
        "metrics": {"loss": 0.5},
        "silos": {"H": {}, "b": {}},
        "fairness": {"worst": "H", "metric": "H", "value": 0.1, "mean": 0.1, "variance": 0.1},
        "better_alone": {"H": {"metric": "H", "own": 0.1, "federated": 0.2}},
    },
]
STANDING = {
    **dict.fromkeys(("run", "state", "purpose", "strategy", "submitted", "closed", "model", "problem"), "H"),
    "rounds": "H",
    "resumed": "H",
    "silos": ["H"],
    "files": ["H"],
    "checkpoints": ["H"],
    "metrics": {"loss": 0.5},
}


def hostile(value: object, text: str) -> object:
    if isinstance(value, dict):
        return {hostile(name, text): hostile(item, text) for name, item in value.items()}
    if isinstance(value, list):
        return [hostile(item, text) for item in value]
    return text if value == "H" else value


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:16]))
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event["event"])
def test_no_event_of_a_run_steers_the_operators_terminal(event: dict[str, object], text: str) -> None:
    ours = line_of(hostile(event, "seen"))  # type: ignore[arg-type]
    line = line_of(hostile(event, text))  # type: ignore[arg-type]
    assert ours is not None
    assert line is not None
    assert not hidden(line) - {"\n"}
    assert line.count("\n") == ours.count("\n")


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text[:16]))
def test_nor_does_how_a_run_stands(text: str) -> None:
    standing = hostile(STANDING, text)
    for line in (*standing_lines(standing), list_line({**standing, "rounds": 1})):  # type: ignore[arg-type, dict-item]
        assert line.isprintable()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event["event"])
def test_an_event_with_parts_missing_or_of_another_kind_is_no_traceback(event: dict[str, object]) -> None:
    for name in event:
        for value in (None, [], {}, "x", 1, -1, float("nan"), [[]], {"a": 1}, True):
            for changed in ({**event, name: value}, {k: v for k, v in event.items() if k != name}):
                try:
                    line_of(changed)
                except WireError as error:
                    problem = str(error)
                    assert "cannot be read" in problem


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@given(st.text(st.characters(), max_size=80))
def test_nothing_printed_steers_a_terminal_even_where_nobody_thought_of_it(text: str) -> None:
    for stream in (io.StringIO(), Terminal()):
        assert Visible(stream).write(text) == len(text)
        assert not hidden(stream.getvalue()) - {"\n", "\t", "\x1b"}


def test_styles_reach_a_terminal_alone_and_nothing_but_styles() -> None:
    text = "\x1b[1mbold\x1b[0m \x1b[2J \x1b]0;t\x07 \x1b[31;1H"
    pipe, terminal = io.StringIO(), Terminal()
    Visible(pipe).write(text)
    Visible(terminal).write(text)
    assert "\x1b" not in pipe.getvalue()
    assert terminal.getvalue() == "\x1b[1mbold\x1b[0m \\u001b[2J \\u001b]0;t\\u0007 \\u001b[31;1H"


def test_the_streams_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    with visible_output():
        sys.stdout.write("a\x1bb\n")
    assert sys.stdout is out
    assert out.getvalue() == "a\\u001bb\n"


FAULT = """
import logging, sys
from federation.logs import LogFormat, speaker, tell
say = speaker(LogFormat(sys.argv[1]), "gate")
say("a silo said \\x1b[2J\\r\\nrun completed \\u202e")
logging.getLogger("flwr").warning("a peer said %s", "\\x1b[2J\\n")
try:
    raise ValueError("\\x1b]0;words of somebody's\\x07")
except ValueError:
    logging.getLogger("concordat").exception("met a fault of %s", "\\x1b[2J")
tell("told \\x1b")
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_processs_log_is_lines_that_nobody_else_makes(form: str) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", FAULT, form], capture_output=True, check=True)
    text = done.stderr.decode()
    assert not hidden(text) - {"\n"}
    assert "words of somebody's" not in text
    assert "ValueError" in text
    said = [line for line in text.splitlines() if "run completed" in line]
    assert len(said) == 1
    assert "a silo said" in said[0]


def test_a_process_whose_standard_error_is_gone_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    tell("nobody hears this")
    logging.getLogger("concordat").debug("nor this")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "ascii", "utf-8"])
def test_a_letter_that_a_terminal_does_not_have_ends_no_command(encoding: str) -> None:
    raw = io.BytesIO()
    stream = Visible(io.TextIOWrapper(raw, encoding=encoding))
    stream.write("silo-a refused: Łódź, 北京\n")
    stream.flush()
    shown = raw.getvalue().decode(encoding)
    assert shown.startswith("silo-a refused: ")
    assert ("北京" if encoding == "utf-8" else "\\u5317\\u4eac") in shown

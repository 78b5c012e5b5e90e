"""Texts made to break the YAML parser: each is read, or is a document error with a place, soon."""

from __future__ import annotations

import time
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.document import Kind, load_document
from policies.errors import DocumentError, Problem
from policies.model import load_policy

HEAD = "apiVersion: concordat/v1\nkind: SiloPolicy\n"

DIRECTIVES = [
    "%YAML 1.0",
    "%YAML 1.1",
    "%YAML 1.3",
    "%YAML 2.0",
    "%YAML 999999999999.1",
    "%YAML 1." + "9" * 30,
    "%YAML " + "9" * 5000 + ".1",
    "%YAML 1.",
    "%YAML",
    "%YAML 1.2\n%YAML 1.2",
    "%YAML 1.2\n%YAML 1.3",
    "# a comment\n\n%YAML 1.3",
    "%TAG ! tag:example,2026:",
    "%TAG !e! %ff",
    "%YAML 1.2\n%TAG ! b",
    "%TAG",
    "%FOO bar",
    "%",
    "%é",
]
TEXTS = [
    *(f"{directive}\n---\n{HEAD}" for directive in DIRECTIVES),
    HEAD + "...\n%YAML 1.3\n---\n" + HEAD,
    HEAD + "...\n%YAML 1.3\n---\n",
    HEAD + "---\n" + HEAD,
    HEAD + "metadata: &a {owner: *a}\n",
    "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    HEAD + "<<: {metadata: 1}\n",
    *(HEAD + f"metadata: !!{tag}\n" for tag in ("python/object:os.system x", "binary QQ==", "timestamp x")),
    *(HEAD + f"metadata: !!{tag}\n" for tag in ("set {a}", "omap [a: 1]", "float x", "python/name:os.system ''")),
    *(HEAD + f"metadata: {tag}\n" for tag in ("!<%zz> 1", "!<x 1", "!%ff 1", "!e!x 1", "!<>", "!")),
    *(HEAD + f"runs: {{max_rounds: {value}}}\n" for value in ("0o", "0o777", "0x", "1_000", ".inf", "-.INF", ".nan")),
    *(HEAD + f"runs: {{max_rounds: {value}}}\n" for value in ("190:20:30", "1e99999", "9" * 5000, "0x" + "f" * 5000)),
    HEAD + "? [a, b]\n: 1\n",
    HEAD + "? {a: b}\n: 1\n",
    *(HEAD + f'metadata: "{escape}"\n' for escape in (r"\x00", r"\ud800", r"\udfff\ud800", r"\U00110000", r"\q")),
    *(HEAD + f'metadata: "{escape}"\n' for escape in (r"\UFFFFFFFF", r"\U80000000", r"\x", r"\u12", r"\N\L\P\_")),
    HEAD + "metadata:\tx\n",
    HEAD + "\tmetadata: x\n",
    HEAD.replace("\n", "\r") + "metadata: 1\r",
    *(HEAD + f"metadata: a{break_}runs: b\n" for break_ in ("\x85", "\u2028", "\u2029", "\x0b", "\x1b", "\x00")),
    *(HEAD + f"metadata: {{owner: a{mark}b}}\n" for mark in ("\u202e", "\u200b", "\u2066", "\ue000", "\ufeff")),
    HEAD + "# safe \u202e elihw\n",
    HEAD + "\u00a0\u00a0metadata: 1\n",
    "\ufeff\ufeff" + HEAD,
    HEAD + "metadata: [" + "\u00a0,\n" * 19_000 + "]\n",
    "[" * 100_000,
    "{a: " * 100_000,
    "- " * 100_000,
    "? " * 100_000,
    "!a " * 100_000,
    "&a " * 100_000,
    "a" * 1_000_000 + ": 1",
    '"' + "a" * 2000 + '": 1',
    HEAD + "metadata: " + "x" * 900_000 + "\n",
    HEAD + "metadata: |" + "9" * 5000 + "\n x\n",
    "a: |0\n b",
    "&",
    "*",
    "!",
    "|",
    "?",
    "%",
    "...",
    "---\n...",
]


def problems_of(text: str | bytes) -> tuple[Problem, ...]:
    """What is wrong with a text as a policy; anything but a document error is raised."""
    try:
        load_policy(text, "p.yaml")
    except DocumentError as refused:
        return refused.problems
    return ()


def refused(text: str | bytes) -> None:
    """Hold that a text is no policy, and that each problem names a place and is one printable sentence."""
    problems = problems_of(text)
    assert problems
    for problem in problems:
        assert problem.source == "p.yaml"
        assert problem.line >= 1, problem
        assert problem.column >= 1, problem
        assert problem.message.startswith("got "), problem
        assert str(problem).isprintable(), problem


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: ascii(text[:40]))
def test_each_is_a_document_error_with_a_place_soon(text: str) -> None:
    begun = time.process_time()
    refused(text)
    assert time.process_time() - begun < 10.0


@pytest.mark.parametrize("directive", DIRECTIVES)
def test_a_directive_is_refused_at_its_line_whatever_follows(directive: str, complete: str) -> None:
    """Also one that no parser knows: a document says nothing that is passed over."""
    with pytest.raises(DocumentError) as caught:
        load_document(f"{directive}\n---\n{complete}", Notice, "n.yaml")
    lines = directive.split("\n")
    assert {problem.line for problem in caught.value.problems} == {len(lines)}, caught.value


@pytest.mark.parametrize("version", ["%YAML 1.2", "# a comment\n%YAML 1.2", "%YAML 1.2 # why", "%YAML  1.2"])
def test_yaml_1_2_is_what_is_read(version: str, complete: str) -> None:
    assert load_document(f"{version}\n---\n{complete}", Notice, "n.yaml").model.said == "hello"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp037"])
def test_another_encoding_is_a_document_error_with_a_place(encoding: str) -> None:
    refused((HEAD + "metadata: 1\n").encode(encoding))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (HEAD + "runs:\n\u00a0\u00a0max_rounds: 3\nmetadata: {}\n", "4:1"),
        (HEAD + "runs:\n  max_rounds:\u00a03\nmetadata: {}\n", "4:14"),
        (HEAD + "residency:\n\u00a0\u00a0silo: CH\n  destinations:\n    metrics: {}\n", "4:1"),
        (HEAD + "runs:\n  windows:\n    -\u2003all\nmetadata: {}\n", "5:6"),
        (HEAD + "runs: {max_rounds:\u00a03}\n", "3:19"),
        (HEAD + "\u3000metadata: 1\n", "3:1"),
    ],
)
def test_a_space_that_is_no_space_is_named_where_it_is(text: str, place: str) -> None:
    """A browser or a word processor puts them in; nobody sees them."""
    with pytest.raises(DocumentError) as caught:
        load_policy(text, "p.yaml")
    told = [problem for problem in caught.value.problems if "expected a space" in problem.message]
    assert [problem.location for problem in told] == [f"p.yaml:{place}"], caught.value


@pytest.mark.parametrize("text", ['"10\u00a0000"', "10\u00a0000", "z.\u202fB."])
def test_such_a_space_may_be_in_a_text(text: str, complete: str) -> None:
    assert load_document(complete.replace("hello", text), Notice, "n.yaml").model.said == text.strip('"')


def test_what_nobody_sees_is_refused_in_a_comment_too(complete: str) -> None:
    """A comment that turns the direction of the line shows a reviewer another rule than the one that is read."""
    with pytest.raises(DocumentError, match=r"n\.yaml:4:8: got the invisible character U\+202E"):
        load_document(complete + "# safe \u202e elihw\n", Notice, "n.yaml")


class Notice(Kind):
    """A document of one field."""

    kind: Literal["Notice"]
    said: str


@pytest.fixture
def complete() -> str:
    return "apiVersion: concordat/v1\nkind: Notice\nsaid: hello\n"


PIECES = [
    *("%YAML 1.3\n", "%TAG ! !\n", "---\n", "...\n", "&a ", "*a", "!!set ", "!x ", "? ", ": ", "- ", "[", "]", "{"),
    *("}", ",", "|\n", ">-2\n", '"', "'", r"\UFFFFFFFF", r"\ud800", "\t", "\r", "\n", "  ", "\x85", "\u2028", "\x00"),
    *("\ufeff", "a", "kind", "1e9", ".inf", "#", "\u202e", "\u00a0", "\U000e0001", HEAD),
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).map("".join))
def test_any_mixture_of_what_the_parser_knows_is_a_document_error_with_a_place(text: str) -> None:
    refused(text)
    refused(HEAD + text)

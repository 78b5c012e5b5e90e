"""Every command, given hostile names and hostile files: no traceback, and nothing on the terminal that steers it."""

from __future__ import annotations

import enum
import io
import json
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click
import pytest

from federation.cli import command, main

STEERING = "\x1b]0;owned\x07\x1b[31m\u202e\u2028\x9b2J"
LINE = "INJECTED: verified"
BAD = f"{STEERING}\r\n{LINE}"
SERVERS = {("coordinator", "serve"), ("silo", "gate"), ("silo", "worker")}
"""They serve until they are stopped: their output is that of tests/federation/test_attack_terminal.py."""
OWN_DATA = {("demo",)}
"""It makes all that it prints."""
CONTENTS = {
    "policy.yaml": f"apiVersion: concordat/v1\nkind: {json.dumps(BAD)}\nmetadata: {json.dumps(BAD)}\n",
    "key.yaml": f"apiVersion: concordat/v1\nkind: SiloPolicy\n{json.dumps(BAD)}: 1\n",
    "x.json": json.dumps({"format": BAD, BAD: BAD}),
    "x.pem": f"-----BEGIN CERTIFICATE-----\n{BAD}\n",
    "x.csv": f"a{BAD},b\n{BAD},1\n",
    "x.fab": f"PK{BAD}",
}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def leaves(group: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with its words."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield from leaves(found, (*words, name))
    else:
        yield words, group


LEAVES = {words: leaf for words, leaf in leaves(command) if words not in SERVERS}


def value_of(parameter: click.Parameter, directory: Path, file: Path) -> str | None:
    kind = parameter.type
    if isinstance(kind, click.Choice):
        first: Any = kind.choices[0]
        return str(first.value if isinstance(first, enum.Enum) else first)
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return "1"
    if isinstance(kind, click.Path) or "path" in kind.name or "file" in (parameter.name or ""):
        return str(directory if parameter.name in {"home", "directory", "dir", "into"} else file)
    return BAD


def argv(leaf: click.Command, directory: Path, file: Path, *, everything: bool) -> list[str]:
    """The command's arguments, each as hostile as its type allows; with `everything` also what is not required."""
    options: list[str] = []
    arguments: list[str] = []
    for parameter in leaf.params:
        if parameter.name == "help" or not (parameter.required or everything):
            continue
        if isinstance(parameter, click.Option):
            if not (parameter.is_flag or parameter.count):
                options += [parameter.opts[-1], str(value_of(parameter, directory, file))]
        else:
            arguments.append(str(value_of(parameter, directory, file)))
    return [*options, "--", *arguments]


def printed(words: list[str], monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> tuple[str, int]:
    """What a command prints together, and its exit code."""
    out = stream()
    monkeypatch.setattr(sys, "argv", ["concordat", *words])
    with redirect_stdout(out), redirect_stderr(out), pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return out.getvalue(), code


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of a hostile name with hostile files in it."""
    directory = tmp_path_factory.mktemp("hostile") / f"home {BAD}"
    directory.mkdir()
    for name, content in CONTENTS.items():
        (directory / f"{BAD}{name}").write_text(content)
        (directory / name).write_text(content)
    for name in ("manifest.yaml", "manifest.sig", "cert.pem", "ca.pem", "key.pem", "silo.yaml", "checkpoint"):
        (directory / name).write_text(CONTENTS["policy.yaml"])
    return directory


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize("words", [words for words in LEAVES if words not in OWN_DATA], ids=" ".join)
@pytest.mark.parametrize("name", CONTENTS)
def test_no_command_lets_what_it_is_given_steer_the_terminal(
    words: tuple[str, ...], name: str, hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for everything in {True, name == "key.yaml"}:
        arguments = argv(LEAVES[words], hostile, hostile / f"{BAD}{name}", everything=everything)
        text, code = printed([*words, *arguments], monkeypatch, io.StringIO)
        assert "Traceback" not in text, text
        assert code in {0, 1, 2, 3, 4}
        seen = {c for c in text if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in {"Zl", "Zp"}}
        assert not seen - {"\n", "\t"}, text
        assert not any(line.startswith(LINE) for line in text.splitlines()), text


@pytest.mark.parametrize("words", [words for words in LEAVES if words not in OWN_DATA], ids=" ".join)
def test_nor_on_a_terminal_that_knows_styles(
    words: tuple[str, ...], hostile: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = argv(LEAVES[words], hostile, hostile / f"{BAD}policy.yaml", everything=True)
    text, _ = printed([*words, *arguments], monkeypatch, Terminal)
    assert "\x1b]" not in text
    assert "\x1b[31m\u202e" not in text
    assert "\u202e" not in text
    assert "\x9b" not in text


def test_every_command_is_walked() -> None:
    """A new command is walked without being named here; one that serves must be."""
    assert len(LEAVES) > 60
    every = {words for words, _ in leaves(command)}
    assert every >= SERVERS


def test_a_fault_of_our_own_is_shown_and_its_words_steer_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise AssertionError(BAD)

    monkeypatch.setattr(command, "main", broken)
    text, code = printed([], monkeypatch, Terminal)
    assert code == 1
    assert "Traceback" in text
    assert "AssertionError" in text
    assert "\x1b" not in text.replace("\x1b[31m", "")
    assert "\u202e" not in text

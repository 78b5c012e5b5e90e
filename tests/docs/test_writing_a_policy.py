"""The chapter on writing a policy is run: its files are written, its commands give the output that it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "writing-a-policy.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.M | re.S)
SHELL = 'concordat() { "$PYTHON" -P -m federation "$@"; }\n'
CHANGING = re.compile(r"fingerprint [0-9a-f-]+|sha256:[0-9a-f]{64}$", re.M)


def run(command: str, directory: Path) -> str:
    """What a command prints, both streams together; a command that fails shows its exit status."""
    done = subprocess.run(
        ["bash", "-c", SHELL + command],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "PYTHON": sys.executable, "COLUMNS": "200", "NO_COLOR": "1", "LANG": "C.UTF-8"},
    )
    return done.stdout + (f"[exit status {done.returncode}]\n" if done.returncode else "")


def steps(text: str) -> list[tuple[str, str, str]]:
    """The page's files and commands in their order: a name or nothing, the content or command, the output shown."""
    found = []
    for kind, name, content in BLOCK.findall(text):
        if kind == "yaml" and name:
            found.append((name, content, ""))
        elif kind == "console":
            for command in re.split(r"^\$ ", content, flags=re.M)[1:]:
                line, _, shown = command.partition("\n")
                found.append(("", line, shown))
    return found


def test_the_chapter_does_what_it_shows(tmp_path: Path) -> None:
    assert shutil.which("bash")
    commands = 0
    for name, content, shown in steps(PAGE.read_text(encoding="utf-8")):
        if name:
            (tmp_path / name).write_text(content, encoding="utf-8")
            continue
        commands += 1
        printed = CHANGING.sub("(changes)", run(content, tmp_path))
        assert printed == CHANGING.sub("(changes)", shown), content
    assert commands > 20

"""What a confined process reads of the machine's own configuration: what libraries need, and nothing that is secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from silo.confinement import runtime_paths

from .test_confinement import needs_landlock

TRIES = """
import json, os, pwd, ssl, sys
from silo.confinement import confine_files, runtime_paths
confine_files(runtime_paths(), [])
def attempt(what):
    try:
        what(); return "done"
    except OSError as error:
        return type(error).__name__
print(json.dumps({
    "list": attempt(lambda: os.listdir("/etc")),
    "others": [attempt(lambda: open(name, "rb").close()) for name in sys.argv[1:]],
    "user": pwd.getpwuid(os.getuid()).pw_name != "",
    "authorities": attempt(lambda: ssl.create_default_context()),
}))
"""


@needs_landlock
def test_of_etc_only_what_libraries_read_can_be_opened() -> None:
    known = [path.resolve() for path in runtime_paths() if path.is_relative_to("/etc")]
    others = []
    for path in Path("/etc").rglob("*"):
        allowed = any(path.resolve().is_relative_to(place) for place in known)
        if path.is_file() and not path.is_symlink() and not allowed and os.access(path, os.R_OK):
            others.append(str(path))
    assert others, "this machine has nothing in /etc but what libraries read, so that nothing can be tried"
    command = [sys.executable, "-P", "-c", TRIES, *others[:500]]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["list"] == "PermissionError"
    assert set(found["others"]) == {"PermissionError"}
    assert found["user"]
    assert found["authorities"] == "done"


def test_nothing_of_the_runtime_is_a_place_for_keys() -> None:
    paths = {str(path) for path in runtime_paths()}
    for private in ("/etc", "/etc/concordat", "/etc/ssl", "/etc/ssl/private", "/etc/shadow", "/etc/pki", "/run"):
        assert private not in paths

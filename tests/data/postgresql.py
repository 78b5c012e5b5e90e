"""A PostgreSQL server of our own: an unprivileged user, one Unix socket, and TCP where a test asks for it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from demo.ports import reserve_port

INSTALLED = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
PASSWORD = "reader-SECRET-1"


@dataclass(frozen=True)
class Server:
    """Its socket's directory, and how its owner connects."""

    directory: Path
    owner: str
    port: int = 5432

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=str(self.directory), port=self.port, user=self.owner, dbname="postgres", autocommit=True
        )

    def url(self, database: str = "postgres") -> str:
        return f"postgresql:///{database}?host={self.directory}"


@contextmanager
def server(path: Path, tls: tuple[bytes, bytes] | None = None) -> Iterator[Server]:
    """Start a server whose files lie under a path; skipped where none is installed.

    With `tls`, a certificate chain and its key, it listens on a port of 127.0.0.1 too.
    """
    if not INSTALLED:
        pytest.skip("no PostgreSQL server is installed here; tools/test-tools installs one")
    name = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    account = pwd.getpwnam(name)
    as_user: dict[str, object] = {"cwd": "/"}
    if os.getuid() == 0:
        os.chown(path, account.pw_uid, account.pw_gid)
        as_user |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    bin_, data = INSTALLED[-1], path / "data"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, **as_user)  # type: ignore[call-overload]

    run(
        str(bin_ / "initdb"),
        "-D",
        str(data),
        "-U",
        "owner",
        "-A",
        "scram-sha-256",
        "--auth-local=trust",
        "-N",
        "-E",
        "UTF8",
    )
    rules = "local all owner trust\nlocal all all scram-sha-256\n"
    (data / "pg_hba.conf").write_text(rules)
    port, listen = 5432, "-c listen_addresses="
    if tls is not None:
        port = reserve_port()
        (data / "pg_hba.conf").write_text(f"{rules}hostssl all all 127.0.0.1/32 scram-sha-256\n")
        for name, content in zip(("server.crt", "server.key"), tls, strict=True):
            (data / name).write_bytes(content)
            (data / name).chmod(0o600)
            os.chown(data / name, account.pw_uid, account.pw_gid)
        listen = f"-c listen_addresses=127.0.0.1 -c port={port} -c ssl=on"
    options = f"{listen} -k {path} -c fsync=off -c shared_buffers=8MB -c max_connections=10"
    run(str(bin_ / "pg_ctl"), "-D", str(data), "-l", str(path / "log"), "-o", options, "-w", "start")
    try:
        yield Server(path, "owner", port)
    finally:
        run(str(bin_ / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(data, ignore_errors=True)

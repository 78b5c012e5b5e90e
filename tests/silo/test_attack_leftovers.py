"""Runs after each other and at once: what one leaves or does, the other neither finds nor feels."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import sys
import zipfile
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from silo.channel import ChannelError, Frame, receive, send

from .test_worker_process import EVIL_RUN, SECONDS, Site, _ask, _site

pytestmark = [pytest.mark.federation, pytest.mark.tensorflow]

RUN = EVIL_RUN.replace("archive", "wisconsin")

# As a container's runtime does for a pod of profile `restricted`: no rights, no namespaces (unshare, setns and mount).
RESTRICT = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
for number in range(64):
    libc.prctl(24, number, 0, 0, 0)
forbidden = (272, 308, 165)
code = [(0x20, 0, 0, 0), *((0x15, len(forbidden) - n, 0, call) for n, call in enumerate(forbidden))]
code += [(6, 0, 0, 0x7FFF0000), (6, 0, 0, 0x50001)]
packed = b"".join(struct.pack("HBBI", *one) for one in code)
buffer = ctypes.create_string_buffer(packed)
libc.prctl(38, 1, 0, 0, 0)
program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer))
assert libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"""

TELLING = """
import ctypes, os, pathlib, signal, socket, time
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
FOUND = {}
def attempt(name, what):
    try:
        FOUND[name] = what()
    except BaseException as error:
        FOUND[name] = type(error).__name__
def build_model(features):
    import keras
    probe()
    told = ";".join(f"{name}={came}" for name, came in FOUND.items()) or "nothing"
    model = keras.Sequential([keras.Input((features,)), keras.layers.Dense(1, activation="sigmoid", name=told)])
    model.compile(optimizer="sgd", loss="binary_crossentropy")
    return model
"""

LEAVES = (
    TELLING
    + """
def shared():
    number = LIBC.shmget(0x6846, 4096, 0o1666)
    if number >= 0:
        LIBC.memmove(ctypes.c_void_p(LIBC.shmat(number, None, 0)), b"row 17", 6)
    return number
def daemon():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                time.sleep(0.01)
                try: pathlib.Path(os.environ["TMPDIR"]).mkdir()
                except OSError: pass
        os._exit(0)
    return "started"
def write(place):
    pathlib.Path(place, "left-by-a-run").write_text("row 17")
    return "written"
def probe():
    attempt("shm", shared)
    attempt("key", lambda: LIBC.syscall(248, b"user", b"left-by-a-run", b"row 17", 6, -4))
    attempt("daemon", daemon)
    places = {"dev_shm": "/dev/shm", "tmp": "/tmp", "var_tmp": "/var/tmp", "parent": os.environ["TMPDIR"] + "/.."}
    for name, place in places.items():
        attempt(name, lambda: write(place))
    attempt("scratch", lambda: write(os.environ["TMPDIR"]))
"""
)

LOOKS = (
    TELLING
    + """
def probe():
    attempt("shm", lambda: LIBC.shmget(0x6846, 4096, 0))
    attempt("key", lambda: LIBC.syscall(249, b"user", b"left-by-a-run", None, 0))
    attempt("scratch", lambda: sorted(os.listdir(os.environ["TMPDIR"])) == ["app", "connected"])
    attempt("processes", lambda: len([name for name in os.listdir("/proc") if name.isdigit()]))
    attempt("kill", lambda: os.kill(@OTHER@, 9))
    attempt("stop_parent", lambda: os.kill(os.getppid() or @OTHER@, signal.SIGSTOP))
    attempt("memory", lambda: open("/proc/@OTHER@/mem", "rb"))
    attempt("descriptors", lambda: os.readlink("/proc/@OTHER@/fd/0"))
    attempt("other_scratch", lambda: os.listdir("@SCRATCH@"))
    attempt("pidfd", lambda: os.pidfd_open(@OTHER@))
    attempt("outlive", lambda: LIBC.prctl(1, 0, 0, 0, 0))
    kinds = sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in os.listdir("/proc/self/fd")
                   if os.path.lexists(f"/proc/self/fd/{fd}"))
    FOUND["open"] = ",".join(kinds).replace("/", "_")
"""
)


def _bundle(code: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("model.py", code)
    return out.getvalue()


def _told(answer: Frame) -> dict[str, str]:
    assert answer.op == "prepared", answer.fields
    name = json.loads(answer.fields["shapes"])[0]["name"].removeprefix("sequential/").removesuffix("/kernel")
    return dict(part.split("=") for part in name.split(";") if part != "nothing")


AS_IT_IS: tuple[str, ...] = ()
RESTRICTED = (sys.executable, "-c", RESTRICT)
AS_A_USER = ("setpriv", "--bounding-set=-sys_admin")
on_both = pytest.mark.parametrize("prefix", [AS_IT_IS, RESTRICTED], ids=["namespaces", "restricted"])
"""A worker on this host, and one where the host allows no namespaces."""


def _processes(site: Site) -> list[int]:
    """Every process that was started from this site's worker, by its command line."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and str(site.path) in (path / "cmdline").read_text():
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("prefix", [AS_IT_IS, AS_A_USER, RESTRICTED], ids=["namespaces", "as a user", "restricted"])
def test_a_run_finds_nothing_of_the_one_before(prefix: tuple[str, ...]) -> None:
    with _site(prefix=prefix) as site:
        _run_after_another(site, restricted=prefix == RESTRICTED)


def _run_after_another(site: Site, *, restricted: bool) -> None:
    connection, hello, _ = site.accept()
    assert hello.fields["processes"].startswith("PROCESSES NOT SEPARATED" if restricted else "processes, IPC"), hello
    before = len(_processes(site))
    with closing(connection):
        left = _told(_ask(connection, "prepare", _bundle(LEAVES), run=RUN))
    assert {left.pop(name) for name in ("dev_shm", "tmp", "var_tmp", "parent")} == {"PermissionError"}
    # In an IPC namespace of the run's own it may make what ends with that.
    assert (left.pop("shm") == "-1") == restricted
    assert left == {"key": "-1", "daemon": "started", "scratch": "written"}
    second, _, _ = site.accept()
    assert len(_processes(site)) == before, "a process of the run before is still there"
    with closing(second):
        looks = LOOKS.replace("@OTHER@", str(site.child.pid)).replace("@SCRATCH@", str(site.path / "gate"))
        found = _told(_ask(second, "prepare", _bundle(looks), run=RUN))
    assert found.pop("open") == "_dev_null,_dev_null,_dev_null,socket", "only the gate's connection was left open"
    seen = int(found.pop("processes"))
    assert restricted or seen == 1, "it sees processes of others"
    absent = "PermissionError" if restricted else "FileNotFoundError"
    assert {found.pop(name) for name in ("memory", "descriptors")} == {absent}
    assert {found.pop(name) for name in ("kill", "stop_parent", "pidfd", "other_scratch")} == {"PermissionError"}
    assert found == {"shm": "-1", "key": "-1", "scratch": "True", "outlive": "-1"}


HIDES = (
    TELLING
    + """
def probe():
    os.umask(0)
    os.chdir(os.environ["TMPDIR"])
    os.makedirs("beside/full/within")
    os.mkdir("beside/shut", 0)
    os.mkdir("beside/unreadable", 0o300)
    pathlib.Path("beside/unreadable/left").write_text("row 17")
    os.symlink("/", "link")
    for _ in range(3000):
        os.mkdir("d")
        os.chdir("d")
    pathlib.Path("left").write_text("row 17")
"""
)


@on_both
def test_no_directory_that_an_app_makes_outlasts_its_run_or_ends_the_worker(prefix: tuple[str, ...]) -> None:
    """Deeper than a recursion goes, or without the right to read it."""
    with _site(prefix=prefix) as site:
        connection, _, _ = site.accept()
        with closing(connection):
            assert _told(_ask(connection, "prepare", _bundle(HIDES), run=RUN)) == {}
        second, _, _ = site.accept()  # which looks at what lies in scratch
        second.close()
        assert "Traceback" not in (site.path / "worker.log").read_text()


def test_two_runs_at_once_do_not_reach_each_other() -> None:
    """Two workers of one user without namespaces, each with a run: the second aims at the first's trainer."""
    with ExitStack() as stack:
        first, second = (stack.enter_context(_site(prefix=RESTRICTED)) for _ in range(2))
        one, _, victim = first.accept()
        stack.enter_context(closing(one))
        assert _ask(one, "prepare", _bundle(LEAVES), run=RUN).op == "prepared"
        other, _, _ = second.accept()
        stack.enter_context(closing(other))
        looks = LOOKS.replace("@OTHER@", str(victim)).replace("@SCRATCH@", str(first.path / "scratch"))
        found = _told(_ask(other, "prepare", _bundle(looks), run=RUN))
        assert {found[name] for name in ("kill", "pidfd", "other_scratch")} == {"PermissionError"}
        assert {found[name] for name in ("memory", "descriptors")} <= {"PermissionError", "FileNotFoundError"}
        assert (found["shm"], found["key"]) == ("-1", "-1")
        assert _ask(one, "initial").op == "initial", "the first run goes on"


DEAF = """
import ctypes, signal
def build_model(features):
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
    while True:
        pass
"""


def test_an_app_that_hears_no_signal_ends_when_the_gate_hangs_up() -> None:
    """The keeper of its process watches the connection, out of its reach."""
    with _site() as site:
        connection, _, trainer = site.accept()
        ended = os.pidfd_open(trainer)
        send(connection, Frame("prepare", {"run": RUN}, _bundle(DEAF)))
        connection.settimeout(1.0)
        with pytest.raises(ChannelError):
            receive(connection)
        connection.close()
        assert select.select([ended], [], [], SECONDS)[0]
        os.close(ended)


@on_both
def test_the_worker_s_end_takes_along_what_an_app_started(prefix: tuple[str, ...]) -> None:
    """SIGTERM to the worker, with a daemon of the app's running that listens to no signal."""
    with _site(prefix=prefix) as site:
        connection, _, _ = site.accept()
        with closing(connection):
            assert _ask(connection, "prepare", _bundle(LEAVES), run=RUN).op == "prepared"
            known = [os.pidfd_open(process) for process in _processes(site)]
            assert len(known) >= 5, "worker, template, keeper, trainer and daemon"
            site.child.signal(signal.SIGTERM)
            for descriptor in known:
                assert select.select([descriptor], [], [], SECONDS)[0]
                os.close(descriptor)
        assert list((site.path / "scratch").iterdir()) == []

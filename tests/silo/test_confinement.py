"""What a confined process still reaches, tried out by child processes that confine themselves (promise 1)."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from silo import confinement

from .simulator import listener

NOBODY = 65534

# Everything is imported before the user changes: another user may have no right to read the interpreter's files.
PRELUDE = """
import ctypes, encodings.idna, json, os, socket, subprocess, sys
from pathlib import Path
from silo.confinement import *
here = Path(sys.argv[1])
def become_nobody():
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # dumpable, as after exec: else /proc/self belongs to root
def attempt(what):
    try:
        return what()
    except OSError as error:
        return type(error).__name__
def done(**found):
    print(json.dumps(found)); sys.stdout.flush(); os._exit(0)
"""


def _child(code: str, *arguments: object) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PRELUDE + code, *map(str, arguments)],
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


# -- the network

LEAVE = """
before = network_interfaces()
achieved = leave_network()
port, path = int(sys.argv[2]), str(here / "parent.sock")
def over_tcp():
    with socket.create_connection(("127.0.0.1", port), timeout=10): return "CONNECTED"
def over_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"x", ("127.0.0.1", port)); return "SENT"
def over_unix():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path); s.sendall(b"ping"); return s.recv(4).decode()
def over_abstract():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\\0" + path); return "CONNECTED"
grandchild = subprocess.run(
    ["/bin/cat", "/proc/self/net/dev"], capture_output=True, text=True).stdout.splitlines()[2:]
done(achieved=achieved, before=before, interfaces=network_interfaces(), tcp=attempt(over_tcp), udp=attempt(over_udp),
     unix=attempt(over_unix), abstract=attempt(over_abstract), uid=os.getuid(), gid=os.getgid(),
     grandchild=[line.split(":")[0].strip() for line in grandchild])
"""


def _namespaces(*, privileged: bool) -> None:
    """Skip where this host lets no process have a network namespace, as the host's own tool finds."""
    tool = shutil.which("unshare")
    if tool is None:
        pytest.skip("this host allows no network namespace to be tried: it lacks unshare(1)")
    command = [tool, "--net", "true"] if privileged else [tool, "--user", "--net", "true"]
    if os.getuid() == 0 and not privileged:
        drop = shutil.which("setpriv") or pytest.skip("needs root and setpriv(1), to become another user")
        command = [drop, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    if done.returncode != 0:
        pytest.skip(f"this host allows no network namespace here: {done.stderr.strip()}")


@pytest.fixture
def parent(short_path: Path) -> Iterator[tuple[Path, int]]:
    """Listeners of a process outside: TCP on 127.0.0.1, and Unix sockets on a path and in the abstract space."""

    def echo() -> None:
        while True:
            try:
                connection, _ = unix.accept()
            except OSError:
                return
            with connection:
                connection.sendall(connection.recv(4)[::-1])

    path = short_path / "parent.sock"
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        listener(path) as unix,
    ):
        unix.settimeout(None)
        abstract.bind("\0" + str(path))
        abstract.listen(1)
        path.chmod(0o666)
        thread = threading.Thread(target=echo, daemon=True)
        thread.start()
        port = tcp.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):  # it can be reached from here
            yield short_path, port
        unix.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def _assert_separated(found: dict[str, Any]) -> None:
    assert found["interfaces"] == ["lo"], found
    assert found["grandchild"] == ["lo"]
    assert len(found["before"]) >= 1
    assert found["tcp"] == "OSError"  # network is unreachable: not even the loopback device is up
    assert found["udp"] == "OSError"
    assert found["abstract"] == "ConnectionRefusedError"  # abstract sockets belong to the network namespace
    assert found["unix"] == "gnip"


def test_without_the_network_only_a_socket_on_a_path_is_left(parent: tuple[Path, int]) -> None:
    _namespaces(privileged=os.getuid() == 0)
    found = _child(LEAVE, *parent)
    assert found["achieved"].startswith("empty network namespace")
    _assert_separated(found)


def test_an_unprivileged_user_leaves_the_network_through_a_user_namespace(parent: tuple[Path, int]) -> None:
    _namespaces(privileged=False)
    switch = "become_nobody()\n" if os.getuid() == 0 else ""
    found = _child(switch + LEAVE, *parent)
    assert found["achieved"] == "empty network namespace in a user namespace"
    _assert_separated(found)
    expected = (NOBODY, NOBODY) if switch else (os.getuid(), os.getgid())
    assert (found["uid"], found["gid"]) == expected, "files and sockets keep their owner inside"


def test_the_worker_starts_no_thread_before_it_leaves_the_network() -> None:
    """A process with threads may not enter a user namespace: NumPy, which starts some, must not be loaded yet."""
    code = "import silo.cli, silo.worker.service\n"
    code += "done(threads=len(os.listdir('/proc/self/task')), numpy='numpy' in sys.modules)"
    assert _child(code, "/") == {"threads": 1, "numpy": False}


def test_without_namespaces_it_says_so_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def unshare(flags: int) -> int:
        asked.append(flags)
        ctypes.set_errno(1)
        return -1

    monkeypatch.setattr(confinement, "_libc", SimpleNamespace(unshare=unshare))
    assert confinement.leave_network() == (
        "NOT SEPARATED FROM THE NETWORK: this host allows no network namespace (Operation not permitted)"
    )
    assert asked == [confinement.CLONE_NEWNET, confinement.CLONE_NEWUSER | confinement.CLONE_NEWNET]


# -- files

CONFINE = """
inside, outside, readonly, writable = (here / name for name in ("inside", "outside", "readonly", "writable"))
secret = outside / "secret"
achieved = confine_files([*runtime_paths(), inside, readonly, here / "single"], [writable])
def child(*command):
    return subprocess.run(command, capture_output=True).returncode
def read(path): return Path(path).read_text()
found = dict(
    read_outside=attempt(lambda: read(secret)),
    list_outside=attempt(lambda: os.listdir(outside)),
    list_parent=attempt(lambda: os.listdir(here)),
    through_proc_root=attempt(lambda: read(f"/proc/self/root{secret}")),
    through_proc_cwd=attempt(lambda: (os.chdir(outside), read("/proc/self/cwd/secret"))),
    through_symlink=attempt(lambda: read(inside / "link")),
    through_new_symlink=attempt(lambda: (os.symlink(secret, writable / "link"), read(writable / "link"))),
    through_dots=attempt(lambda: read(inside / ".." / "outside" / "secret")),
    through_hard_link=attempt(lambda: (os.link(secret, writable / "hard"), read(writable / "hard"))),
    through_rename=attempt(lambda: (os.rename(secret, writable / "moved"), read(writable / "moved"))),
    root_of_parent=attempt(lambda: read(f"/proc/{os.getppid()}/root{secret}")),
    child_reads_outside=child("/bin/cat", secret),
    child_reads_inside=child("/bin/cat", inside / "file"),
    write_outside=attempt(lambda: (outside / "new").write_text("x")),
    inside=attempt(lambda: read(inside / "file")),
    list_inside=attempt(lambda: sorted(os.listdir(inside))),
    single=attempt(lambda: read(here / "single")),
    overwrite=attempt(lambda: (readonly / "file").write_text("x")),
    append=attempt(lambda: open(readonly / "file", "a").close()),
    truncate=attempt(lambda: os.truncate(readonly / "file", 0)),
    create=attempt(lambda: (readonly / "new").write_text("x")),
    make_directory=attempt(lambda: (readonly / "new").mkdir()),
    unlink=attempt(lambda: (readonly / "file").unlink()),
    move_out=attempt(lambda: os.rename(readonly / "file", writable / "file")),
    write=attempt(lambda: (writable / "new").write_text("x")),
    write_below=attempt(lambda: ((writable / "a").mkdir(), (writable / "a" / "b").write_text("xy"))[1]),
    remove=attempt(lambda: (writable / "new").unlink()),
    null=attempt(lambda: open("/dev/null", "w").write("x")),
    random=attempt(lambda: len(open("/dev/urandom", "rb").read(8))),
    devices=attempt(lambda: os.listdir("/dev")),
)
again = confine_files(runtime_paths(), [writable])
found["narrowed"] = attempt(lambda: read(inside / "file"))
found["still_writable"] = attempt(lambda: (writable / "new").write_text("x"))
wider = confine_files([*runtime_paths(), inside, outside], [writable, readonly])
found["widened"] = attempt(lambda: read(inside / "file"))
found["widened_outside"] = attempt(lambda: read(secret))
done(achieved=achieved, again=again, wider=wider, **found)
"""


def _landlock() -> int:
    """The kernel's version of Landlock, asked without the code under test; below 1 where there is none."""
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


needs_landlock = pytest.mark.skipif(_landlock() < 3, reason="this kernel has no Landlock, or one before version 3")


@pytest.fixture(scope="module")
def confined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    here = tmp_path_factory.mktemp("confined")
    for name in ("inside", "outside", "readonly", "writable"):
        (here / name).mkdir()
    for name in ("inside/file", "outside/secret", "readonly/file", "single"):
        (here / name).write_text(name)
    (here / "inside" / "link").symlink_to(here / "outside" / "secret")
    found = _child(CONFINE, here)
    assert (here / "outside" / "secret").read_text() == "outside/secret"
    assert (here / "readonly" / "file").read_text() == "readonly/file"
    assert sorted(path.name for path in (here / "outside").iterdir()) == ["secret"]
    assert sorted(path.name for path in (here / "readonly").iterdir()) == ["file"]
    return found


@needs_landlock
def test_confinement_says_which_version_it_used(confined: dict[str, Any]) -> None:
    expected = f"files confined by Landlock (version {_landlock()})"
    assert [confined[name] for name in ("achieved", "again", "wider")] == [expected] * 3


@needs_landlock
@pytest.mark.parametrize(
    "way",
    [
        "read_outside",
        "list_outside",
        "list_parent",
        "through_proc_root",
        "through_proc_cwd",
        "through_symlink",
        "through_new_symlink",
        "through_dots",
        "root_of_parent",
        "devices",
        "write_outside",
        "overwrite",
        "append",
        "truncate",
        "create",
        "make_directory",
        "unlink",
        "narrowed",
        "widened",
        "widened_outside",
    ],
)
def test_what_was_not_allowed_is_refused(confined: dict[str, Any], way: str) -> None:
    assert confined[way] == "PermissionError"


@needs_landlock
@pytest.mark.parametrize("way", ["through_hard_link", "through_rename", "move_out"])
def test_nothing_is_moved_to_where_it_could_be_read(confined: dict[str, Any], way: str) -> None:
    assert confined[way] in {"PermissionError", "OSError"}  # OSError: the kernel says "cross-device link"


@needs_landlock
def test_a_child_process_is_confined_too(confined: dict[str, Any]) -> None:
    assert confined["child_reads_outside"] != 0
    assert confined["child_reads_inside"] == 0


@needs_landlock
def test_what_was_allowed_works(confined: dict[str, Any]) -> None:
    assert confined["inside"] == "inside/file"
    assert confined["list_inside"] == ["file", "link"]
    assert confined["single"] == "single"
    assert confined["write"] == 1
    assert confined["write_below"] == 2
    assert confined["remove"] is None
    assert confined["null"] == 1
    assert confined["random"] == 8
    assert confined["still_writable"] == 1


GPU = """
import silo.devices
silo.devices.DEVICES = here / "dev"
confine_files(runtime_paths(), [])
def use(name):
    descriptor = os.open(here / "dev" / name, os.O_RDWR)
    return os.write(descriptor, b"x")
done(gpu=attempt(lambda: use("nvidia0")), memory=attempt(lambda: use("nvidia-uvm")),
     capability=attempt(lambda: use("nvidia-caps/nvidia-cap1")), disk=attempt(lambda: use("sda")),
     made=attempt(lambda: (here / "dev" / "nvidia-caps" / "made").touch()),
     removed=attempt(lambda: (here / "dev" / "nvidia-caps" / "nvidia-cap1").unlink()))
"""


@needs_landlock
def test_a_gpus_nodes_can_be_used_and_no_other_device(tmp_path: Path) -> None:
    """Files stand in for the nodes: the kernel decides on both by their path."""
    (tmp_path / "dev" / "nvidia-caps").mkdir(parents=True)
    for name in ("nvidia0", "nvidia-uvm", "nvidia-caps/nvidia-cap1", "sda"):
        (tmp_path / "dev" / name).touch()
    found = _child(GPU, tmp_path)
    assert (found["gpu"], found["memory"], found["capability"]) == (1, 1, 1)
    assert (found["disk"], found["made"], found["removed"]) == ("PermissionError",) * 3


DROP = """
def environment_of_parent(): return Path(f"/proc/{os.getppid()}/environ").read_bytes().decode("utf-8", "replace")
confine_files(runtime_paths(), [here])
own = here / "own"
own.write_text("x")
own.chmod(0)
achieved = drop_capabilities()
status = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines())
grandchild = subprocess.run(["/bin/cat", "/proc/self/status"], capture_output=True, text=True).stdout
inherited = dict(line.split(":\t") for line in grandchild.splitlines())
done(achieved=achieved, environment=attempt(environment_of_parent), past_the_mode=attempt(lambda: own.read_text()),
     own={n: status[n] for n in ("CapEff", "CapPrm", "CapInh", "CapAmb")},
     inherited={n: inherited[n] for n in ("CapEff", "CapPrm", "CapInh", "CapAmb")})
"""


@needs_landlock
def test_without_capabilities_root_is_any_user(tmp_path: Path) -> None:
    found = _child(DROP, tmp_path)
    assert found["achieved"] == "no capabilities"
    assert set(found["own"].values()) == set(found["inherited"].values()) == {"0" * 16}
    assert found["environment"] == "PermissionError"
    assert found["past_the_mode"] == "PermissionError"


def test_capabilities_that_stay_are_said_in_capitals(monkeypatch: pytest.MonkeyPatch) -> None:
    def capset(*_: object) -> int:
        ctypes.set_errno(1)
        return -1

    monkeypatch.setattr(confinement, "_libc", SimpleNamespace(prctl=lambda *_: -1, capset=capset))
    said = confinement.drop_capabilities()
    assert said == "CAPABILITIES NOT DROPPED: the kernel refused (Operation not permitted)"


def test_the_runtime_holds_no_place_for_data() -> None:
    code = "done(paths=[str(p.resolve()) for p in runtime_paths()])"
    paths = [Path(path) for path in _child(code, "/")["paths"]]
    for private in ("/", "/tmp", "/home", "/srv", "/var/lib", "/root", "/mnt", "/dev", Path(__file__).parents[2]):
        assert Path(private) not in paths
    assert Path(sys.prefix).resolve() in paths


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


class _Kernel(SimpleNamespace):
    """A C library whose calls give the results that a test sets."""

    def __init__(self, *syscalls: int, prctl: int = 0) -> None:
        super().__init__(results=list(syscalls), calls=[], answer=prctl)

    def syscall(self, number: int, *_: object) -> int:
        self.calls.append(number)
        ctypes.set_errno(38)
        result = self.results.pop(0) if self.results else 0
        return os.open("/dev/null", os.O_RDONLY) if result > 100 else result

    def prctl(self, *_: object) -> int:
        ctypes.set_errno(1)
        return int(self.answer)


@pytest.mark.parametrize(
    ("kernel", "said"),
    [
        (_Kernel(-1), "FILES NOT CONFINED: this kernel has no Landlock (Function not implemented)"),
        (_Kernel(0), "FILES NOT CONFINED: this kernel has no Landlock (Function not implemented)"),
        (_Kernel(3, -1), "FILES NOT CONFINED: Landlock refused the rules (Function not implemented)"),
        (_Kernel(3, 1000, prctl=-1), "FILES NOT CONFINED: no_new_privs refused (Operation not permitted)"),
        (_Kernel(3, 1000, 0, 0, 0, -1), "FILES NOT CONFINED: Landlock refused to apply (Function not implemented)"),
    ],
)
def test_what_a_kernel_refuses_is_said_in_capitals(
    kernel: _Kernel, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "_libc", kernel)
    before = _descriptors()
    assert confinement.confine_files([tmp_path, tmp_path / "absent"], [tmp_path]) == said
    assert _descriptors() == before, "a descriptor was left open"


def test_a_network_namespace_with_loopback_alone_may_come_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container without a network or a unit with PrivateNetwork has it, in which no further one can be made."""

    class Refusing:
        def unshare(self, _flags: int) -> int:
            ctypes.set_errno(1)
            return -1

    monkeypatch.setattr(confinement, "_libc", Refusing())
    monkeypatch.setattr(confinement, "network_interfaces", lambda: ["lo"])
    assert confinement.leave_network() == "network namespace with loopback alone, given from outside"
    monkeypatch.setattr(confinement, "network_interfaces", lambda: ["eth0", "lo"])
    assert confinement.leave_network().startswith("NOT SEPARATED FROM THE NETWORK")

"""What a silo's processes take from themselves: the network from the worker, the data from the gate (promise 1).

Uses Linux namespaces and Landlock through the C library. Each step says what it achieved, or why it could not, for
the audit log.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

from silo.devices import gpu_nodes
from silo.system_calls import ARCHITECTURES, SECCOMP, program

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_CREATE_RULESET_VERSION = 1

_READ = (1 << 0) | (1 << 2) | (1 << 3)  # execute, read file, read directory
_WRITE = sum(1 << bit for bit in (1, *range(4, 13)))  # write file, remove and make every kind of file
_USE = (1 << 1) | (1 << 2) | (1 << 3)  # write file, read file, read directory
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1 << 0, 1 << 1
_FILE_RIGHTS = (1 << 0) | (1 << 1) | (1 << 2) | _TRUNCATE

_CAPABILITY_VERSION_3 = 0x20080522

SYSTEM_CONFIGURATION = Path("/etc")
"""For the kit's own processes that look up names, whose files there are replaced while they run."""
_SYSTEM_FILES = (
    *(
        "/etc/ld.so.cache",
        "/etc/ld.so.conf",
        "/etc/ld.so.conf.d",
        "/etc/alternatives",
        "/etc/localtime",
        "/etc/timezone",
    ),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf"),
    *("/etc/mime.types", "/etc/os-release", "/etc/ssl/certs", "/etc/ssl/openssl.cnf", "/etc/pki/tls/certs"),
    *("/etc/pki/tls/openssl.cnf", "/etc/pki/ca-trust/extracted", "/etc/crypto-policies"),
)
"""The parts of /etc that are no secret and that libraries read. A pod's keys and configuration are in /etc too."""
_libc = ctypes.CDLL(None, use_errno=True)


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.POINTER(_Instruction)))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def leave_network() -> str:
    """Enter an empty network namespace; returns what was achieved. Call it before any thread starts."""
    uid, gid = os.getuid(), os.getgid()
    if _libc.unshare(CLONE_NEWNET) == 0:
        return "empty network namespace"
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0:
        map_own_user(uid, gid)
        return "empty network namespace in a user namespace"
    reason = _reason()
    if network_interfaces() == ["lo"]:
        return "network namespace with loopback alone, given from outside"
    return f"NOT SEPARATED FROM THE NETWORK: this host allows no network namespace ({reason})"


def map_own_user(uid: int, gid: int) -> None:
    """In a user namespace just made, be the user and group that this process was before; raises OSError."""
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def network_interfaces() -> list[str]:
    """The network interfaces this process can see, as the kernel lists them for its own namespace."""
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    return sorted(line.split(":")[0].strip() for line in lines)


def runtime_paths() -> list[Path]:
    """What any Python process here has to read: interpreter, libraries, this package, system files."""
    package = Path(__file__).resolve().parent.parent
    system = ("/usr", "/lib", "/lib64", "/bin", "/proc", "/sys", *_SYSTEM_FILES)
    # Not all of /dev: root may read the disks there, and so any file.
    devices = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
    paths = [Path(sys.prefix), Path(sys.base_prefix), *map(Path, (*system, *devices)), *map(Path, sys.path)]
    installed = Path(sys.prefix) in package.parents
    if not installed:
        paths += [package / name for name in ("audit", "coordinator", "federation", "policies", "silo")]
        paths = [path for path in paths if path.resolve() != package]
    return [path for path in paths if str(path) not in {"", "."} and path.exists()]


def confine_files(readable: Iterable[Path], writable: Iterable[Path]) -> str:
    """Let this process and its children open only these files and directories; returns what was achieved.

    From Linux 6.12 they send signals to one another alone, and reach no abstract socket that another process made.
    """
    abi = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION))
    if abi < 1:
        return f"FILES NOT CONFINED: this kernel has no Landlock ({_reason()})"
    handled = _READ | _WRITE | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0)
    attributes = _RulesetAttr(handled, 0, _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if abi >= 6 else 0)
    ruleset = _libc.syscall(
        _CREATE_RULESET,
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
        ctypes.c_uint32(0),
    )
    if ruleset < 0:
        return f"FILES NOT CONFINED: Landlock refused the rules ({_reason()})"
    try:
        for path in readable:
            _allow(ruleset, path, _READ & handled)
        for path in writable:
            _allow(ruleset, path, handled)
        for device in (Path("/dev/null"), *gpu_nodes()):
            _allow(ruleset, device, _USE)
        if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            return f"FILES NOT CONFINED: no_new_privs refused ({_reason()})"
        if _libc.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)) != 0:
            return f"FILES NOT CONFINED: Landlock refused to apply ({_reason()})"
    finally:
        os.close(ruleset)
    return f"files confined by Landlock (version {abi})"


def drop_capabilities() -> str:
    """Give up what root may do beyond an owner of files, for this process and its children; returns what was achieved.

    Root may read another process's environment past Landlock, for one.
    """
    for number in range(64):
        if _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break
    _libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    if _libc.capset(ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0)), (ctypes.c_uint32 * 6)()) != 0:
        return f"CAPABILITIES NOT DROPPED: the kernel refused ({_reason()})"
    return "no capabilities"


def forbid_sockets(*, own_ipc: bool = False) -> str:
    """Leave every thread of this process, and its children, the system calls that training needs; returns the result.

    `own_ipc` says that the process is in an IPC namespace of its run's own, with which System V memory ends.

    A seccomp filter, which makes no socket and connects none. Landlock and namespaces leave open what listens on a
    Unix socket in the file system, such as a database, and memory, keys, locks and signals that reach other processes.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return f"SOCKETS NOT FORBIDDEN, nor any other system call: those of {machine} are not known"
    instructions = program(machine, os.getpid(), gpu=bool(gpu_nodes()), own_ipc=own_ipc)
    code = (_Instruction * len(instructions))(*(_Instruction(*one) for one in instructions))
    filter_ = _Program(len(instructions), code)
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return f"SOCKETS NOT FORBIDDEN, nor any other system call: no_new_privs refused ({_reason()})"
    # SECCOMP_SET_MODE_FILTER for all threads (SECCOMP_FILTER_FLAG_TSYNC).
    if _libc.syscall(SECCOMP[machine], ctypes.c_uint(1), ctypes.c_uint(1), ctypes.byref(filter_)) != 0:
        return f"SOCKETS NOT FORBIDDEN, nor any other system call: the kernel refused the filter ({_reason()})"
    return "no sockets by seccomp"


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            access &= _FILE_RIGHTS
        rule = _PathBeneathAttr(access, descriptor)
        _libc.syscall(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(descriptor)


def _reason() -> str:
    return os.strerror(ctypes.get_errno())

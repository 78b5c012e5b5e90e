"""The system calls that are left to a process that runs submitted code, as a seccomp filter's program.

A list of what is allowed: any other call is refused, also one that a later kernel brings. docs/confinement.md has it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

Instruction = tuple[int, int, int, int]

_LOAD, _IF_EQUAL, _IF_ABOVE, _IF_NOT_BELOW, _IF_ANY_BIT = (
    0x20,
    0x15,
    0x25,
    0x35,
    0x45,
)  # classic BPF: linux/bpf_common.h
_AND, _RETURN = 0x54, 0x06
_RET_ERRNO, _RET_ALLOW = 0x00050000, 0x7FFF0000  # linux/seccomp.h
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32 = 0x40000000
_REFUSE: Instruction = (_RETURN, 0, 0, _RET_ERRNO | errno.EACCES)
_ABSENT: Instruction = (_RETURN, 0, 0, _RET_ERRNO | errno.ENOSYS)
_ALLOW: Instruction = (_RETURN, 0, 0, _RET_ALLOW)

ARCHITECTURES: Mapping[str, int] = MappingProxyType({"x86_64": 0xC000003E, "aarch64": 0xC00000B7})  # linux/audit.h
"""The machines whose calls are known, with the number by which a filter knows them."""
SECCOMP: Mapping[str, int] = MappingProxyType({"x86_64": 317, "aarch64": 277})
LAST_KNOWN = 451
"""No call above it was thought about: those are told to be absent, which C libraries expect of an older kernel."""

# A name, its number on x86_64 and on aarch64; - where the machine has no such call.
_ALLOWED = {
    "Files and pipes, within what Landlock leaves": """
        read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69,
        pwritev 296 70, preadv2 327 286, pwritev2 328 287, lseek 8 62, open 2 -, openat 257 56, creat 85 -,
        close 3 57, close_range 436 436, dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, stat 4 -,
        fstat 5 80, lstat 6 -, newfstatat 262 79, statx 332 291, statfs 137 43, fstatfs 138 44, access 21 -,
        faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents 78 -,
        getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, umask 95 166, mkdir 83 -, mkdirat 258 34,
        rmdir 84 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276, link 86 -,
        linkat 265 37, symlink 88 -, symlinkat 266 36, truncate 76 45, ftruncate 77 46, fallocate 285 47,
        fsync 74 82, fdatasync 75 83, sync_file_range 277 84, fadvise64 221 223, readahead 187 213,
        sendfile 40 71, copy_file_range 326 285, getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10,
        listxattr 194 11, llistxattr 195 12, flistxattr 196 13
    """,
    "Memory": """
        mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, brk 12 214, madvise 28 233, msync 26 227,
        mlock 149 228, mlock2 325 284, munlock 150 229, membarrier 324 283, get_mempolicy 239 236,
        pkey_alloc 330 289, pkey_free 331 290, pkey_mprotect 329 288
    """,
    "Threads and child processes": """
        fork 57 -, vfork 58 -, execve 59 221, exit 60 93, exit_group 231 94, wait4 61 260, waitid 247 95,
        futex 202 98, futex_waitv 449 449, set_robust_list 273 99, set_tid_address 218 96, rseq 334 293,
        sched_yield 24 124, sched_getaffinity 204 123, sched_getparam 143 121, sched_getscheduler 145 120,
        sched_get_priority_max 146 125, sched_get_priority_min 147 126, getcpu 309 168, getpid 39 172,
        getppid 110 173, gettid 186 178, getpgid 121 155, getpgrp 111 -, getsid 124 156, setpgid 109 154,
        setsid 112 157, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148,
        getresgid 120 150, getgroups 115 158, getpriority 140 141, getrlimit 97 163, getrusage 98 165,
        capget 125 90, arch_prctl 158 -
    """,
    "Handling signals": """
        rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
        rt_sigsuspend 130 133, rt_sigtimedwait 128 137, sigaltstack 131 132, restart_syscall 219 128,
        pause 34 -
    """,
    "Time": """
        clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101,
        gettimeofday 96 169, time 201 -, times 100 153, alarm 37 -, getitimer 36 102, setitimer 38 103,
        timer_create 222 107, timer_settime 223 110, timer_gettime 224 108, timer_getoverrun 225 109,
        timer_delete 226 111, timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87
    """,
    "Waiting": """
        poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20,
        epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, eventfd 284 -,
        eventfd2 290 19, signalfd 282 -, signalfd4 289 74
    """,
    "The connection that is open": """
        recvfrom 45 207, shutdown 48 210, getsockopt 55 209, getsockname 51 204, getpeername 52 205
    """,
    "The machine": "uname 63 160, sysinfo 99 179, getrandom 318 278",
}
_OWN_IPC = """shmget 29 194, shmat 30 196, shmctl 31 195, shmdt 67 197, semget 64 190, semop 65 193, semtimedop 220 192,
    semctl 66 191, msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187"""
_CONDITIONAL = """fcntl 72 25, ioctl 16 29, prctl 157 167, clone 56 220, kill 62 129, tgkill 234 131, prlimit64 302 261,
    sched_setaffinity 203 122, sendto 44 206"""
_TOLD_ABSENT = """clone3 435 435, flock 73 32, openat2 437 437, memfd_create 319 279, io_uring_setup 425 425,
    io_uring_enter 426 426, io_uring_register 427 427, userfaultfd 323 282"""


@dataclass(frozen=True)
class Call:
    """A system call by its name, with its number on each machine that has it."""

    name: str
    numbers: Mapping[str, int]


def _calls(text: str) -> tuple[Call, ...]:
    found = []
    for entry in text.split(","):
        name, *numbers = entry.split()
        known = {machine: int(number) for machine, number in zip(ARCHITECTURES, numbers, strict=True) if number != "-"}
        found.append(Call(name, MappingProxyType(known)))
    return tuple(found)


ALLOWED: Mapping[str, tuple[Call, ...]] = MappingProxyType({why: _calls(text) for why, text in _ALLOWED.items()})
"""The calls that are allowed whatever they are asked, by what they are for."""
OWN_IPC = _calls(_OWN_IPC)
"""The calls that are allowed in an IPC namespace of the run's own: what they make ends with it."""
CONDITIONAL = _calls(_CONDITIONAL)
"""The calls that are allowed where their arguments are harmless."""
TOLD_ABSENT = _calls(_TOLD_ABSENT)
"""The calls that are answered as by a kernel without them, because libraries then do without."""

_NAMESPACES_OR_ANOTHER_PARENT = 0x7E028000  # CLONE_NEW* and CLONE_PARENT
_FCNTL = (0, 1, 2, 3, 4, 1030, 1031, 1032, 1034)  # no locks, leases, notifications and owners: those reach others
_PRCTL = (3, 15, 16, 21, 23, 38, 39, 0x53564D41)  # names of threads and of memory, and questions
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # terminals' and pipes' state, blocking, closing on exec


def program(machine: str, process: int, *, gpu: bool, own_ipc: bool) -> list[Instruction]:
    """The filter for a process, by its own number of itself.

    With `gpu` NVIDIA's device nodes can be used. `own_ipc` says that the process is in an IPC namespace of the run's.
    """
    numbers = {call.name: call.numbers[machine] for call in CONDITIONAL}
    conditions: dict[str, list[Instruction]] = {
        "fcntl": _one_of(1, *_FCNTL),
        "ioctl": [*(_nvidia() if gpu else ()), *_one_of(1, *_IOCTL)],
        "prctl": _one_of(0, *_PRCTL),
        "clone": [_argument(0), (_IF_ANY_BIT, 0, 1, _NAMESPACES_OR_ANOTHER_PARENT), _REFUSE, _ALLOW],
        "kill": _one_of(0, process),
        "tgkill": _one_of(0, process),
        "prlimit64": _one_of(0, 0, process),
        "sched_setaffinity": _one_of(0, 0, process),
        # Without an address: to whom the socket is connected already.
        "sendto": [_argument(4), (_IF_EQUAL, 1, 0, 0), _REFUSE, _argument(4, high=True), *_given(0), _REFUSE],
    }
    made: list[Instruction] = [(_LOAD, 0, 0, _ARCHITECTURE), (_IF_EQUAL, 1, 0, ARCHITECTURES[machine]), _REFUSE]
    made += [(_LOAD, 0, 0, _NUMBER), (_IF_NOT_BELOW, 0, 1, _X32), _REFUSE]
    for name, body in conditions.items():
        made += [(_IF_EQUAL, 0, len(body), numbers[name]), *body]
    for call in (*(call for calls in ALLOWED.values() for call in calls), *(OWN_IPC if own_ipc else ())):
        made += [part for number in _number(call, machine) for part in _given(number)]
    for call in TOLD_ABSENT:
        made += [part for number in _number(call, machine) for part in ((_IF_EQUAL, 0, 1, number), _ABSENT)]
    return [*made, (_IF_ABOVE, 0, 1, LAST_KNOWN), _ABSENT, _REFUSE]


def _number(call: Call, machine: str) -> Iterator[int]:
    if machine in call.numbers:
        yield call.numbers[machine]


def _argument(index: int, *, high: bool = False) -> Instruction:
    """Load the lower half of an argument, which is all of an int, or the higher one."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * index + (4 if high else 0))


def _given(value: int) -> list[Instruction]:
    return [(_IF_EQUAL, 0, 1, value), _ALLOW]


def _one_of(index: int, *values: int) -> list[Instruction]:
    """Allow the call where an argument is one of these, and refuse it otherwise."""
    return [_argument(index), *(part for value in values for part in _given(value)), _REFUSE]


def _nvidia() -> list[Instruction]:
    """Allow what NVIDIA's driver is asked for: type F, and the small and the large numbers of its unified memory."""
    tests: list[Instruction] = [_argument(1), (_IF_ABOVE, 1, 0, 0xFF), _ALLOW]
    for mask, value in ((0xFF00, 0x4600), (0xFFFFFF00, 0x30000000)):
        tests += [_argument(1), (_AND, 0, 0, mask), *_given(value)]
    return tests

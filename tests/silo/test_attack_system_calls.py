"""Ways of submitted code to reach beside the file system, each tried by a process confined as a trainer is."""

from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from silo.system_calls import ALLOWED, CONDITIONAL, OWN_IPC, TOLD_ABSENT, program

EACCES, ENOSYS = 13, 38

PRELUDE = """
import ctypes, json, mmap, os, signal, subprocess, sys, threading, time
from pathlib import Path
from silo.confinement import *
scratch, victim = Path(sys.argv[1]), int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
outside = os.open("/usr", os.O_RDONLY)
here, there = os.pipe()
achieved = [confine_files(runtime_paths(), [scratch]), drop_capabilities(), forbid_sockets()]
def call(*arguments):
    ctypes.set_errno(0)
    values = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    return 0 if libc.syscall(*values) >= 0 else ctypes.get_errno()
"""

# Numbers of x86_64; each is called with arguments with which it would do something, or fail for another reason.
REFUSED = """
V, O, BUFFER = victim, outside, b"\\0" * 256
found = dict(
    shmget=call(29, 0x1234, 4096, 0o1666), shmat=call(30, 0, 0, 0), shmctl=call(31, 0, 0, 0), shmdt=call(67, 0),
    semget=call(64, 0x1234, 1, 0o1666), semop=call(65, 0, BUFFER, 1), semctl=call(66, 0, 0, 0),
    msgget=call(68, 7, 0o1666), msgsnd=call(69, 0, BUFFER, 1, 0), msgrcv=call(70, 0, BUFFER, 1, 0, 0),
    msgctl=call(71, 0, 0, 0), mq_open=call(240, b"m", 0o102, 0o600, 0), add_key=call(248, b"user", b"k", b"v", 1, -4),
    request_key=call(249, b"user", b"k", 0, 0), keyctl=call(250, 0, -4, 0), ptrace=call(101, 16, V, 0, 0),
    process_vm_readv=call(310, V, BUFFER, 1, BUFFER, 1, 0), process_vm_writev=call(311, V, BUFFER, 1, BUFFER, 1, 0),
    pidfd_open=call(434, V, 0), pidfd_getfd=call(438, 0, 0, 0), pidfd_send_signal=call(424, 0, 0, 0, 0),
    kill=call(62, V, 0), kill_group=call(62, -V, 0), kill_all=call(62, -1, 0), tgkill=call(234, V, V, 0),
    tkill=call(200, V, 0), rt_sigqueueinfo=call(129, V, 0, BUFFER), rt_tgsigqueueinfo=call(297, V, V, 0, BUFFER),
    setpriority=call(141, 0, V, 0), sched_setaffinity=call(203, V, 8, b"\\1\\0\\0\\0\\0\\0\\0\\0"),
    sched_setscheduler=call(144, V, 0, BUFFER), sched_setparam=call(142, V, BUFFER),
    sched_setattr=call(314, V, BUFFER, 0), ioprio_set=call(251, 1, V, 0), prlimit64=call(302, V, 7, 0, BUFFER),
    process_madvise=call(440, 0, BUFFER, 1, 20, 0), kcmp=call(312, V, V, 0, 0, 0),
    move_pages=call(279, V, 0, 0, 0, 0, 0), migrate_pages=call(256, V, 0, BUFFER, BUFFER),
    chmod=call(90, b"/usr", 0o755), fchmod=call(91, O, 0o755), fchmodat=call(268, -100, b"/usr", 0o755),
    chown=call(92, b"/usr", 0, 0), fchown=call(93, O, 0, 0), lchown=call(94, b"/usr", 0, 0),
    fchownat=call(260, -100, b"/usr", 0, 0, 0), utime=call(132, b"/usr", 0), utimes=call(235, b"/usr", 0),
    futimesat=call(261, -100, b"/usr", 0), utimensat=call(280, -100, b"/usr", 0, 0),
    utimensat_fd=call(280, O, 0, 0, 0), setxattr=call(188, b"/usr", b"user.x", b"v", 1, 0),
    lsetxattr=call(189, b"/usr", b"user.x", b"v", 1, 0), fsetxattr=call(190, O, b"user.x", b"v", 1, 0),
    removexattr=call(197, b"/usr", b"user.x"), mknod=call(133, b"x", 0o10600, 0), record_lock=call(72, O, 6, BUFFER),
    open_file_lock=call(72, O, 37, BUFFER), read_lock=call(72, O, 5, BUFFER), lease=call(72, O, 1024, 0),
    notify=call(72, O, 1026, 1), owner=call(72, here, 8, V), owner_ex=call(72, here, 15, BUFFER),
    owner_signal=call(72, here, 10, 9), inotify_init=call(253), inotify_init1=call(294, 0),
    fanotify_init=call(300, 0, 0), memfd_secret=call(447, 0), bpf=call(321, 0, BUFFER, 64),
    perf_event_open=call(298, BUFFER, 0, -1, -1, 0), io_setup=call(206, 1, BUFFER),
    unshare_user=call(272, 0x10000000), unshare_files=call(272, 0x400), setns=call(308, O, 0),
    mount=call(165, b"/", b"/", 0, 4096, 0), umount2=call(166, b"/proc", 2), pivot_root=call(155, b".", b"."),
    chroot=call(161, b"/usr"), open_tree=call(428, -100, b"/", 1), fsopen=call(430, b"tmpfs", 0),
    move_mount=call(429, O, b"", -100, b"/", 4), mount_setattr=call(442, -100, b"/", 0, BUFFER, 32),
    name_to_handle_at=call(303, -100, b"/", BUFFER, BUFFER, 0), open_by_handle_at=call(304, O, BUFFER, 0),
    personality=call(135, 0x0040000), modify_ldt=call(154, 0, BUFFER, 1), seccomp=call(317, 1, 0, BUFFER),
    landlock=call(444, 0, 0, 1), outlive_parent=call(157, 1, 0, 0, 0, 0),
    allow_tracer=call(157, 0x59616D61, -1, 0, 0, 0), adopt=call(157, 36, 1, 0, 0, 0),
    dumpable=call(157, 4, 1, 0, 0, 0), memory_map=call(157, 35, 1, 0, 0, 0),
    no_capabilities=call(126, BUFFER, BUFFER), setuid=call(105, 0), setgroups=call(116, 0, 0),
    socket=call(41, 1, 1, 0), socketpair=call(53, 1, 1, 0, BUFFER), connect=call(42, here, BUFFER, 16),
    bind=call(49, here, BUFFER, 16), listen=call(50, here, 1), accept=call(43, here, 0, 0),
    accept4=call(288, here, 0, 0, 0), setsockopt=call(54, here, 1, 2, BUFFER, 4),
    send_to_address=call(44, here, b"x", 1, 0, BUFFER, 16), sendmsg=call(46, here, BUFFER, 0),
    sendmmsg=call(307, here, BUFFER, 1, 0), recvmsg=call(47, here, BUFFER, 0),
    execveat=call(322, O, b"bin/true", 0, 0, 0), typed_for=call(16, 0, 0x5412, BUFFER),
    file_flags=call(16, O, 0x40086602, BUFFER), socket_owner=call(16, here, 0x8901, BUFFER),
    syslog=call(103, 3, BUFFER, 10), sethostname=call(170, b"x", 1), settimeofday=call(164, BUFFER, 0),
    swapon=call(167, b"x", 0), reboot=call(169, 0, 0, 0, 0), acct=call(163, 0), quotactl=call(179, 0, 0, 0, 0),
    init_module=call(175, BUFFER, 1, b""), kexec_load=call(246, 0, 0, 0, 0), sync=call(162),
    vmsplice=call(278, there, BUFFER, 0, 0), splice=call(275, here, 0, there, 0, 1, 0), mincore=call(27, 0, 0, 0),
    get_robust_list=call(274, V, BUFFER, BUFFER), mbind=call(237, 0, 0, 0, 0, 0, 0),
    lookup_dcookie=call(212, 0, 0, 0), x32=call(0x40000000 | 39), x32_execve=call(0x40000000 | 520, 0, 0, 0),
    **{f"clone_{flag:x}": call(56, flag | 17, 0, 0, 0, 0) for flag in
       (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x8000)},
)
code = mmap.mmap(-1, 4096, prot=7)
code.write(b"\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3")  # mov eax, 20 (getpid of i386); int 0x80; ret
of_i386 = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
absent = dict(
    clone3=call(435, BUFFER, 64), flock=call(73, O, 1), memfd_create=call(319, b"m", 0),
    openat2=call(437, -100, b"/", BUFFER, 24), io_uring_setup=call(425, 1, BUFFER),
    io_uring_enter=call(426, 0, 0, 0, 0, 0), io_uring_register=call(427, 0, 0, 0, 0), userfaultfd=call(323, 0),
    fchmodat2=call(452, -100, b"/usr", 0o755, 0), newer=call(600), much_newer=call(0x3FFFFFFF),
)
print(json.dumps({"achieved": achieved, "refused": found, "absent": absent, "of_i386": of_i386}))
"""

WORKS = """
seen = []
signal.signal(signal.SIGUSR1, lambda *_: seen.append("signal"))
os.kill(os.getpid(), signal.SIGUSR1)
signal.raise_signal(signal.SIGUSR1)
thread = threading.Thread(target=seen.append, args=("thread",))
thread.start(); thread.join()
(scratch / "a").mkdir(); (scratch / "a" / "b").write_text("x" * 10); os.rename(scratch / "a" / "b", scratch / "c")
done = subprocess.run(["/bin/cat", str(scratch / "c")], capture_output=True, text=True, timeout=30)
child = os.fork()
if child == 0:
    os.setsid(); os._exit(3)
print(json.dumps({"achieved": achieved, "seen": seen, "read": done.stdout,
    "forked": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "affinity": len(os.sched_getaffinity(0)) > 0,
    "name": libc.prctl(15, b"worker", 0, 0, 0), "clock": time.monotonic() > 0,
    "random": len(os.urandom(8)), "null": os.write(os.open("/dev/null", os.O_WRONLY), b"x"), "tty": os.isatty(0)}))
"""


def _child(code: str, scratch: Path) -> dict[str, Any]:
    victim = subprocess.Popen(["/bin/sleep", "60"])
    try:
        command = [sys.executable, "-P", "-c", PRELUDE + code, str(scratch), str(victim.pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd="/")
        assert victim.poll() is None, "the other process was ended"
    finally:
        victim.kill()
        victim.wait()
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of the calls are those of x86_64")
def test_no_call_reaches_another_process_or_leaves_anything_for_the_next_run(tmp_path: Path) -> None:
    found = _child(REFUSED, tmp_path)
    assert found["achieved"][2] == "no sockets by seccomp"
    assert {name: error for name, error in found["refused"].items() if error != EACCES} == {}
    assert {name: error for name, error in found["absent"].items() if error != ENOSYS} == {}
    assert found["of_i386"] == -EACCES, "another architecture's numbers reach the kernel"


def test_what_training_needs_works(tmp_path: Path) -> None:
    found = _child(WORKS, tmp_path)
    assert sorted(found["seen"]) == ["signal", "signal", "thread"]
    assert found["read"] == "x" * 10
    del found["achieved"], found["seen"], found["read"]
    assert found == {"forked": 3, "affinity": True, "name": 0, "clock": True, "random": 8, "null": 1, "tty": False}


def _landlock() -> int:
    return int(ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1)))


@pytest.mark.skipif(_landlock() < 6, reason="this kernel's Landlock does not know signals")
def test_landlock_alone_keeps_signals_from_others_too(tmp_path: Path) -> None:
    """A second wall: without the filter, as on a machine whose system calls are not known."""
    code = """
import signal
def attempt(what):
    try: what(); return "done"
    except OSError as error: return type(error).__name__
own = subprocess.Popen(["/bin/sleep", "60"])
print(json.dumps({"other": attempt(lambda: os.kill(victim, 0)),
                  "pidfd": attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(victim), 0)),
                  "parent": attempt(lambda: os.kill(os.getppid(), 0)), "own": attempt(own.kill),
                  "code": own.wait()}))
"""
    prelude = PRELUDE.replace(", forbid_sockets()]", "]")
    assert prelude != PRELUDE
    victim = subprocess.Popen(["/bin/sleep", "60"])
    try:
        command = [sys.executable, "-P", "-c", prelude + code, str(tmp_path), str(victim.pid)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    finally:
        victim.kill()
        victim.wait()
    assert done.returncode == 0, done.stderr
    refused = "PermissionError"
    assert json.loads(done.stdout) == {"other": refused, "pidfd": refused, "parent": refused, "own": "done", "code": -9}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("own_ipc", [False, True])
def test_the_filter_is_a_program_that_the_kernel_takes(machine: str, gpu: bool, own_ipc: bool) -> None:
    """Every jump goes forwards to an instruction, the last one decides, and no call is in two lists."""
    made = program(machine, 7, gpu=gpu, own_ipc=own_ipc)
    assert len(made) <= 4096
    assert made[-1][0] == 0x06
    for place, (code, when, otherwise, _) in enumerate(made):
        if code & 7 == 5:
            assert place + 1 + max(when, otherwise) < len(made)
    calls = [*(call for calls in ALLOWED.values() for call in calls), *OWN_IPC, *CONDITIONAL, *TOLD_ABSENT]
    numbers = [call.numbers[machine] for call in calls if machine in call.numbers]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="reads the headers of x86_64")
@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "/usr/include/asm-generic/unistd.h")],
)
def test_the_numbers_are_the_kernels(machine: str, header: str) -> None:
    if not Path(header).exists():
        pytest.skip("the kernel's headers are not installed")
    known = {}
    for line in Path(header).read_text().splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "#define" and words[2].isdigit():
            known[words[1].removeprefix("__NR3264_").removeprefix("__NR_")] = int(words[2])
    known.setdefault("newfstatat", known.get("fstatat", -1))
    calls = [*(call for calls in ALLOWED.values() for call in calls), *CONDITIONAL, *TOLD_ABSENT]
    for call in calls:
        if machine in call.numbers:
            assert known[call.name] == call.numbers[machine], call.name

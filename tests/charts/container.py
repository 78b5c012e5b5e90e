"""As much of a container as the charts ask of one: an image's tree read-only, volumes, a user that is not root."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from federation.processes import Child

USER = 65532
DEVICES = ("null", "zero", "full", "random", "urandom")


@dataclass(frozen=True)
class Volume:
    """Something mounted into a container; a source of None is memory."""

    target: str
    source: Path | None = None
    read_only: bool = False


@dataclass
class Container:
    """What runs in a tree of its own: the system's libraries, the interpreter, an image's prefix, its volumes."""

    root: Path
    image: Path
    volumes: Sequence[Volume] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    network: str | None = None

    def start(self, name: str, command: Sequence[str], log: Path) -> Child:
        """Start a command as user 65532, without capabilities, in a mount namespace of its own."""
        return Child(name, self._command(command), log)

    def run(self, command: Sequence[str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self._command(command),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def _command(self, command: Sequence[str]) -> list[str]:
        self.root.mkdir(exist_ok=True)
        script = self.root.with_name(f"{self.root.name}-{len(list(self.root.parent.iterdir()))}.sh")
        script.write_text(self._script(command))
        entered = ["nsenter", f"--net=/run/netns/{self.network}"] if self.network else []
        return [*entered, "unshare", "--mount", "--propagation", "private", "sh", str(script)]

    def _script(self, command: Sequence[str]) -> str:
        root = str(self.root)
        lines = ["set -eu", f"mount -t tmpfs -o mode=755 tmpfs {root}", f"cd {root}"]
        lines += ["mkdir -p usr etc proc dev opt/concordat", "mount -t proc proc proc"]
        for name in ("bin", "lib", "lib64", "sbin"):
            lines.append(f"[ ! -e /{name} ] || ln -s usr/{name} {name}")
        lines.append("cp /etc/ld.so.cache /etc/nsswitch.conf /etc/hosts etc/ 2>/dev/null || true")
        lines.append(f"echo 'concordat:x:{USER}:{USER}::/nonexistent:/usr/sbin/nologin' > etc/passwd")
        lines += _bind(Path("/usr"), "/usr", read_only=True)
        if not sys.base_prefix.startswith("/usr"):
            lines += _bind(Path(sys.base_prefix), sys.base_prefix, read_only=True)
        lines += _bind(self.image, "/opt/concordat", read_only=True)
        lines += [f"touch dev/{name} && mount --bind /dev/{name} dev/{name}" for name in DEVICES]
        for volume in sorted(self.volumes, key=lambda one: one.target):
            if volume.source is None:
                lines.append(f"mkdir -p .{volume.target} && mount -t tmpfs -o mode=1777 tmpfs .{volume.target}")
            else:
                lines += _bind(volume.source, volume.target, volume.read_only)
        lines.append(f"mount -o remount,ro,mode=755 {root}")
        environment = {"PATH": "/opt/concordat/bin:/usr/bin:/bin", "LANG": "C.UTF-8", **self.environment}
        words = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command]
        drop = (
            f"/usr/bin/setpriv --reuid={USER} --regid={USER} --clear-groups "
            "--bounding-set=-all --inh-caps=-all --no-new-privs"
        )
        lines.append(f"exec chroot . {drop} {shlex.join(words)}")
        return "\n".join(lines) + "\n"


def _bind(source: Path, target: str, read_only: bool) -> list[str]:
    option = "bind,ro" if read_only else "bind"
    return [f"mkdir -p .{target}", f"mount -o {option} {shlex.quote(str(source))} .{target}"]

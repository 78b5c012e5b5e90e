"""Notices, once a second, what changed on disk: the manifest, and the coordinator's own certificate."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass

from audit.errors import AuditError
from coordinator.authority import Authority
from federation.errors import ConcordatError
from federation.faults import attempt
from federation.home import Home
from federation.logs import tell
from federation.manifest import SignedManifest, accept_manifest
from federation.renewal import install_renewed, is_due, next_signing_request
from policies.errors import PolicyError

WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Reactions:
    """What is done about a change."""

    manifest: Callable[[SignedManifest, SignedManifest], None]
    """Called with the manifest before and the one now."""
    certificate: Callable[[], None]
    """Called when another certificate lies in the home."""
    tick: Callable[[], None]
    """Called every time."""


class Watch:
    """A thread that looks at a coordinator's home, and at the authority beside it where there is one."""

    def __init__(
        self, home: Home, authority: Authority | None, current: Callable[[], SignedManifest], reactions: Reactions
    ) -> None:
        self._home = home
        self._authority = authority
        self._current = current
        self._reactions = reactions
        self._known = current()
        self._certificate = (0, 0)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._said = ""
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking; returns once nothing is under way."""
        self._stopping.set()
        self._thread.join()

    def take_over(self) -> None:
        """Take over the newest manifest now; raises ConcordatError or PolicyError where it is none to go by."""
        with self._lock:
            if self._authority is not None:
                newest = self._authority.manifest()
                if newest.edition > self._current().edition:
                    accept_manifest(self._home, newest.document.text, newest.signature)
            newest = self._current()
            if newest.document.digest != self._known.document.digest:
                before, self._known = self._known, newest
                self._reactions.manifest(before, newest)

    def _run(self) -> None:
        self._certificate = self._edition()
        while not self._stopping.wait(WATCH_SECONDS):
            attempt(self._look, lambda problem: self._say(f"the home was not looked at: {problem}"))

    def _look(self) -> None:
        try:
            self._reactions.tick()
            self._renew()
            if self._edition() != self._certificate:
                self._certificate = self._edition()
                self._reactions.certificate()
            self.take_over()
        except (ConcordatError, PolicyError, AuditError, OSError) as error:
            # A manifest half copied, or not signed by the authority: requests are refused until it is mended.
            self._say(str(error))
        else:
            self._said = ""

    def _renew(self) -> None:
        """Renew the coordinator's own certificate where the authority is at hand and half its life is over."""
        if self._authority is not None and is_due(self._home):
            csr = next_signing_request(self._home)
            chain = self._authority.renew(self._home.identity(), csr)
            install_renewed(self._home, json.dumps(self._authority.bundle(chain)).encode())

    def _edition(self) -> tuple[int, int]:
        status = self._home.certificate.stat()
        return status.st_mtime_ns, status.st_ino

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            tell(text)

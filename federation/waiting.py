"""A process that is started before its home has joined a federation, as an orchestrator starts it, waits for that."""

from __future__ import annotations

import time
from contextlib import closing, nullcontext

from prometheus_client import CollectorRegistry

from federation.home import Home
from federation.logs import Say
from federation.metrics import StatusServer

LOOK_SECONDS = 1.0


def wait_for_certificate(home: Home, metrics: str | None, say: Say) -> None:
    """Return once the home has a certificate; answer at `metrics` meanwhile: healthy, not ready."""
    if home.certificate.exists():
        return
    say(f"waiting for a certificate in {home.path}: join a federation, with the same home")
    reason = ["this home has no certificate yet"]
    status = StatusServer(metrics, CollectorRegistry(), tuple, lambda: reason) if metrics else None
    with closing(status) if status is not None else nullcontext():
        while not home.certificate.exists():
            time.sleep(LOOK_SECONDS)

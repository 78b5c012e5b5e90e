"""What can be reached from here: whether the network policies around a pod are what its chart says."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from federation.addresses import split_address

SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """One attempt: what was tried, what came of it, and whether that is as it has to be."""

    what: str
    outcome: str
    as_expected: bool

    def __str__(self) -> str:
        """One line."""
        return f"{'ok  ' if self.as_expected else 'FAIL'} {self.what}: {self.outcome}"


def try_all(
    ready: Iterable[str], reached: Iterable[str], unreached: Iterable[str], unresolved: Iterable[str]
) -> list[Finding]:
    """Try everything at once, each for a few seconds; raises UsageError for an address that is none."""
    attempts: list[Callable[[], Finding]] = []
    for address in ready:
        attempts.append(lambda address=address: _ready(address, *split_address(address)))  # type: ignore[misc]
    for expected, addresses in ((True, reached), (False, unreached)):
        for address in addresses:
            host, port = split_address(address)
            attempts.append(lambda h=host, p=port, a=address, e=expected: _reach(a, h, p, e))  # type: ignore[misc]
    for name in unresolved:
        attempts.append(lambda name=name: _resolve(name))  # type: ignore[misc]
    with ThreadPoolExecutor(max(1, len(attempts))) as pool:
        return [future.result() for future in [pool.submit(attempt) for attempt in attempts]]


def _ready(address: str, host: str, port: int) -> Finding:
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = answer.read(1000).decode("utf-8", "replace").strip().replace("\n", "; ")
        return Finding(f"{address} is ready", said, answer.status == 200)
    except (OSError, http.client.HTTPException) as error:
        return Finding(f"{address} is ready", str(error) or type(error).__name__, as_expected=False)
    finally:
        connection.close()


def _reach(address: str, host: str, port: int, expected: bool) -> Finding:  # noqa: FBT001  the expectation
    """Try a TCP connection. One that is refused was answered: the packet got there."""
    what = f"{address} {'answers' if expected else 'does not answer'}"
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except ConnectionRefusedError:
        return Finding(what, "the connection was refused", as_expected=False)
    except OSError as error:
        return Finding(what, str(error) or type(error).__name__, not expected)
    return Finding(what, "connected", expected)


def _resolve(name: str) -> Finding:
    what = f"{name} is not found"
    try:
        socket.getaddrinfo(name, None)
    except OSError as error:
        return Finding(what, str(error), as_expected=True)
    return Finding(what, "it was", as_expected=False)

"""A process that is started before its home has a certificate."""

from __future__ import annotations

import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path

from demo.ports import reserve_port
from federation.home import Home
from federation.waiting import wait_for_certificate


def test_it_is_healthy_and_not_ready_until_the_certificate_comes(federation, tmp_path: Path) -> None:
    home = Home(tmp_path)
    address = f"127.0.0.1:{reserve_port()}"
    said: list[str] = []
    started = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        started.set()

    waiting = threading.Thread(target=wait_for_certificate, args=(home, address, say))
    waiting.start()
    assert started.wait(20)
    code, text = readiness(address)
    assert (code, text) == (503, "this home has no certificate yet\n")
    shutil.copy(federation.homes["silo-a"].certificate, home.certificate)
    waiting.join(20)
    assert not waiting.is_alive()
    assert said == [f"waiting for a certificate in {tmp_path}: join a federation, with the same home"]


def readiness(address: str) -> tuple[int, str]:
    """The answer, once somebody listens."""
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except urllib.error.URLError:
            continue


def test_with_a_certificate_nothing_is_waited_for(federation) -> None:
    said: list[str] = []
    wait_for_certificate(federation.homes["silo-a"], None, said.append)
    assert said == []

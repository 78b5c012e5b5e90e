"""Skips cannot hide: under CI a skip whose reason is not expected fails the run."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# For every test: neither a busy machine nor chance may fail one.
settings.register_profile("concordat", deadline=None, derandomize=True)
settings.load_profile("concordat")

EXPECTED_SKIPS = (
    r"this host allows no (network|user) namespace",
    r"this kernel has no Landlock",
    r"this kernel's Landlock does not know signals",
    r"the kernel's headers are not installed",
    r"(the numbers of the calls are those|reads the headers) of x86_64",
    r"needs root",
    r"UCI Heart Disease files not given",
    r"UCI credit card file not given",
    r"no Chromium found",
    r"strace (is not installed|may not attach)",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--heart-dir", default=os.environ.get("CONCORDAT_HEART_DIR"), help="directory with the UCI Heart Disease files"
    )
    parser.addoption(
        "--credit-dir",
        default=os.environ.get("CONCORDAT_CREDIT_DIR"),
        help="directory with taiwan_credit_default.csv of the UCI data set Default of Credit Card Clients",
    )


def pytest_configure() -> None:
    """Ctrl-C interrupts whatever tests start; a shell has what it starts in the background ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that found whole federations, then those that start processes: whatever takes longest.

    Files are handed out whole (--dist loadfile), so that a long one begun late would keep all others waiting.
    """
    ranks: dict[Path, int] = {}
    for item in items:
        processes = any(item.get_closest_marker(name) for name in ("federation", "tensorflow"))
        rank = 0 if item.path.parent.name == "e2e" else 1 if processes else 2
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    items.sort(key=lambda item: ranks[item.path])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("CI"):
        return
    reasons = [str(report.longrepr[2]) for report in reporter.stats.get("skipped", [])]
    hidden = [reason for reason in reasons if not any(re.search(known, reason) for known in EXPECTED_SKIPS)]
    if hidden:
        reporter.write_line("unexpected skips: " + "; ".join(sorted(set(hidden))), red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED

"""Skips cannot hide: under CI a skip whose reason is not expected fails the run."""

from __future__ import annotations

import os
import re

import pytest

EXPECTED_SKIPS = (
    r"this host allows no (network|user) namespace",
    r"this kernel has no Landlock",
    r"needs root",
    r"UCI Heart Disease files not given",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--heart-dir", default=os.environ.get("CONCORDAT_HEART_DIR"), help="directory with the UCI Heart Disease files"
    )


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

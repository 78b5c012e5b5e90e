"""An older policy, put in the place of the one that was active, once the log no longer says which that was."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from audit import keys as log_keys
from audit.erasure import apply, find_due, set_rules
from audit.log import AuditLog, Rotation, utc_now
from federation.enrolment import log_origin

from .simulator import POLICY, SILO, Consortium
from .test_gate_start import SECONDS, entries, gate, own, site, stop

__all__ = ["own", "site"]
pytestmark = pytest.mark.federation


def remove_all_but_the_newest(own: Consortium) -> None:
    """Retention ended for every entry but the last few."""
    home = own.homes[SILO]
    peer = home.identity()
    origin, key = log_origin(peer.federation, peer.role, peer.name), log_keys.load_key(home.log_key)
    with AuditLog.open(home.audit, origin=origin, key=key, rotation=Rotation(max_bytes=1)) as log:
        set_rules(log, ["entries=P0D..PT1M"], peer.uri)
        apply(log, find_due(log, utc_now() + timedelta(minutes=2)), peer.uri)
    assert "policy.activate" not in {entry["action"] for entry in entries(own)}


def test_an_older_policy_is_refused_also_where_its_successor_is_not_in_the_log_any_more(
    own: Consortium,
    site: Path,
) -> None:
    policy = site / "policy" / "policy.yaml"
    policy.write_text(POLICY.replace("version: 1,", "version: 2,"))
    with gate(own, site) as child:
        child.expect("waiting for the coordinator", SECONDS)
        stop(child)
    for _ in range(2):
        remove_all_but_the_newest(own)
        policy.write_text(POLICY)
        with gate(own, site) as child:
            assert child.wait(SECONDS) != 0
        last = entries(own)[-1]
        assert (last["action"], "expected more than 2" in last["reason"]) == ("policy.rejected", True)
        policy.write_text(POLICY.replace("version: 1,", "version: 2,"))
        with gate(own, site) as child:
            child.expect("waiting for the coordinator", SECONDS)
            stop(child)

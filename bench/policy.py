"""How long one decision takes under a large policy: the 99th percentile against one millisecond.

The policy has `--rules` entries (datasets, approved apps, columns, purposes, attestations) and uses nearly every
section of the language; the requests ask for the last entry of each list, so nothing is found early. Times are those
of the clock and of the processor; on a machine that others use, the clock's 99th percentile is theirs as well. Prints
one JSON line.
"""

import argparse
import datetime as dt
import json
import statistics
import sys
import time
from typing import Any

from policies.engine import decide
from policies.model import load_policy
from policies.request import Admission, Certificate, Egress, Ingress, LogHealth, Party, Privacy, View

NOW = dt.datetime(2026, 11, 20, 19, tzinfo=dt.UTC)
LIMIT_MS = 1.0


def policy_of(rules: int) -> dict[str, Any]:
    """A policy of about so many entries that decide something."""
    share = max(rules // 5, 1)
    places = ["DE", "FR", "NL", "BE", "AT", "IT", "ES", "PT", "EEA", "EU"]
    destination = {"countries": places, "basis": "gdpr-art-9-2-j"}
    document = {"ref": "r", "expires": "2027-06-30"}
    columns = [f"column_{number:03}" for number in range(share)]
    return {
        "apiVersion": "concordat/v1",
        "kind": "SiloPolicy",
        "metadata": {"name": "large", "version": 1, "owner": "o", "effective": "2026-01-01"},
        "residency": {
            "silo": "DE",
            "destinations": {"model_update": destination, "metrics": destination, "final_model": destination},
        },
        "purposes": {
            "vocabulary": "duo",
            "allow": [f"DS:MONDO:{number:07}" for number in range(share)],
            "legal_basis": ["gdpr-art-6-1-e", "gdpr-art-9-2-j"],
            "persons": [f"operator-{number}" for number in range(10)],
            "permit": document,
            "ethics": document,
            "dpia": document,
            "agreement": document,
        },
        "datasets": {
            f"dataset-{number:03}": {
                "columns": {"allow": columns, "deny": ["name", "date"], "classes": dict.fromkeys(columns, "none")},
                "rows": {"minimum": 50, "consent": "agreed", "opt_out": "objected"},
            }
            for number in range(share)
        },
        "apps": {
            "approvals": "required",
            "reviewers": ["anna", "bela", "chen"],
            "allow": [
                {"digest": f"sha256:{number:064x}", "expires": "2027-01-01", "reviewers": 2, "uses": 20}
                for number in range(share)
            ],
        },
        "runs": {
            "max_rounds": 200,
            "windows": ["Mon-Fri 00:00-06:00 Europe/Berlin", "Mon-Fri 18:00-24:00 Europe/Berlin"],
            "max_concurrent": 1,
            "minimum_silos": 2,
        },
        "egress": {
            "metrics": {"allow": [f"metric_{number}" for number in range(20)], "minimum_count": 20},
            "update": {"max_norm": 10.0, "max_bytes": "64MiB"},
        },
        "privacy": {
            "mode": "example_dp",
            "clip_norm": 1.0,
            "budget": {"epsilon": 8.0, "delta": 1e-5, "per": "dataset", "window": "P1Y"},
        },
        "identity": {"certificates": {"max_age": "P90D", "min_left": "P2D"}},
        "audit": {"retention": {"maximum": "P10Y"}, "witnesses": {"quorum": 2}, "verify_age": "P7D", "clock_skew": 5.0},
        "attestations": [
            {"name": f"attestation-{number}", "ref": "r", "expires": "2027-06-30"} for number in range(share)
        ],
    }


def requests_of(rules: int) -> dict[str, object]:
    """A request of each stage that the policy allows, by its stage."""
    share = max(rules // 5, 1)
    columns = tuple(f"column_{number:03}" for number in range(share))
    dataset = f"dataset-{share - 1:03}"
    metrics = tuple(f"metric_{number}" for number in range(20))
    privacy = Privacy(mode="example_dp", clip_norm=1.0, epsilon=1.0, spent=4.0, delta=1e-5)
    day = dt.timedelta(days=1)
    silos = tuple(Party(f"silo-{number}", "silo", "DE" if number == 0 else "FR") for number in range(20))
    return {
        "admission": Admission(
            purpose=f"DS:MONDO:{share - 1:07}",
            dataset=dataset,
            columns=columns,
            app_digest=f"sha256:{share - 1:064x}",
            rounds=200,
            metrics=metrics,
            parties=(Party("hub", "coordinator", "NO"), *silos, Party("operator-9", "operator", "NO")),
            silo="silo-0",
            quorum=20,
            authors=("fritz",),
            reviewers=("anna", "bela", "chen"),
            uses=5,
            running=0,
            certificates=(Certificate("silo-0", NOW - day, NOW + 9 * day),),
            privacy=privacy,
            log=LogHealth(
                witnesses=2, verified=NOW - day, clock_skew=0.0, oldest_payload=NOW - day, payloads_known=True
            ),
        ),
        "view": View(dataset, columns, 50, "agreed", "objected"),
        "ingress": Ingress(200, 200, 1000, 1000, "float32", True, 4000),
        "egress": Egress(
            round=200,
            examples=20,
            metrics=dict.fromkeys(metrics, 0.5),
            declared_metrics=metrics,
            values=1000,
            expected_values=1000,
            dtype="float32",
            finite=True,
            norm=10.0,
            size_bytes=4000,
            privacy=privacy,
        ),
    }


def measure(rules: int, decisions: int) -> dict[str, Any]:
    """Decide each request so often, in turn, and time each decision alone; in milliseconds."""
    document = load_policy(json.dumps(policy_of(rules)), "policy.yaml")
    stages = {}
    for stage, request in requests_of(rules).items():
        decision = decide(document, request, NOW)
        if not decision.allowed:
            raise SystemExit(f"got {decision}, expected an allowed request of the stage {stage}")
        for _ in range(200):
            decide(document, request, NOW)
        clock, processor = [], []
        for _ in range(decisions):
            start, busy = time.perf_counter_ns(), time.thread_time_ns()
            decide(document, request, NOW)
            processor.append((time.thread_time_ns() - busy) / 1e6)
            clock.append((time.perf_counter_ns() - start) / 1e6)
        stages[stage] = {
            "clock_median_ms": _percentile(clock, 50),
            "clock_p99_ms": _percentile(clock, 99),
            "processor_median_ms": _percentile(processor, 50),
            "processor_p99_ms": _percentile(processor, 99),
        }
    worst = max(figures["processor_p99_ms"] for figures in stages.values())
    return {"rules": rules, "decisions": decisions, "stages": stages, "worst_p99_ms": worst, "limit_ms": LIMIT_MS}


def _percentile(times: list[float], percent: int) -> float:
    return round(statistics.quantiles(times, n=100)[percent - 1], 4)


def main() -> None:
    """Exit status 1 where the 99th percentile of the processor's time in the slowest stage is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rules", type=int, default=200)
    parser.add_argument("--decisions", type=int, default=5000)
    arguments = parser.parse_args()
    found = measure(arguments.rules, arguments.decisions)
    print(json.dumps(found))
    sys.exit(found["worst_p99_ms"] > LIMIT_MS)


if __name__ == "__main__":
    main()

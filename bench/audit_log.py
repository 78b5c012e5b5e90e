"""Speed of the audit log: durable appends through its API, and verification of a large log by the one-file verifier.

.venv/bin/python bench/audit_log.py                    # 1,000,000 entries, 32 threads
.venv/bin/python bench/audit_log.py --entries 100000 --directory /path/on/the/disk/in/question
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit import verify as verifier
from audit.entry import Event
from audit.log import AuditLog


def event(n: int) -> Event:
    """An entry of the size that a gate writes for a round."""
    return Event(
        "spiffe://heart.example/silo/hospital-a",
        "round.egress",
        "run/heart-disease-106335",
        decision="allow",
        rule="egress.allow",
        reason="every rule of the policy allows it",
        policy="sha256:" + "a" * 64,
        run="heart-disease-106335",
        round=n % 1000,
        detail={"update": "sha256:" + "b" * 64, "norm_micro": n, "bytes": 4096, "examples": 140},
    )


def appends(directory: Path, threads: int, seconds: float) -> dict[str, float]:
    """Each thread appends one entry at a time and waits for it, for so long; latencies in milliseconds."""
    events = [event(n) for n in range(64)]
    latencies: list[list[float]] = [[] for _ in range(threads)]
    with AuditLog.open(directory, origin="bench/log", key=Ed25519PrivateKey.generate()) as log:
        start = time.perf_counter()

        def work(mine: list[float]) -> None:
            n = 0
            while (began := time.perf_counter()) - start < seconds:
                log.append(events[n % 64])
                mine.append(time.perf_counter() - began)
                n += 1

        workers = [threading.Thread(target=work, args=(mine,)) for mine in latencies]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        elapsed = time.perf_counter() - start
    every = sorted(1000 * value for mine in latencies for value in mine)
    assert verifier.verify(directory).size >= len(every)
    return {
        "threads": threads,
        "per_second": round(len(every) / elapsed),
        "p50_ms": round(statistics.median(every), 3),
        "p99_ms": round(every[int(0.99 * len(every))], 3),
        "max_ms": round(every[-1], 3),
    }


def build(directory: Path, entries: int) -> None:
    """A log of so many entries, in batches, with a clock of its own so that segments rotate by size alone."""
    now = datetime(2026, 11, 1, tzinfo=UTC)

    def clock() -> datetime:
        nonlocal now
        now += timedelta(milliseconds=1)
        return now

    with AuditLog.open(directory, origin="bench/log", key=Ed25519PrivateKey.generate(), clock=clock) as log:
        while log.size < entries:
            count = min(5000, entries - log.size)
            log.append(*[event(n) for n in range(log.size, log.size + count)])


def verification(directory: Path) -> dict[str, float]:
    """The verifier as an auditor runs it: alone, isolated from any package."""
    command = [sys.executable, "-I", "-S", verifier.__file__, str(directory), "--json"]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    elapsed = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    report = json.loads(done.stdout)
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    return {
        "entries": report["size"],
        "megabytes": round(size / 1e6),
        "seconds": round(elapsed, 2),
        "per_second": round(report["size"] / elapsed),
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "memory_mb": round(after.ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=1_000_000, help="of the log that is verified")
    parser.add_argument("--threads", type=int, default=32, help="that append at once")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement of appends")
    parser.add_argument("--directory", help="on the disk to measure; the default is the temporary directory")
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="audit-bench-", dir=options.directory))
    try:
        print(json.dumps({"load": os.getloadavg()[0], "cores": os.cpu_count()}), flush=True)
        for threads in (1, options.threads):
            result = appends(scratch / f"appends-{threads}", threads, options.seconds)
            print(json.dumps({"append": result}), flush=True)
        for entries in sorted({options.entries // 10, options.entries}):
            log = scratch / f"log-{entries}"
            build(log, entries)
            print(json.dumps({"verify": verification(log)}), flush=True)
            shutil.rmtree(log)
        print(json.dumps({"load": os.getloadavg()[0]}))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()

"""OCSF events: API Activity (6003) and Datastore Activity (6005) with the profiles security_control, record_integrity.

`record_integrity` is a profile of the schema's development version 1.9.0-dev. Its fingerprint is over the event
itself, without fingerprint and signatures, in the canonical form of RFC 8785; each event names the one before it,
so that an event removed from the file is noticed. The export holds no key and signs nothing: the log's own signed
tree is in `unmapped`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import rfc8785

from audit.export.rendering import Source, product_version
from audit.merkle import leaf_hash
from audit.snapshot import Entry

VERSION = "1.9.0-dev"
API, DATASTORE = 6003, 6005
_CLASSES = {API: "API Activity", DATASTORE: "Datastore Activity"}
_ACTIVITIES = {
    API: {1: "Create", 2: "Read", 3: "Update", 4: "Delete", 99: "Other"},
    DATASTORE: {4: "Query", 7: "Delete"},
}
_CONTROL = {
    "allow": {"action_id": 1, "action": "Allowed", "disposition_id": 1, "disposition": "Allowed"},
    "deny": {"action_id": 2, "action": "Denied", "disposition_id": 2, "disposition": "Blocked"},
    "record": {"action_id": 3, "action": "Observed", "disposition_id": 17, "disposition": "Logged"},
}
_STATUS = {
    "allow": {"status_id": 1, "status": "Success", "severity_id": 1, "severity": "Informational"},
    "deny": {"status_id": 2, "status": "Failure", "severity_id": 3, "severity": "Medium"},
    "record": {"status_id": 1, "status": "Success", "severity_id": 1, "severity": "Informational"},
}
# What an action does to what it names: (class, activity). All others are API activities of kind "Other".
_KINDS = {
    "view.build": (DATASTORE, 4),
    "log.erased": (DATASTORE, 7),
    "log.purged": (DATASTORE, 7),
    "run.submit": (API, 1),
    "run.admit": (API, 1),
    "run.readmit": (API, 1),
    "round.ingress": (API, 3),
    "round.egress": (API, 2),
    "reply.again": (API, 2),
    "evaluation.egress": (API, 2),
    "initial.release": (API, 2),
    "model.release": (API, 2),
    "manifest.accept": (API, 3),
}


def render(entries: Iterable[Entry], source: Source) -> Iterator[str]:
    """One JSON object a line, each linked to the one before."""
    before: dict[str, Any] | None = None
    for entry in entries:
        record = event(entry, source, before)
        before = record
        yield json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def event(entry: Entry, source: Source, before: dict[str, Any] | None) -> dict[str, Any]:
    """One entry as an event; `before` is the event it follows in the file."""
    fields, decision = entry.fields, str(entry.fields["decision"])
    class_uid, activity = _KINDS.get(fields["action"], (API, 99))
    uid = f"{source.origin}/{fields['seq']}"
    record: dict[str, Any] = {
        "activity_id": activity,
        "activity_name": _ACTIVITIES[class_uid][activity] if activity != 99 else fields["action"],
        "category_uid": 6,
        "category_name": "Application Activity",
        "class_uid": class_uid,
        "class_name": _CLASSES[class_uid],
        "type_uid": class_uid * 100 + activity,
        "time": int(datetime.fromisoformat(fields["time"]).timestamp() * 1000),
        "message": fields["reason"] or fields["action"],
        "actor": {"user": {"uid": fields["actor"], "name": fields["actor"].rpartition("/")[2], "type_id": 3}},
        "src_endpoint": {"name": source.member, "uid": source.origin},
        "metadata": {
            "version": VERSION,
            "profiles": ["security_control", "record_integrity"],
            "product": {"name": "Concordat", "vendor_name": "Concordat", "version": product_version()},
            "log_name": source.origin,
            "sequence": fields["seq"],
            "original_time": fields["time"],
            "uid": uid,
        },
        "unmapped": {
            "detail": dict(fields["detail"]),
            "leaf_hash": leaf_hash(entry.line).hex(),
            "tree_size": source.size,
            "tree_root": source.root,
            **{name: fields[name] for name in ("run", "round") if fields[name] is not None},
        },
        **_CONTROL[decision],
        **_STATUS[decision],
    }
    if fields["policy"] is not None:
        record["policy"] = {"uid": fields["policy"], "name": fields["rule"] or "policy", "is_applied": True}
    if class_uid == API:
        record["api"] = {"operation": fields["action"], "service": {"name": f"concordat/{source.member}"}}
        record["resources"] = [{"uid": fields["resource"], "type": fields["resource"].partition("/")[0]}]
    else:
        record["table"] = {"name": str(fields["detail"].get("dataset", fields["resource"])), "uid": fields["resource"]}
        record |= {"type_id": 3, "type": "Table"}
    return _attested(record, source, before)


def fingerprint(record: dict[str, Any]) -> dict[str, Any]:
    """The fingerprint of an event, over all of it but the attestation's own fingerprint and signatures."""
    attestations = [
        {name: value for name, value in item.items() if name not in {"fingerprint", "signatures"}}
        for item in record["attestation_list"]
    ]
    digest = hashlib.sha256(rfc8785.dumps({**record, "attestation_list": attestations})).hexdigest()
    return {
        "algorithm_id": 3,
        "algorithm": "SHA-256",
        "encoding_id": 1,
        "encoding": "Hex",
        "serialization_id": 2,
        "serialization": "JCS",
        "value": digest,
    }


def _attested(record: dict[str, Any], source: Source, before: dict[str, Any] | None) -> dict[str, Any]:
    uid = record["metadata"]["uid"]
    attestation: dict[str, Any] = {"uid": uid, "authority_uid": source.origin, "chain_uid": source.origin}
    if before is not None:
        attestation["prev_event"] = {
            "uid": before["metadata"]["uid"],
            "type_uid": before["type_uid"],
            "fingerprint": before["attestation_list"][0]["fingerprint"],
        }
    record["attestation_list"] = [attestation]
    attestation["fingerprint"] = fingerprint(record)
    return record

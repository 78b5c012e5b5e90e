"""HL7 FHIR R4 AuditEvent, after IHE Basic Audit Log Patterns (BALP 1.1), one resource a line (NDJSON).

Types, subtypes, outcomes and agents are those of BALP's patterns: an authorisation decision is a Security Alert
(DCM 110113) by an authorizer that is the audit source, a release is an Export (110106) and what comes in an Import
(110107) with source and destination. No `meta.profile` is claimed: BALP's profiles of these patterns demand a
Patient, of which a training run names none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from audit.export.rendering import Source
from audit.merkle import leaf_hash
from audit.snapshot import Entry

DCM = "http://dicom.nema.org/resources/ontology/DCM"
LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
AUTHZ = "https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType"
ENTITY, ROLE = (
    "http://terminology.hl7.org/CodeSystem/audit-entity-type",
    "http://terminology.hl7.org/CodeSystem/object-role",
)

_ALERT = (DCM, "110113", "Security Alert")
_ACTIVITY = (DCM, "110100", "Application Activity")
_DECISION = (AUTHZ, "AuthZ-Role", "Authorization Decision using only Roles")
_SOURCE_ROLE, _DESTINATION_ROLE = (DCM, "110153", "Source Role ID"), (DCM, "110152", "Destination Role ID")
_AUTHORIZER = ("http://terminology.hl7.org/CodeSystem/extra-security-role-type", "authserver", "authorization server")
_APPLICATION = (DCM, "110150", "Application")
_RECIPIENT = ("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP", "information recipient")

# Patterns of actions, first match counts: type, subtype, action code (C, R, U, D, E).
_KINDS: tuple[tuple[str, tuple[str, str, str], tuple[str, str, str] | None, str], ...] = (
    (r".*\.start", _ACTIVITY, (DCM, "110120", "Application Start"), "E"),
    (r".*\.stop", _ACTIVITY, (DCM, "110121", "Application Stop"), "E"),
    (r"view\.build", (DCM, "110112", "Query"), (LIFECYCLE, "access", "Access/View Record Lifecycle Event"), "E"),
    (
        r".*\.egress|initial\.release",
        (DCM, "110106", "Export"),
        (LIFECYCLE, "disclose", "Disclose Record Lifecycle Event"),
        "R",
    ),
    (
        r".*\.ingress",
        (DCM, "110107", "Import"),
        (LIFECYCLE, "receive", "Receive/Retain Record Lifecycle Event"),
        "C",
    ),
    (
        r"log\.(erased|purged)",
        (DCM, "110101", "Audit Log Used"),
        (LIFECYCLE, "destroy", "Destroy/Delete Record Lifecycle Event"),
        "D",
    ),
    (r"log\..*", _ALERT, (DCM, "110134", "Audit Recording Started"), "E"),
    (r"connection\..*|coordinator\..*", _ALERT, (DCM, "110126", "Node Authentication"), "E"),
    (r"manifest\..*|member\..*", _ALERT, (DCM, "110136", "Security Roles Changed"), "U"),
    (r"policy\..*", _ALERT, (DCM, "110131", "Software Configuration"), "U"),
    (r"run\.(submit|admit)|message\.refused|silo\.refused", _ALERT, _DECISION, "E"),
    (r".*", _ACTIVITY, None, "E"),
)
_OUTCOME = {"allow": "0", "record": "0", "deny": "8"}


def render(entries: Iterable[Entry], source: Source) -> Iterator[str]:
    """One AuditEvent a line."""
    for entry in entries:
        yield json.dumps(audit_event(entry, source), sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"


def audit_event(entry: Entry, source: Source) -> dict[str, Any]:
    """One entry as an AuditEvent; its id is the entry's leaf hash."""
    fields, leaf = entry.fields, leaf_hash(entry.line).hex()
    kind, subtype, action = next(
        (kind, subtype, action) for form, kind, subtype, action in _KINDS if re.fullmatch(form, fields["action"])
    )
    observer = _identified(fields["actor"], fields["actor"].rpartition("/")[2])
    resource: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": leaf,
        "type": _coding(kind),
        "action": action,
        "recorded": fields["time"],
        "outcome": "4" if fields["action"].endswith(".failed") else _OUTCOME[fields["decision"]],
        "agent": _agents(fields, kind, observer),
        "source": {
            "site": source.origin,
            "observer": observer,
            "type": [
                _coding(("http://terminology.hl7.org/CodeSystem/security-source-type", "4", "Application Server"))
            ],
        },
        "entity": _entities(fields, source, leaf),
    }
    if subtype is not None:
        resource["subtype"] = [_coding(subtype)]
    if fields["reason"] is not None:
        rule = f"{fields['rule']}: " if fields["rule"] else ""
        resource["outcomeDesc"] = _string(rule + fields["reason"])
    purpose = fields["detail"].get("purpose")
    if purpose:
        resource["purposeOfEvent"] = [{"text": _string(str(purpose))}]
    return resource


def _agents(fields: Any, kind: tuple[str, str, str], observer: dict[str, Any]) -> list[dict[str, Any]]:
    others = {"display": "the other parties of the federation"}
    if kind[1] == "110106":
        return [_agent(_SOURCE_ROLE, observer), _agent(_DESTINATION_ROLE, others)]
    if kind[1] == "110107":
        return [_agent(_SOURCE_ROLE, others), _agent(_DESTINATION_ROLE, observer)]
    agents = [_agent(_AUTHORIZER if fields["decision"] != "record" else _APPLICATION, observer)]
    operator = fields["detail"].get("operator")
    if operator:
        asking = _identified(str(operator), str(operator).rpartition("/")[2])
        agents.append({**_agent(_RECIPIENT, asking), "requestor": True})
    return agents


def _entities(fields: Any, source: Source, leaf: str) -> list[dict[str, Any]]:
    facts = {name: value for name, value in fields["detail"].items() if name != "location"}
    if fields["round"] is not None:
        facts["round"] = fields["round"]
    entities = [
        {
            "what": _identified(fields["resource"]),
            "type": _coding((ENTITY, "2", "System Object")),
            "role": _coding((ROLE, "20", "Job") if fields["run"] else (ROLE, "4", "Domain Resource")),
            "name": _string(fields["action"]),
            **_details(facts),
        }
    ]
    if fields["policy"] is not None:
        decided = {"rule": fields["rule"], "location": fields["detail"].get("location")}
        entities.append(
            {
                "what": _identified(fields["policy"]),
                "type": _coding((ENTITY, "2", "System Object")),
                "role": _coding((ROLE, "13", "Security Resource")),
                "name": "policy",
                **_details({name: value for name, value in decided.items() if value}),
            }
        )
    proof = {
        "log": source.origin,
        "entry": fields["seq"],
        "leaf-hash": leaf,
        "tree-size": source.size,
        "tree-root": source.root,
    }
    entities.append(
        {"type": _coding((ENTITY, "2", "System Object")), "name": "entry of a transparency log", **_details(proof)}
    )
    return entities


def _agent(role: tuple[str, str, str], who: dict[str, Any]) -> dict[str, Any]:
    return {"type": {"coding": [_coding(role)]}, "who": who, "requestor": False}


def _coding(code: tuple[str, str, str]) -> dict[str, str]:
    return {"system": code[0], "code": code[1], "display": code[2]}


def _identified(value: str, display: str = "") -> dict[str, Any]:
    system = {"system": "urn:ietf:rfc:3986"} if re.match(r"(spiffe|https?)://|urn:", value) else {}
    identified: dict[str, Any] = {"identifier": {**system, "value": _string(value)}}
    return {**identified, "display": _string(display)} if display else identified


def _details(facts: dict[str, Any]) -> dict[str, Any]:
    detail = [
        {"type": name, "valueString": _string("true" if value is True else "false" if value is False else str(value))}
        for name, value in facts.items()
    ]
    return {"detail": detail} if detail else {}


def _string(text: str) -> str:
    """A FHIR string: not empty, and of control characters only tab and line breaks."""
    text = "".join(c if c.isprintable() or c in "\t\r\n" else c.encode("unicode_escape").decode() for c in text)
    return text if text.strip() else "-"

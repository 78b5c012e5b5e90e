from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import re
from pathlib import Path

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.errors import AuditError, VerificationError
from audit.export import cef, fhir, package, spreadsheet
from audit.export.rendering import Source
from audit.merkle import leaf_hash
from audit.query import Selection, SelectionError
from audit.snapshot import Entry, take

from .conftest import HOSTILE, OTHER, RUN, Party, write_logs

SOURCE = Source("heart.example/silo/north", 13, "ab" * 32)
TEXT = st.text(min_size=1, max_size=60)


def entry(**fields: object) -> Entry:
    base = dict.fromkeys(("rule", "reason", "policy", "run", "round", "payload_commitment"))
    base |= {
        "schema": "concordat/audit/v1",
        "seq": 4,
        "time": "2026-11-01T08:00:00.123456Z",
        "actor": "spiffe://h/silo/n",
    }
    base |= {"action": "run.admit", "resource": "run/x", "decision": "deny", "detail": {}, **fields}
    return Entry(4, json.dumps(base, sort_keys=True).encode(), base)


def exported(party: Party, folder: Path, form: str, **selection: str) -> Path:
    out = folder / form
    package.write(take(party.directory), Selection(**selection), form, out)
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


# -- the package


@pytest.mark.parametrize("form", sorted(package.FORMATS))
def test_an_export_verifies_without_its_log_and_is_the_same_each_time(parties: list[Party], tmp_path: Path, form: str):
    one, again = exported(parties[1], tmp_path / "a", form), exported(parties[1], tmp_path / "b", form)
    assert package.check(one, [parties[1].vkey]).entries == 13
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in again.iterdir()
    }


@pytest.mark.parametrize("form", sorted(package.FORMATS))
def test_no_file_of_an_export_can_change_unnoticed(parties: list[Party], tmp_path: Path, form: str):
    out = exported(parties[1], tmp_path, form)
    manifest = out / "manifest.json"
    for name in [path.name for path in out.iterdir()]:
        path, kept, listed = out / name, (out / name).read_bytes(), manifest.read_bytes()
        middle = len(kept) // 2
        path.write_bytes(kept[:middle] + bytes([kept[middle] ^ 1]) + kept[middle + 1 :])
        with pytest.raises(AuditError):
            package.check(out)
        if name != "manifest.json":  # and not either with a manifest that was made to fit
            changed = json.loads(listed)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            changed["files"][name] = {"sha256": digest, "bytes": len(kept)}
            manifest.write_text(json.dumps(changed, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
            with pytest.raises(AuditError):
                package.check(out)
        path.write_bytes(kept)
        manifest.write_bytes(listed)
    assert package.check(out).entries == 13
    (out / "stranger").write_text("")
    with pytest.raises(VerificationError, match="exactly the files"):
        package.check(out)


def test_an_entry_left_out_of_the_middle_with_all_its_traces_is_still_a_sound_but_smaller_export(
    parties: list[Party], tmp_path: Path
):
    """What inclusion proofs cannot show is said so in the docs: completeness is what bundles are for."""
    everything = package.check(exported(parties[1], tmp_path / "all", "jsonl"))
    denied = package.check(exported(parties[1], tmp_path / "some", "jsonl", decision="deny"))
    assert (everything.entries, denied.entries, denied.size) == (13, 2, 13)


def test_a_log_that_does_not_verify_is_not_exported(parties: list[Party], tmp_path: Path):
    segment = parties[1].directory / "segments/000000000000.jsonl"
    segment.write_bytes(segment.read_bytes().replace(b'"rows":120', b'"rows":121'))
    with pytest.raises(VerificationError, match="entry 3 was altered"):
        exported(parties[1], tmp_path / "out", "csv")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_no_format_invented(parties: list[Party], tmp_path: Path):
    snapshot = take(parties[1].directory)
    with pytest.raises(SelectionError, match="exists already"):
        package.write(snapshot, Selection(), "csv", tmp_path)
    with pytest.raises(SelectionError, match="expected one of fhir, ocsf"):
        package.write(snapshot, Selection(), "xml", tmp_path / "x")


def test_an_export_by_another_key_is_refused(parties: list[Party], tmp_path: Path):
    with pytest.raises(VerificationError, match="a key that was not given"):
        package.check(exported(parties[1], tmp_path, "jsonl"), [parties[2].vkey])


# -- FHIR

DCM = {"110100", "110101", "110106", "110107", "110112", "110113", "110120", "110121"}
DCM |= {"110126", "110131", "110134", "110136", "110150", "110152", "110153"}
VALUES = {
    fhir.DCM: DCM,
    fhir.LIFECYCLE: {"access", "destroy", "disclose", "receive"},
    fhir.AUTHZ: {"AuthZ-Role", "AuthZ-Consent"},
    fhir.ENTITY: {"1", "2", "3", "4"},
    fhir.ROLE: {str(n) for n in range(1, 25)},
    "http://terminology.hl7.org/CodeSystem/security-source-type": {str(n) for n in range(1, 10)},
    "http://terminology.hl7.org/CodeSystem/extra-security-role-type": {"authserver", "datacollector", "humanuser"},
    "http://terminology.hl7.org/CodeSystem/v3-ParticipationType": {"IRCP"},
}


def codings(value: object) -> list[dict]:
    if isinstance(value, dict):
        found = [value] if "code" in value and "system" in value else []
        return found + [coding for item in value.values() for coding in codings(item)]
    return [coding for item in value for coding in codings(item)] if isinstance(value, list) else []


def check_r4(resource: dict) -> None:
    """What the R4 definition of AuditEvent asks and R4B's model, which has its fields, does not check."""
    assert resource["outcome"] in {"0", "4", "8", "12"}
    assert resource["action"] in {"C", "R", "U", "D", "E"}
    assert re.fullmatch(r"[A-Za-z0-9.-]{1,64}", resource["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", resource["recorded"])
    for coding in codings(resource):
        assert coding["code"] in VALUES[coding["system"]], coding
    for item in resource["entity"]:
        assert not ("name" in item and "query" in item)  # sev-1
    authorizers = [a for a in resource["agent"] if a["type"]["coding"][0]["code"] == "authserver"]
    assert all(agent["who"] == resource["source"]["observer"] for agent in authorizers)  # BALP val-audit-source


@pytest.mark.parametrize("which", [0, 1])
def test_audit_events_are_valid_fhir_r4(parties: list[Party], tmp_path: Path, which: int):
    from fhir.resources.R4B.auditevent import AuditEvent

    resources = lines(exported(parties[which], tmp_path, "fhir") / "AuditEvent.ndjson")
    for resource in resources:
        check_r4(resource)
        assert json.loads(AuditEvent.model_validate(resource).model_dump_json())["outcome"] == resource["outcome"]
    assert len(resources) == [10, 13][which]


def test_audit_events_follow_the_patterns_of_balp(parties: list[Party], tmp_path: Path):
    resources = lines(exported(parties[1], tmp_path, "fhir") / "AuditEvent.ndjson")
    raw = lines(tmp_path / "fhir/entries.jsonl")
    by_action = {}
    for item, resource in zip(raw, resources, strict=True):
        by_action[item["action"], item["decision"]] = resource
    refused = by_action["run.admit", "deny"]
    assert (refused["type"]["code"], refused["subtype"][0]["code"], refused["action"]) == ("110113", "AuthZ-Role", "E")
    assert (refused["outcome"], refused["outcomeDesc"]) == ("8", "purposes.allow: POA is not allowed")
    released = by_action["round.egress", "allow"]
    assert (released["type"]["code"], released["action"]) == ("110106", "R")
    assert [agent["type"]["coding"][0]["code"] for agent in released["agent"]] == ["110153", "110152"]
    assert by_action["round.ingress", "allow"]["type"]["code"] == "110107"
    assert by_action["view.build", "allow"]["type"]["code"] == "110112"


@given(TEXT, TEXT, st.dictionaries(st.from_regex(r"[a-z_]{1,9}", fullmatch=True), TEXT, max_size=3))
def test_any_text_gives_valid_fhir(actor: str, reason: str, detail: dict):
    from fhir.resources.R4B.auditevent import AuditEvent

    resource = fhir.audit_event(entry(actor=actor, reason=reason, detail=detail), SOURCE)
    check_r4(resource)
    AuditEvent.model_validate(resource)


# -- OCSF

REQUIRED = {
    "activity_id",
    "category_uid",
    "class_uid",
    "type_uid",
    "time",
    "severity_id",
    "metadata",
    "actor",
    "src_endpoint",
}
ALLOWED = {  # attributes of base event, the two classes and the profiles security_control and record_integrity
    *REQUIRED, "activity_name", "category_name", "class_name", "severity", "status", "status_id", "message", "unmapped",
    "api", "resources", "table", "type", "type_id", "policy", "action", "action_id", "disposition", "disposition_id",
    "attestation_list",
}  # fmt: skip
ACTIVITIES = {6003: {0, 1, 2, 3, 4, 99}, 6005: {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99}}


def check_ocsf(event: dict) -> None:
    assert event.keys() >= REQUIRED
    assert event.keys() <= ALLOWED
    assert event["activity_id"] in ACTIVITIES[event["class_uid"]]
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert (event["category_uid"], event["metadata"]["version"]) == (6, "1.9.0-dev")
    assert event["severity_id"] in {1, 3}
    assert event["action_id"] in {1, 2, 3}
    assert "api" in event if event["class_uid"] == 6003 else "table" in event
    assert event["metadata"]["product"].keys() >= {"name", "vendor_name"}


@pytest.mark.parametrize("which", [0, 1, 2])
def test_ocsf_events_have_what_their_classes_demand(parties: list[Party], tmp_path: Path, which: int):
    events = lines(exported(parties[which], tmp_path, "ocsf") / "ocsf.jsonl")
    for event in events:
        check_ocsf(event)
    assert {event["class_uid"] for event in events} == ({6003} if which == 0 else {6003, 6005})


def test_ocsf_records_are_linked_by_their_fingerprints(parties: list[Party], tmp_path: Path):
    events = lines(exported(parties[1], tmp_path, "ocsf") / "ocsf.jsonl")
    before = None
    for event in events:
        (attestation,) = event["attestation_list"]
        bare = {name: value for name, value in attestation.items() if name != "fingerprint"}
        digest = hashlib.sha256(rfc8785.dumps({**event, "attestation_list": [bare]})).hexdigest()
        assert attestation["fingerprint"]["value"] == digest
        assert attestation.get("prev_event", {}).get("fingerprint") == before
        before = attestation["fingerprint"]


# -- CEF


def read_cef(line: str) -> tuple[list[str], dict[str, str]]:
    """A parser of CEF as the format is specified, and of nothing of ours."""
    match = re.fullmatch(r"((?:(?:\\.|[^|\\])*\|){7})(.*)", line)
    header = [re.sub(r"\\(.)", r"\1", part) for part in re.findall(r"((?:\\.|[^|\\])*)\|", match[1])]
    fields = {}
    for name, value in re.findall(r"(\w+)=((?:\\.|[^=\\])*?)(?= \w+=|$)", match[2]):
        fields[name] = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), value)
    return header, fields


@given(TEXT.filter(str.isprintable) | st.just("a=b|c\\d\ne\rf"), TEXT | st.just("x\n CEF:0|a|b| cs1=forged"))
def test_cef_gives_back_every_text_and_stays_on_its_line(reason: str, actor: str):
    (line,) = cef.render([entry(reason=reason, actor=actor, rule="purposes.allow", round=2)], SOURCE)
    assert line.count("\n") == 1
    assert len(line.splitlines()) == 1
    header, fields = read_cef(line[:-1])
    assert header[:4] == ["CEF:0", "Concordat", "Concordat", header[3]]
    assert (header[4:7], fields["outcome"]) == (["run.admit", "run.admit refused", "7"], "refused")
    assert (fields["cs1Label"], fields["cs1"]) == ("rule", "purposes.allow")
    assert (fields["cn1Label"], fields["cn1"], fields["externalId"]) == ("round", "2", "4")
    if reason.isprintable():
        assert fields["reason"] == reason
    assert fields["rt"] == "1793520000123"


def test_a_cef_header_escapes_the_pipe_and_the_backslash():
    assert cef.escape_header("a|b\\c\nd=e") == "a\\|b\\\\c d=e"


# -- CSV


@given(TEXT)
def test_no_cell_starts_a_formula_and_every_text_comes_back(text: str):
    guarded = spreadsheet.guard(text)
    assert not re.match(r" *[=+\-@\t\r\n|%]", guarded)
    assert spreadsheet.unguard(guarded) == text


def test_csv_reads_back_as_the_entries_say(tmp_path: Path):
    parties = write_logs(tmp_path / "logs", hostile=f"=2+3 {HOSTILE}")
    out = exported(parties[1], tmp_path, "csv")
    with (out / "entries.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    raw = lines(out / "entries.jsonl")
    assert [int(row["seq"]) for row in rows] == [item["seq"] for item in raw]
    assert [spreadsheet.unguard(row["reason"]) for row in rows] == [item["reason"] or "" for item in raw]
    assert [json.loads(row["detail"]) for row in rows] == [item["detail"] for item in raw]
    hashed = [leaf_hash(line).hex() for line in (out / "entries.jsonl").read_bytes().split(b"\n") if line]
    assert [row["leaf_hash"] for row in rows] == hashed


# -- the record of processing


def test_the_processing_record_says_what_was_processed_with_whom(parties: list[Party], tmp_path: Path):
    out = exported(parties[1], tmp_path, "ropa")
    record = json.loads((out / "processing.json").read_text())
    allowed, refused = record["activities"]
    assert (allowed["purpose"], allowed["dataset"], allowed["runs"]) == ("HMB", "heart", {RUN: "admitted"})
    assert (allowed["columns"], allowed["rows"]) == (["age", "chol", "sex"], {"least": 120, "most": 120})
    assert (allowed["recipients"], allowed["releases"]) == ({"hub": "DE", "north": "DE", "south": "FR"}, 3)
    assert "network of the training process: empty network namespace" in allowed["measures"]
    assert (refused["purpose"], refused["runs"], refused["releases"]) == ("POA", {OTHER: "refused"}, 0)
    assert refused["recipients"] == {}
    text = (out / "processing.md").read_text()
    assert text.count("to be completed by the controller") > 4
    for article in "abcdefg":
        assert f"| ({article}) " in text


def test_text_cannot_break_out_of_the_processing_records_table(tmp_path: Path):
    from audit.export import processing

    hostile = "a | b\n| **x** | <img src=x>"
    admitted = entry(decision="allow", run="r", detail={"purpose": hostile, "dataset": "d", "parties": ""})
    text = "".join(processing.render_text([admitted], SOURCE))
    assert "\n| **x**" not in text
    assert not re.search(r"(?<!\\)<img", text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(data=st.data())
def test_a_damaged_export_is_one_kind_of_error(parties: list[Party], tmp_path_factory, data: st.DataObject):
    out = exported(parties[1], tmp_path_factory.mktemp("damaged"), "jsonl")
    path = out / data.draw(
        st.sampled_from(["manifest.json", "entries.jsonl", "proofs.jsonl", "checkpoint", "log.vkey"])
    )
    whole = bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(whole))
    if path.name != "manifest.json":  # so that the file itself is read, and not only its digest
        manifest = json.loads((out / "manifest.json").read_text())
        manifest["files"][path.name] = {"sha256": hashlib.sha256(whole).hexdigest(), "bytes": len(whole)}
        (out / "manifest.json").write_text(json.dumps(manifest))
    with contextlib.suppress(AuditError):  # a space for a line feed between two values changes nothing
        package.check(out)

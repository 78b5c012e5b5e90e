"""Policies are activated signed and never backwards; approvals count only where what was signed is what runs."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from federation.errors import BundleError, ConcordatError, IdentityError, UsageError
from federation.identity import load_private_key, new_key, public_key_pem, save_private_key
from federation.limits import LIMITS
from federation.run import app_digest, content_digest
from federation.signed_policy import load_active_policy, sign_policy, signature_path
from policies.errors import PolicyError
from policies.model import load_policy
from silo.cli import app as silo_app
from silo.governance import approvals, documents
from silo.governance.activation import activate
from silo.governance.bundle import authors_of, difference, files_of, shown
from silo.governance.cli import policy as policy_app
from silo.governance.review import check_reviewer, prepare, revoke
from tests.silo.simulator import POLICY, RUN

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PROJECT = '[project]\nname = "heart-app"\nauthors = [{name = "Carl", email = "carl@lab.example"}]\n'
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"})


def bundle_of(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in {"pyproject": PROJECT, **files}.items():
            archive.writestr(f"{name}.toml" if name == "pyproject" else f"{name}.py", text)
    return out.getvalue()


@dataclass
class Desk:
    """A silo's configuration with a signer and two reviewers, their keys, an app and a run."""

    path: Path

    def __post_init__(self) -> None:
        self.config = self.path / "silo.yaml"
        self.active = self.path / "active.yaml"
        self.draft = self.path / "draft.yaml"
        self.run = self.path / "run.yaml"
        self.bundle = self.path / "app.fab"
        self.approvals = self.path / "approvals"
        for name in ("officer", "anna", "ben", "carl", "stranger"):
            key = new_key()
            save_private_key(self.path / f"{name}.pem", key)
            (self.path / f"{name}.pub.pem").write_bytes(public_key_pem(key.public_key()))
        self.config.write_text(
            "apiVersion: concordat/v1\nkind: Silo\npolicy: active.yaml\nsocket: s\npolicy_signer: officer.pub.pem\n"
            "approvals:\n  directory: approvals\n"
            "  reviewers: {anna: anna.pub.pem, ben: ben.pub.pem, carl: carl.pub.pem}\n"
        )
        self.run.write_text(RUN)
        self.bundle.write_bytes(bundle_of(model="def build_model(seed): ...\n"))
        self.issue(1)
        activate(self.draft, self.config)

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        return load_private_key(self.path / f"{name}.pem")

    @property
    def keys(self) -> dict[str, ec.EllipticCurvePublicKey]:
        return {name: self.key(name).public_key() for name in ("anna", "ben", "carl")}

    def issue(self, version: int, signer: str = "officer") -> None:
        """Write a draft of a version, signed."""
        self.draft.write_text(POLICY.replace("version: 1", f"version: {version}"))
        signature_path(self.draft).write_text(sign_policy(load_policy(self.draft), "Officer", self.key(signer), NOW))

    def approve(self, reviewer: str, now: datetime = NOW) -> Path:
        return prepare(self.run, self.config, self.bundle).approve(reviewer, self.key(reviewer), now)

    def subject(self) -> approvals.Subject:
        digest = app_digest(self.bundle.read_bytes())
        policy = load_policy(self.active)
        run = content_digest(self.run.read_text(), digest)
        return approvals.Subject(digest, run, policy.digest, approvals.dataset_contract(policy, "heart"))

    def counted(self, **changes: str) -> approvals.Counted:
        return approvals.count(self.approvals, self.keys, replace(self.subject(), **changes))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# -- policies


def test_a_signed_later_version_becomes_active(desk: Desk) -> None:
    desk.issue(2)
    assert activate(desk.draft, desk.config).signed
    active = load_active_policy(desk.active, desk.key("officer").public_key())
    assert active.model.metadata.version == 2


def test_the_same_version_with_another_text_is_refused(desk: Desk) -> None:
    desk.issue(1)
    desk.draft.write_text(desk.draft.read_text() + "# another\n")
    signature_path(desk.draft).write_text(sign_policy(load_policy(desk.draft), "O", desk.key("officer"), NOW))
    with pytest.raises(PolicyError, match="got version 1 with another text, expected more than 1"):
        activate(desk.draft, desk.config)


def test_an_older_version_is_refused_and_the_active_one_stays(desk: Desk) -> None:
    desk.issue(3)
    activate(desk.draft, desk.config)
    before = desk.active.read_bytes()
    desk.issue(2)
    with pytest.raises(PolicyError, match="got version 2 with another text, expected more than 3"):
        activate(desk.draft, desk.config)
    assert desk.active.read_bytes() == before


def test_another_key_is_refused(desk: Desk) -> None:
    desk.issue(2, signer="stranger")
    with pytest.raises(IdentityError, match="does not verify"):
        activate(desk.draft, desk.config)


def test_an_unsigned_policy_is_refused_where_a_signer_is_named(desk: Desk) -> None:
    desk.issue(2)
    signature_path(desk.draft).unlink()
    with pytest.raises(IdentityError, match="takes only signed policies"):
        activate(desk.draft, desk.config)


def test_a_signed_policy_that_was_changed_is_refused(desk: Desk) -> None:
    desk.issue(2)
    desk.draft.write_text(desk.draft.read_text().replace("minimum: 50", "minimum: 1"))
    with pytest.raises(PolicyError, match="got the signature of digest"):
        activate(desk.draft, desk.config)


def test_the_words_of_a_signature_are_signed(desk: Desk) -> None:
    desk.issue(2)
    beside = signature_path(desk.draft)
    beside.write_text(beside.read_text().replace("Officer", "Someone"))
    with pytest.raises(IdentityError, match="does not verify"):
        activate(desk.draft, desk.config)


def test_a_silo_without_a_signer_takes_an_unsigned_policy_but_no_older_one(desk: Desk) -> None:
    desk.config.write_text("apiVersion: concordat/v1\nkind: Silo\npolicy: active.yaml\nsocket: s\n")
    desk.issue(2)
    signature_path(desk.draft).unlink()
    assert not activate(desk.draft, desk.config).signed
    desk.issue(1)
    with pytest.raises(PolicyError):
        activate(desk.draft, desk.config)


def test_the_commands_make_a_key_sign_and_activate(desk: Desk) -> None:
    made = desk.path / "new.pem"
    assert runner.invoke(policy_app, ["key", str(made)]).exit_code == 0
    assert made.stat().st_mode & 0o777 == 0o600
    desk.config.write_text(desk.config.read_text().replace("officer.pub.pem", "new.pem.pub.pem"))
    desk.draft.write_text(POLICY.replace("version: 1", "version: 2"))
    signed = runner.invoke(policy_app, ["sign", str(desk.draft), "--key", str(made), "--signer", "Dr. Officer"])
    assert signed.exit_code == 0, signed.output
    done = runner.invoke(policy_app, ["activate", str(desk.draft), "--config", str(desk.config)])
    assert done.stdout == "hospital-a version 2 is active, before it version 1; signature verified\n"


def test_a_policy_with_a_mistake_is_not_signed(desk: Desk) -> None:
    desk.draft.write_text(POLICY.replace("max_rounds: 10", "max_round: 10"))
    before = signature_path(desk.draft).read_text()
    arguments = ["sign", str(desk.draft), "--key", str(desk.path / "officer.pem"), "--signer", "x"]
    assert isinstance(runner.invoke(policy_app, arguments).exception, PolicyError)
    assert signature_path(desk.draft).read_text() == before


# -- approvals


def test_distinct_reviewers_are_counted(desk: Desk) -> None:
    desk.approve("anna")
    desk.approve("anna", datetime(2026, 11, 21, tzinfo=UTC))
    desk.approve("ben")
    assert desk.counted().reviewers == ("anna", "ben")


@pytest.mark.parametrize("what", ["app", "run", "policy", "dataset"])
def test_an_approval_of_anything_else_does_not_count(desk: Desk, what: str) -> None:
    desk.approve("anna")
    assert desk.counted().reviewers == ("anna",)
    assert desk.counted(**{what: "sha256:" + "0" * 64}).reviewers == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('reviewer: "anna"', 'reviewer: "ben"'),
        lambda text: text.replace("2026-11-20", "2026-11-19"),
        lambda text: text.replace('authors: ["Carl", "carl@lab.example"]', "authors: []"),
        lambda text: text.replace('signature: "', 'signature: "A'),
        lambda text: text.replace("kind:", "kinds:"),
        lambda text: "",
    ],
    ids=["reviewer", "time", "authors", "signature", "form", "empty"],
)
def test_a_changed_approval_counts_for_nothing_and_is_named(desk: Desk, change) -> None:
    path = desk.approve("anna")
    text = change(path.read_text())
    assert text != path.read_text()
    path.write_text(text)
    counted = desk.counted()
    assert counted.reviewers == ()
    assert len(counted.problems) == 1


def test_the_approval_of_someone_who_is_no_reviewer_does_not_count(desk: Desk) -> None:
    text = approvals.approve(desk.subject(), "stranger", ("someone",), desk.key("stranger"), NOW)
    desk.approvals.mkdir()
    (desk.approvals / "x.approval.yaml").write_text(text)
    assert desk.counted().problems == ("stranger is not a reviewer of this silo; name the key in silo.yaml",)


def test_an_author_cannot_approve_their_own_app(desk: Desk) -> None:
    with pytest.raises(ConcordatError, match="carl is an author of the app"):
        desk.approve("carl")


def test_an_app_without_an_author_cannot_be_approved(desk: Desk) -> None:
    with pytest.raises(ConcordatError, match="names no author"):
        approvals.approve(desk.subject(), "anna", (), desk.key("anna"), NOW)


def test_an_author_who_hides_that_is_not_counted_beside_an_honest_reviewer(desk: Desk) -> None:
    desk.approve("anna")
    text = approvals.approve(desk.subject(), "carl", ("someone",), desk.key("carl"), NOW)
    (desk.approvals / "x.approval.yaml").write_text(text)
    assert desk.counted().reviewers == ("anna",)


def test_the_operator_of_the_run_cannot_approve_it(desk: Desk) -> None:
    desk.approve("anna")
    counted = approvals.count(desk.approvals, desk.keys, desk.subject(), operator="anna")
    assert counted.reviewers == ()


def test_a_revoked_approval_does_not_count_and_a_later_one_does(desk: Desk) -> None:
    path = desk.approve("anna")
    revoke(path, desk.config, desk.key("anna"), "leaks a column", NOW)
    assert desk.counted().reviewers == ()
    desk.approve("anna", datetime(2026, 11, 22, tzinfo=UTC))
    assert desk.counted().reviewers == ("anna",)


def test_only_the_reviewer_revokes(desk: Desk) -> None:
    path = desk.approve("anna")
    with pytest.raises(UsageError, match="not that of anna"):
        revoke(path, desk.config, desk.key("ben"), "no", NOW)
    forged = approvals.revoke(approvals.load_approval(path), "no", desk.key("ben"), NOW)
    (desk.approvals / "x.revocation.yaml").write_text(forged)
    assert desk.counted().reviewers == ("anna",)


def test_a_name_needs_its_own_key(desk: Desk) -> None:
    check_reviewer(desk.config, "anna", desk.key("anna"))
    with pytest.raises(UsageError, match="does not belong to the public key"):
        check_reviewer(desk.config, "anna", desk.key("ben"))
    with pytest.raises(UsageError, match="is not a reviewer"):
        check_reviewer(desk.config, "stranger", desk.key("stranger"))


def test_more_approvals_than_the_limit_are_refused(desk: Desk, monkeypatch) -> None:
    desk.approve("anna")
    monkeypatch.setattr(documents, "LIMITS", replace(LIMITS, approvals=0))
    with pytest.raises(ConcordatError, match="expected at most 0"):
        desk.counted()


@given(st.data())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_lies_among_the_approvals_counts_for_nothing_and_stops_nothing(desk: Desk, data) -> None:
    path = desk.approve("anna")
    text = path.read_bytes()
    at = data.draw(st.integers(0, 2000)) % len(text)
    changed = text[:at] + data.draw(st.binary(max_size=6)) + text[at + data.draw(st.integers(1, 30)) :]
    path.write_bytes(changed)
    counted = desk.counted()
    # What YAML reads alike, such as another indentation or a comment, is the same approval.
    assert counted.problems or approvals.load_approval(path).signature in text.decode()


@given(st.binary(max_size=60))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_while_a_revocation_cannot_be_read_no_approval_counts(desk: Desk, content: bytes) -> None:
    desk.approve("anna")
    (desk.approvals / "noise.revocation.yaml").write_bytes(content)
    counted = desk.counted()
    assert counted.reviewers == ()
    assert counted.problems


# -- what a reviewer sees


def test_the_reviewer_sees_files_authors_and_everything_of_a_first_version(desk: Desk) -> None:
    lines = list(prepare(desk.run, desk.config, desk.bundle).lines())
    assert "authors Carl, carl@lab.example" in lines
    assert any(line.endswith(" 27  model.py") for line in lines)
    assert "+purpose: HMB" in lines
    assert "+def build_model(seed): ..." in lines


def test_the_reviewer_of_a_second_version_sees_what_changed(desk: Desk) -> None:
    desk.approve("anna")
    desk.bundle.write_bytes(bundle_of(model="def build_model(seed):\n    send(data)\n"))
    desk.run.write_text(RUN.replace("rounds: 3", "rounds: 9"))
    lines = list(prepare(desk.run, desk.config, desk.bundle).lines())
    assert "-def build_model(seed): ..." in lines
    assert "+    send(data)" in lines
    assert "+strategy: {mu: 0.1, rounds: 9}" in lines
    assert not any("purpose" in line and line.startswith("+") for line in lines)


def test_a_changed_copy_of_the_last_version_is_not_compared_with(desk: Desk) -> None:
    desk.approve("anna")
    for copy in (desk.approvals / "apps").iterdir():
        copy.write_bytes(bundle_of(model="def build_model(seed):\n    send(data)\n"))
    desk.bundle.write_bytes(bundle_of(model="def build_model(seed):\n    send(data)\n", more=""))
    lines = list(prepare(desk.run, desk.config, desk.bundle).lines())
    assert "no version of this app was approved before: every line follows" in lines


def test_the_command_asks_before_it_approves(desk: Desk) -> None:
    arguments = ["approve", str(desk.run), "--config", str(desk.config), "--reviewer", "anna"]
    arguments += ["--key", str(desk.path / "anna.pem"), "--app", str(desk.bundle)]
    assert runner.invoke(silo_app, arguments, input="n\n").exit_code != 0
    assert desk.counted().reviewers == ()
    assert runner.invoke(silo_app, arguments, input="y\n").exit_code == 0
    assert desk.counted().reviewers == ("anna",)


def test_a_key_that_others_can_read_signs_nothing(desk: Desk) -> None:
    (desk.path / "anna.pem").chmod(0o644)
    arguments = ["approve", str(desk.run), "--config", str(desk.config), "--reviewer", "anna", "--yes"]
    arguments += ["--key", str(desk.path / "anna.pem"), "--app", str(desk.bundle)]
    assert isinstance(runner.invoke(silo_app, arguments).exception, IdentityError)
    assert not desk.approvals.exists()


@pytest.mark.parametrize(
    ("limits", "reason"), [({"app_files": 1}, "2 files"), ({"app_unpacked": 10}, "unpacks to more than 10")]
)
def test_a_bundle_beyond_its_limits_is_refused(monkeypatch, limits, reason) -> None:
    import federation.app_bundle as module

    monkeypatch.setattr(module, "LIMITS", replace(LIMITS, **limits))
    with pytest.raises(BundleError, match=reason):
        files_of(bundle_of(model=""))


@pytest.mark.parametrize("name", ["/etc/passwd", "../out.py", "a\\b.py"])
def test_a_bundle_that_reaches_outside_is_refused(name: str) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, "x")
    with pytest.raises(BundleError, match="outside its own directory"):
        files_of(out.getvalue())


def test_a_bundle_with_a_name_twice_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.py", "shown")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.py", "run")
    with pytest.raises(BundleError, match="twice"):
        files_of(out.getvalue())


def test_a_file_that_is_no_bundle_is_refused() -> None:
    with pytest.raises(BundleError, match="not a zip file"):
        files_of(b"PK\x03\x04 no")


def test_authors_are_persons_addresses_and_publisher() -> None:
    text = PROJECT + '[tool.flwr.app]\npublisher = "lab"\n'
    assert authors_of({"pyproject.toml": text.encode()}) == ("Carl", "carl@lab.example", "lab")


def test_characters_that_hide_text_are_shown_as_numbers() -> None:
    changed = difference({}, {"a.py": "x = 1 \x1b[2K\u202e".encode()})
    assert list(changed)[-1] == "+x = 1 \\u001b[2K\\u202e"
    assert shown("é\t") == "é\t"


def test_a_change_that_no_line_shows_is_told() -> None:
    assert list(difference({"a.py": b"x\r\n"}, {"a.py": b"x\n"})) == [
        "a.py -> a.py: an empty file, or line ends alone, differ"
    ]
    (said,) = difference({}, {"pkg/__init__.py": b""})
    assert said.startswith("/dev/null -> pkg/__init__.py")


def test_binary_files_are_named() -> None:
    assert list(difference({"a": b"\xff"}, {"a": b"\xfe"})) == ["binary file a differs"]

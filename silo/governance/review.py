"""What a reviewer is shown before approving: the app's files, the run, and what changed since the last approval."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from federation.errors import BundleError, ConcordatError, UsageError
from federation.home import read_limited, replace_file
from federation.limits import LIMITS
from federation.operator import build_app
from federation.passport import Predicate
from federation.run import app_digest, content_digest, load_run
from federation.signed_policy import load_active_policy, load_public_key
from policies.document import Document
from policies.errors import PolicyError
from policies.model import SiloPolicy
from silo.config import ApprovalsConfig, load_silo_config
from silo.governance import approvals
from silo.governance.bundle import Files, authors_of, difference, files_of, listing, shown
from silo.governance.documents import Keys
from silo.governance.releases import SUFFIX, Handover, agree

APPS = "apps"
RUNS = "runs"


@dataclass(frozen=True)
class Review:
    """One app with its run, under the policy that is active, and the version approved last, if there is one."""

    directory: Path
    run_text: str
    bundle: bytes
    files: Files
    authors: tuple[str, ...]
    policy: Document[SiloPolicy]
    subject: approvals.Subject
    last: approvals.Approval | None

    def lines(self, *, full: bool = False) -> Iterator[str]:
        """What the reviewer reads; with `full` every file, otherwise what changed since the last approval."""
        metadata = self.policy.model.metadata
        yield f"app     {self.subject.app}"
        yield f"run     {self.subject.run}"
        yield f"policy  {self.subject.policy}  {metadata.name} version {metadata.version}"
        yield f"dataset {self.subject.dataset}"
        yield f"authors {', '.join(map(shown, self.authors)) or 'none named in pyproject.toml'}"
        yield ""
        yield from listing(self.files)
        yield ""
        if self.last is None or full:
            yield (
                "no version of this app was approved before: every line follows" if self.last is None else "every line"
            )
            yield from difference({}, {"run.yaml": self.run_text.encode(), **self.files})
            return
        yield f"since {self.last.app}, approved by {self.last.reviewer} on {self.last.approved:%Y-%m-%d}:"
        run, app = _copies(self.directory, self.last)
        before = {"run.yaml": run, **files_of(app)}
        changed = list(difference(before, {"run.yaml": self.run_text.encode(), **self.files}))
        yield from changed or ["nothing changed in the app or the run"]

    def approve(self, reviewer: str, key: ec.EllipticCurvePrivateKey, now: datetime) -> Path:
        """Sign, and write the approval with copies of app and run; raises ConcordatError."""
        text = approvals.approve(self.subject, reviewer, self.authors, key, now)
        for folder in (self.directory / APPS, self.directory / RUNS):
            folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.directory / APPS / _name(self.subject.app, "fab"), self.bundle)
        replace_file(self.directory / RUNS / _name(self.subject.run, "yaml"), self.run_text.encode())
        run, moment = self.subject.run.removeprefix("sha256:")[:12], now.strftime("%Y%m%dT%H%M%SZ")
        path = self.directory / f"{run}-{reviewer}-{moment}{approvals.APPROVAL_SUFFIX}"
        replace_file(path, text.encode())
        return path


def prepare(run_file: Path, config_path: Path, bundle_file: Path | None = None) -> Review:
    """Read what is to be approved; the app is built from the run's directory unless its bundle is given.

    Raises ConcordatError or PolicyError.
    """
    config = _approvals_of(config_path)
    silo = load_silo_config(config_path)
    signer = load_public_key(silo.policy_signer) if silo.policy_signer else None
    policy = load_active_policy(silo.policy, signer)
    text = read_limited(run_file, LIMITS.document).decode()
    run = load_run(text, source=str(run_file)).model
    bundle = (
        read_limited(bundle_file, LIMITS.app) if bundle_file else build_app(run_file.resolve().parent / run.app.path)
    )
    files = files_of(bundle)
    digest = app_digest(bundle)
    subject = approvals.Subject(
        app=digest,
        run=content_digest(text, digest),
        policy=policy.digest,
        dataset=approvals.dataset_contract(policy, run.dataset),
    )
    last = _last(config, files.get("pyproject.toml", b""), subject)
    return Review(config.directory, text, bundle, files, authors_of(files), policy, subject, last)


def revoke(approval_file: Path, config_path: Path, key: ec.EllipticCurvePrivateKey, reason: str, now: datetime) -> Path:
    """Write the signed revocation of an approval; raises ConcordatError where the key is not its reviewer's."""
    config = _approvals_of(config_path)
    approval = approvals.load_approval(approval_file)
    keys = _keys(config)
    approvals.verify_approval(approval, keys)
    if keys[approval.reviewer] != key.public_key():
        raise UsageError(f"the key is not that of {approval.reviewer}, who gave this approval")
    digest = approvals.digest_of(approval).removeprefix("sha256:")[:12]
    path = config.directory / f"{digest}-{approval.reviewer}{approvals.REVOCATION_SUFFIX}"
    replace_file(path, approvals.revoke(approval, reason, key, now).encode())
    return path


def agree_to_release(
    config_path: Path,
    predicate: Predicate,
    party: str,
    reviewer: str,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
) -> Path:
    """Write the signed agreement to hand a passport's model to a party; raises ConcordatError."""
    config = _approvals_of(config_path)
    handover = Handover(predicate.run.id, predicate.run.digest, predicate.weights, party)
    weights, moment = predicate.weights.removeprefix("sha256:")[:12], now.strftime("%Y%m%dT%H%M%SZ")
    path = config.directory / f"{weights}-{reviewer}-{moment}{SUFFIX}"
    config.directory.mkdir(parents=True, exist_ok=True)
    replace_file(path, agree(handover, reviewer, key, now).encode())
    return path


def check_reviewer(config_path: Path, reviewer: str, key: ec.EllipticCurvePrivateKey) -> None:
    """Raise UsageError unless the configuration names this reviewer with the public half of this key."""
    known = _keys(_approvals_of(config_path)).get(reviewer)
    if known is None:
        raise UsageError(f"{reviewer} is not a reviewer in {config_path}", advice="name the key in approvals.reviewers")
    if known != key.public_key():
        raise UsageError(f"the key does not belong to the public key that {config_path} names for {reviewer}")


def _approvals_of(config_path: Path) -> ApprovalsConfig:
    config = load_silo_config(config_path).approvals
    if config is None:
        raise UsageError(f"{config_path} has no approvals", advice="name a directory and reviewers in it")
    return config


def _keys(config: ApprovalsConfig) -> Keys:
    return {name: load_public_key(path) for name, path in config.reviewers.items()}


def _last(config: ApprovalsConfig, project: bytes, subject: approvals.Subject) -> approvals.Approval | None:
    """The latest approval of another version of the same app whose copies are still there and unchanged."""
    found = []
    keys = _keys(config)
    for path in approvals.approval_files(config.directory):
        try:
            approval = approvals.load_approval(path)
            approvals.verify_approval(approval, keys)
            counted = approvals.count(config.directory, keys, approval.subject)
            files = files_of(_copies(config.directory, approval)[1])
        except (ConcordatError, PolicyError, ValueError):
            continue
        same_app = _app_name(files.get("pyproject.toml", b"")) == _app_name(project)
        if same_app and approval.run != subject.run and approval in counted.approvals:
            found.append(approval)
    return max(found, key=lambda approval: approval.approved, default=None)


def _app_name(project: bytes) -> str:
    try:
        return str(tomllib.loads(project.decode()).get("project", {}).get("name", ""))
    except (ValueError, AttributeError, RecursionError):
        raise BundleError("the app's pyproject.toml cannot be read") from None


def _copies(directory: Path, approval: approvals.Approval) -> tuple[bytes, bytes]:
    """The run and the app that were approved, from the copies kept then; raises ConcordatError for changed ones."""
    app = read_limited(directory / APPS / _name(approval.app, "fab"), LIMITS.app)
    run = read_limited(directory / RUNS / _name(approval.run, "yaml"), LIMITS.document)
    if app_digest(app) != approval.app or content_digest(run.decode(), approval.app) != approval.run:
        raise ConcordatError(f"the copies of {approval.app} in {directory} were changed")
    return run, app


def _name(digest: str, suffix: str) -> str:
    return f"{digest.removeprefix('sha256:')}.{suffix}"

"""A signature speaks of one text of one version; an older version does not come back."""

import contextlib
import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import bundle
from policies.errors import DocumentError
from policies.model import load_policy

NOW = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def _policy(example, version: int = 3, name: str = "charite-cardiology"):
    text = example.text.replace("version: 3", f"version: {version}").replace(
        "name: charite-cardiology", f"name: {name}"
    )
    return load_policy(text, "policy.yaml")


def _signature(policy):
    return bundle.load_signature(bundle.document(policy, 'Dr. "A"', NOW, "c2ln"), "policy.yaml.sig")


def test_the_file_says_what_was_signed(example) -> None:
    policy = _policy(example)
    signature = _signature(policy)
    assert bundle.statement_of(signature.model) == bundle.statement(policy, 'Dr. "A"', NOW)
    bundle.check_subject(signature, policy)


@pytest.mark.parametrize(
    ("change", "field"), [({"version": 4}, "digest"), ({"name": "other"}, "digest")], ids=["version", "name"]
)
def test_the_signature_of_another_text_is_refused_at_its_place(example, change, field) -> None:
    with pytest.raises(bundle.BundleError, match=f"policy.yaml.sig:5:1: got the signature of {field}"):
        bundle.check_subject(_signature(_policy(example)), _policy(example, **change))


@pytest.mark.parametrize("field", ["policy", "version"])
def test_a_signature_whose_words_do_not_fit_the_policy_is_refused(example, field) -> None:
    policy = _policy(example)
    text = bundle.document(policy, "A", NOW, "c2ln")
    text = (
        text.replace('"charite-cardiology"', '"other"')
        if field == "policy"
        else text.replace("version: 3", "version: 4")
    )
    with pytest.raises(bundle.BundleError, match=f"got the signature of {field}"):
        bundle.check_subject(bundle.load_signature(text), policy)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_version_that_is_not_later_is_refused(example, version: int) -> None:
    changed = load_policy(_policy(example, version).text + "# changed\n", "policy.yaml")
    with pytest.raises(bundle.BundleError, match=f"got version {version} with another text, expected more than 3"):
        bundle.check_succession(bundle.version_of(_policy(example)), changed)


def test_a_policy_of_another_name_does_not_succeed(example) -> None:
    with pytest.raises(bundle.BundleError, match="expected charite-cardiology"):
        bundle.check_succession(bundle.version_of(_policy(example)), _policy(example, 4, "other"))


def test_a_later_version_the_same_text_and_a_first_policy_succeed(example) -> None:
    bundle.check_succession(bundle.version_of(_policy(example)), _policy(example, 4))
    bundle.check_succession(bundle.version_of(_policy(example)), _policy(example))
    bundle.check_succession(None, _policy(example))


@given(st.data())
def test_whatever_a_signature_file_holds_only_the_error_of_documents_escapes(example, data) -> None:
    text = bundle.document(_policy(example), "A", NOW, "c2ln")
    at = data.draw(st.integers(0, len(text)))
    changed = text[:at] + data.draw(st.text(max_size=6)) + text[at + data.draw(st.integers(0, 20)) :]
    with contextlib.suppress(DocumentError):
        bundle.load_signature(data.draw(st.sampled_from([changed, changed.encode("utf-8", "surrogatepass")[at:]])))

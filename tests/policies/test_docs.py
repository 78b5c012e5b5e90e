"""The reference page names every rule and every field, and its example is a policy."""

import re
from pathlib import Path

import pytest

from policies.document import json_schema
from policies.model import SiloPolicy, load_policy
from policies.rules import EVERY, RULES
from policies.vocabulary import blocs, data_use, identifier_classes, law_table, purpose_codes

PAGE = Path(__file__).parents[2] / "docs" / "policy-reference.md"


@pytest.fixture(scope="module")
def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def _fields(schema: dict, root: dict, path: str = "") -> list[str]:
    """The dotted paths of all fields, list items passed over and names of mappings written `<name>`."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    found = []
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        found += [here, *_fields(field, root, here)]
    for inner in schema.get("patternProperties", {}).values():
        found += _fields(inner, root, f"{path}.<name>")
    for inner in [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]:
        found += _fields(inner, root, path)
    return found


SCHEMA = json_schema(SiloPolicy)


def test_the_walk_over_the_model_finds_the_leaves() -> None:
    fields = _fields(SCHEMA, SCHEMA)
    assert "datasets.<name>.rows.minimum" in fields
    assert "apps.allow.digest" in fields
    assert "purposes.permit.expires" in fields
    assert len(fields) == len(set(fields))


def test_the_reference_has_every_field_and_no_other(page: str) -> None:
    table = page.partition("## Fields")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE) == _fields(SCHEMA, SCHEMA)


def test_every_rule_is_in_the_reference_with_what_it_protects(page: str) -> None:
    for rule in RULES.values():
        stages = "every stage" if rule.stages == EVERY else ", ".join(rule.stages)
        mandatory = "yes" if rule.mandatory else ""
        assert f"| `{rule.id}` | {stages} | {mandatory} | {rule.protects} |\n" in page


def test_every_code_of_the_vocabularies_is_explained(page: str) -> None:
    listed = [*blocs().blocs, *data_use().permissions, *identifier_classes().classes]
    listed += [*purpose_codes("ehds").purposes, *purpose_codes("dpv").purposes]
    listed += [code for code, law in law_table().laws.items() if law.until is None]
    for code in listed:
        assert f"`{code}" in page, code


def test_the_example_of_the_reference_is_a_policy(page: str) -> None:
    block = re.search(r"```yaml\n(apiVersion:.*?)```", page, re.DOTALL)
    assert block is not None
    policy = load_policy(block.group(1), "policy.yaml")
    assert f"charite-cardiology version 3, {policy.digest[:15]}..." in page
    assert f"refused by purposes.allow at {policy.locate(('purposes', 'allow'))}\n" in page

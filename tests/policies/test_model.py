"""The policy's model: what a policy may say, and the problems of one that says something else."""

import json

import pytest

from policies.document import json_schema
from policies.errors import DocumentError
from policies.model import SiloPolicy, load_policy


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_policy(text, "policy.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_the_example_loads(example) -> None:
    policy = load_policy(example.text, "policy.yaml")
    assert policy.model.metadata.name == "charite-cardiology"
    assert policy.model.egress.update.max_bytes == 64 << 20
    assert policy.model.purposes.permit.ref == "FDZ-2026-0113"
    line = example.line("allow: [loss")
    assert policy.locate(("egress", "metrics", "allow")) == f"policy.yaml:{line}:5"


@pytest.mark.parametrize(
    ("old", "new", "at", "words"),
    [
        (
            "silo: DE",
            "silo: UK",
            "9:9",
            'got "UK", expected a country code of ISO 3166 alpha-2; did you mean "GB"?',
        ),
        ("silo: DE", "silo: EU", "9:9", 'got "EU", expected a country code of ISO 3166 alpha-2'),
        ("silo: DE", "silo: de", "9:9", 'did you mean "DE"?'),
        ("[EU, EEA, CH]", "[EU, Germany]", "11:36", 'or a bloc (EU, EEA, EFTA, ADEQUATE, CONCERN); did you mean "DE"?'),
        ("[EU, EEA, CH]", "[EU, Swizerland]", "11:36", 'did you mean "CH"?'),
        ("[EU, EEA, CH]", "[European Union]", "11:32", 'did you mean "EU"?'),
        ("[EU, EEA, CH]", "[EU, CH, EU]", "11:40", "expected each item once; remove the repetition"),
        ("model_update:", "model_updates:", "11:5", 'did you mean "model_update"?'),
        (
            "allow: [HMB]",
            "allow: [GRU, HBM]",
            "15:16",
            "expected a DUO permission (NRES, GRU, HMB, POA, DS:MONDO:<id>)",
        ),
        ("allow: [HMB]", "allow: [GRU, HBM]", "15:16", 'did you mean "HMB"?'),
        (
            "allow: [HMB]",
            "allow: [DS]",
            "15:11",
            "a disease is seven digits of MONDO, as in DS:MONDO:0005267",
        ),
        ("allow: [HMB]", "allow: [DS:MONDO:12]", "15:11", "a disease is seven digits of MONDO"),
        ("allow: [HMB]", "allow: [NMDS]", "15:11", "NMDS (no general methods research) is a modifier"),
        ("allow: [HMB]", "allow: [general research]", "15:11", 'did you mean "GRU"?'),
        ("vocabulary: duo", "vocabulary: dou", "14:15", 'expected one of: duo, ehds, dpv, own; did you mean "duo"?'),
        ("[gdpr-art-6-1-e]", "[]", "16:3", "got an empty list, expected at least 1 in the list"),
        ("minimum: 50", "minimum: 0", "24:16", "got the number 0, expected at least 1"),
        ("approvals: required", "approvals: optional", "26:14", 'got "optional", expected required'),
        ("max_norm: 10.0", "max_norm: 0", "38:15", "got the number 0, expected more than 0"),
        ("max_norm: 10.0", "max_norm: .inf", "38:15", "got the number inf, expected a finite number"),
        ("owner: dpo@charite.example", "owner: ''", "6:10", 'got "", expected text'),
        (
            "owner: dpo@charite.example",
            "owner: 7",
            "6:10",
            "got the number 7, expected text: put it in quotes",
        ),
        ("version: 3", "version: 0", "5:12", "got the number 0, expected at least 1"),
        ("  max_rounds: 200", "  max_rounds: 200\n  windows: []", "33:3", "expected at least 1 in the list"),
        ("  max_rounds: 200", "  max_rounds: 200\n  weekdays: []", "33:3", 'got the unknown field "weekdays"'),
        ("    rows:\n      minimum: 50\n", "", "21:3", 'got no "rows" in "heart", expected this field'),
    ],
)
def test_a_problem_is_named_at_its_place(example, old: str, new: str, at: str, words: str) -> None:
    assert old in example.text
    found = problems(example.text.replace(old, new, 1))
    assert [p for p in found if p.startswith(f"policy.yaml:{at}: ") and words in p], found


def test_an_app_is_approved_once(example) -> None:
    found = problems(example.text.replace(example.ended, example.digest))
    assert found == [f'policy.yaml:29:15: got "{example.digest}", expected each digest once; remove the repetition']


@pytest.mark.parametrize(
    "promise",
    ["witnesses: {}", "retention: {}", "runs: {nights: []}", "data: {}", "pseudonymize: []"],
)
def test_what_is_not_enforced_cannot_be_promised(example, promise: str) -> None:
    text = example.text.replace("runs:\n  max_rounds: 200\n", "") if promise.startswith("runs") else example.text
    assert "got the unknown field" in "\n".join(problems(text + promise + "\n"))


def test_norway_is_a_country(example) -> None:
    policy = load_policy(example.text.replace("silo: DE", "silo: NO").replace("[EU, EEA, CH]", "[NO]"))
    assert policy.model.residency.silo == "NO"
    assert policy.model.residency.destinations.model_update.countries == ("NO",)


def test_own_purposes_are_any_short_code(example) -> None:
    own = example.text.replace("vocabulary: duo", "vocabulary: own")
    assert load_policy(own.replace("[HMB]", "[fraud-detection]")).model.purposes.allow == ("fraud-detection",)
    assert "expected a code of at most 64 letters" in problems(own.replace("[HMB]", '["two words"]'))[0]


def _conforms(value: object, schema: dict, root: dict) -> bool:
    """The part of JSON Schema that the policy's schema uses."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]] | {k: v for k, v in schema.items() if k != "$ref"}
    if "anyOf" in schema:
        return any(_conforms(value, option, root) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    match schema["type"]:
        case "object":
            extra = next(iter(schema.get("patternProperties", {}).values()), schema["additionalProperties"])
            known = schema.get("properties", {})
            return (
                isinstance(value, dict)
                and set(schema.get("required", ())) <= set(value)
                and all(
                    _conforms(item, known.get(key, extra), root) if known.get(key, extra) is not False else False
                    for key, item in value.items()
                )
            )
        case "array":
            return isinstance(value, list) and all(_conforms(item, schema["items"], root) for item in value)
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int)
        case "number":
            return isinstance(value, int | float)
        case "null":
            return value is None
    return False


def test_the_example_conforms_to_the_schema(example) -> None:
    schema = json_schema(SiloPolicy)
    plain = load_policy(example.text).root.plain()
    assert _conforms(plain, schema, schema)
    assert not _conforms({**plain, "witnesses": {}}, schema, schema)
    assert not _conforms({**plain, "residency": {**plain["residency"], "silo": "UK"}}, schema, schema)
    assert json.loads(json.dumps(schema)) == schema


def test_every_field_is_described() -> None:
    schema = json_schema(SiloPolicy)
    for definition in [schema, *schema["$defs"].values()]:
        for name, field in definition.get("properties", {}).items():
            assert field.get("description") or "$ref" in field, (definition["title"], name)

"""Laws that apply: each floor refuses a policy below it, with place, law and provision; citations are checked."""

import re

import pytest

from policies.errors import DocumentError
from policies.model import load_policy
from policies.vocabulary import blocs, country_codes, identifier_classes, law_table
from policies.vocabulary.laws import citation_name, citations


def problems(text: str) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_policy(text, "policy.yaml")
    return [str(problem) for problem in caught.value.problems]


def applying(text: str, *laws: str) -> str:
    return text.replace("kind: SiloPolicy", f"kind: SiloPolicy\napplies: [{', '.join(laws)}]")


IDENTIFIERS = ", ".join(identifier_classes().classes)

# law, what is added to the small policy so that it is at the law's floors
SUFFICIENT = {
    "gdpr": [("legal_basis: [", "dpia: {ref: D-1, expires: 2027-01-01}\n  legal_basis: [")],
    "ehds": [
        ("legal_basis: [", "persons: [ops]\n  legal_basis: ["),
        ("minimum: 50", "minimum: 50\n      opt_out: objected"),
    ],
    "ai-act": [],
    "dora": [("legal_basis: [", "agreement: {ref: C-1, expires: 2027-01-01}\n  legal_basis: [")],
    "mifid2": [],
    "sgb-v-393": [],
    "hipaa": [
        (
            "columns: {allow: [age, sex, cp]}",
            f"columns: {{allow: [age], deny: [{IDENTIFIERS}], classes: {{age: none}}}}",
        )
    ],
    "glba": [("legal_basis: [", "persons: [ops]\n  legal_basis: [")],
    "sr-26-2": [],
    "pci-dss": [],
    "sec-17a-4": [],
    "doj-202": [],
    "dpdp": [],
    "bdsg": [],
    "loi-78-17": [],
    "csp": [],
    "helseforskningsloven": [("legal_basis: [", "ethics: {ref: REK-1, expires: 2027-01-01}\n  legal_basis: [")],
    "hfg": [("legal_basis: [", "ethics: {ref: E-1, expires: 2027-01-01}\n  legal_basis: [")],
}
TAIL = """
audit:
  retention: {minimum: P10Y, maximum: P12Y}
  witnesses: {quorum: 1}
  verify_age: P7D
  clock_skew: 2.0
attestations:
  - {name: c5-type-2, ref: C5, expires: 2027-01-01}
  - {name: establishment-de, ref: HRB, expires: 2027-01-01}
  - {name: hds, ref: HDS, expires: 2027-01-01}
inventory: {ref: MI-1, owner: o, validated: {ref: V-1, expires: 2027-01-01}}
"""


def at_the_floors(example, law: str) -> str:
    text = example.text.replace("[EU, EEA, CH, US], basis", "[EU, EEA, CH], basis") + TAIL
    for old, new in SUFFICIENT[law]:
        assert old in text
        text = text.replace(old, new, 1)
    return applying(text, law)


def test_every_law_in_force_has_a_case() -> None:
    assert set(SUFFICIENT) == {code for code, law in law_table().laws.items() if law.until is None}


@pytest.mark.parametrize("law", SUFFICIENT)
def test_a_policy_at_the_floors_of_a_law_loads(example, law: str) -> None:
    assert load_policy(at_the_floors(example, law)).model.applies == (law,)


# law, what is taken away, words of the line that is named, words of the problem
BELOW = [
    ("gdpr", ("gdpr-art-6-1-e", "gdpr-art-9-2-j"), "legal_basis", "begins with gdpr-art-6-"),
    ("gdpr", ("  dpia: {ref: D-1, expires: 2027-01-01}\n", ""), "applies", "got nothing as purposes.dpia"),
    ("gdpr", (", maximum: P12Y", ""), "applies", "no longer than needed (GDPR, Article 5(1)(e))"),
    ("gdpr", ("[EU, EEA, CH], basis: gdpr-art-9-2-j", "[EU, IN], basis: gdpr-art-9-2-j"), "model_update", "IN"),
    ("ehds", ("  persons: [ops]\n", ""), "applies", "Article 73(1)(b)"),
    ("ehds", ("minimum: P10Y", "minimum: P11M"), "retention", "got P11M as audit.retention.minimum"),
    ("ehds", ("\n      opt_out: objected", ""), "applies", "as datasets.heart.rows.opt_out"),
    ("ehds", ("  permit:\n    ref: FDZ-2026-0113\n    expires: 2027-06-30\n", ""), "applies", "Article 68"),
    ("ai-act", ("minimum: P10Y", "minimum: P5M"), "retention", "at least P6M"),
    ("dora", ("  witnesses: {quorum: 1}\n", ""), "applies", "Article 12"),
    ("dora", ("  clock_skew: 2.0\n", ""), "applies", "clocks are synchronised"),
    ("dora", ("  agreement: {ref: C-1, expires: 2027-01-01}\n", ""), "applies", "Article 30(2)(b)"),
    ("mifid2", ("minimum: P10Y", "minimum: P4Y"), "retention", "at least P5Y"),
    ("sgb-v-393", ("silo: DE", "silo: US"), "silo: US", "got US (United States) as residency.silo"),
    (
        "sgb-v-393",
        ("[EU, EEA, CH], basis: gdpr-art-9", "[US], basis: gdpr-art-9"),
        "model_update",
        "section 393(2)",
    ),
    ("sgb-v-393", ("c5-type-2", "c5-type-1"), "attestations", "expected also c5-type-2"),
    ("sgb-v-393", ("establishment-de", "establishment-fr"), "attestations", "expected also establishment-de"),
    ("hipaa", (", url, ip_address", ", ip_address"), "deny", "expected also url"),
    ("hipaa", ("minimum: P10Y", "minimum: P5Y"), "retention", "at least P6Y"),
    ("hipaa", ("  verify_age: P7D\n", ""), "applies", "164.312(b), (c)"),
    ("glba", ("  persons: [ops]\n", ""), "applies", "16 CFR 314.4(c)(1)"),
    ("glba", ("  verify_age: P7D\n", ""), "applies", "16 CFR 314.4(c)(8)"),
    ("sr-26-2", ("inventory: {ref: MI-1", "# {ref: MI-1"), "applies", "as inventory, expected this field"),
    ("pci-dss", ("minimum: P10Y", "minimum: P11M"), "retention", "at least P1Y"),
    ("pci-dss", ("  verify_age: P7D\n", ""), "applies", "10.3.4"),
    ("sec-17a-4", ("  verify_age: P7D\n", ""), "applies", "17a-4(f)"),
    ("doj-202", ("[EU, EEA, CH], basis: gdpr-art-9", "[EU, CN], basis: gdpr-art-9"), "model_update", "CN (China)"),
    ("doj-202", ("minimum: P10Y", "minimum: P9Y"), "retention", "at least P10Y"),
    ("dpdp", ("minimum: P10Y", "minimum: P11M"), "retention", "at least P1Y"),
    ("csp", ("name: hds", "name: hda"), "attestations", "expected also hds"),
    ("helseforskningsloven", ("  ethics: {ref: REK-1, expires: 2027-01-01}\n", ""), "applies", "REK"),
    ("hfg", ("  ethics: {ref: E-1, expires: 2027-01-01}\n", ""), "applies", "Article 45"),
]


@pytest.mark.parametrize(("law", "below", "at", "words"), BELOW)
def test_a_policy_below_a_floor_is_refused_at_its_place(example, law: str, below, at: str, words: str) -> None:
    old, new = below
    text = at_the_floors(example, law)
    assert old in text, old
    text = text.replace(old, new, 1)
    (problem,) = problems(text)
    assert words in problem
    assert f"({law_table().laws[law].name}, " in problem
    line = next(n for n, line in enumerate(text.splitlines(), 1) if at in line)
    assert problem.startswith(f"policy.yaml:{line}:"), problem


def test_every_floor_has_a_case_below_it() -> None:
    for code, law in law_table().laws.items():
        assert len([case for case in BELOW if case[0] == code]) >= len(law.floors), code


def test_what_lifts_a_floor_does(example) -> None:
    text = at_the_floors(example, "hipaa").replace(f"deny: [{IDENTIFIERS}], classes: {{age: none}}", "deny: []")
    assert "(or purposes.agreement or attestations=expert-determination)" in problems(text)[0]
    agreed = text.replace("  legal_basis: [", "  agreement: {ref: DUA-1, expires: 2027-01-01}\n  legal_basis: [")
    load_policy(agreed)
    load_policy(text.replace("name: hds", "name: expert-determination"))
    abroad = at_the_floors(example, "gdpr").replace("[EU, EEA, CH], basis: gdpr-art-9-2-j", "[EU, IN], basis: {}")
    load_policy(abroad.replace("{}", "gdpr-art-46-scc-2026-14"))
    assert len(problems(abroad.replace("{}", "gdpr-art-9-2-j"))) == 1


def test_a_safeguard_lifts_the_floor_of_its_own_destination_alone(example) -> None:
    text = at_the_floors(example, "gdpr").replace("[EU, EEA, CH], basis", "[EU, IN], basis")
    (problem,) = problems(text)
    assert "as residency.destinations.model_update.countries" in problem
    assert "metrics: {countries: [EU, IN], basis: gdpr-art-46-scc" in text


def test_all_floors_of_all_laws_are_reported_at_once(example) -> None:
    found = problems(applying(example.text, "gdpr", "ehds", "hipaa"))
    assert {re.search(r"\(([^(]*), [^,]*\)$", problem) is not None for problem in found} == {True}
    assert len(found) >= 8


# -- the table and citations


def test_the_table_is_dated_sourced_and_consistent() -> None:
    table = law_table()
    assert table.as_of.year >= 2026
    places = {*country_codes().countries, *blocs().blocs}
    for code, law in table.laws.items():
        assert set(law.instruments) <= set(law.provisions), code
        assert law.replaced_by is None or law.replaced_by in table.laws
        assert law.until is None or not law.floors
        for floor in law.floors:
            conditions = [floor.present, floor.at_least, floor.any_of, floor.all_of, floor.within, floor.outside]
            assert sum(bool(condition) for condition in conditions) == 1, (code, floor)
            assert set(floor.within or ()) | set(floor.outside or ()) <= places


@pytest.mark.parametrize(
    ("citation", "words"),
    [
        ("gdpr-art-6-1-x", 'did you mean "gdpr-art-6-1-'),
        ("gdrp-art-9-2-j", 'did you mean "gdpr-art-9-2-j"?'),
        ("gdpr-art-46-scc-", None),
        ("gdpr-art-9-2-j-2026-14", 'did you mean "gdpr-art-9-2-j"?'),
        ("because", "expected a citation of the table of laws, or other: and a text"),
        ("other:", "expected a citation"),
        ("other: ", "expected a citation"),
        ("sr-11-7-guidance", "SR 11-7 ended on 2026-04-17 and was replaced by sr-26-2"),
    ],
)
def test_a_citation_is_checked(example, citation: str, words: str | None) -> None:
    text = example.text.replace("[gdpr-art-6-1-e]", f'["{citation}"]')
    if words is None:
        load_policy(text)
    else:
        assert words in "\n".join(problems(text))


def test_what_the_table_does_not_have_is_cited_as_other(example) -> None:
    policy = load_policy(example.text.replace("[gdpr-art-6-1-e]", '["other:LKHG NRW 6"]'))
    assert policy.model.purposes.legal_basis == ("other:LKHG NRW 6",)
    assert citation_name("other:LKHG NRW 6") == "other:LKHG NRW 6"
    assert citation_name("gdpr-art-6-1-e") == "gdpr-art-6-1-e (task in the public interest)"
    assert len(citations()) == sum(len(law.provisions) for law in law_table().laws.values())


@pytest.mark.parametrize(
    ("law", "words"),
    [
        ("gpdr", 'did you mean "gdpr"?'),
        ("HIPAA", 'did you mean "hipaa"?'),
        ("sr-11-7", "was replaced by sr-26-2"),
        ("moon-treaty", "expected a law of the table"),
    ],
)
def test_an_unknown_law_does_not_apply(example, law: str, words: str) -> None:
    assert words in "\n".join(problems(applying(example.text, law)))


# -- vocabularies of purposes


@pytest.mark.parametrize(
    ("vocabulary", "allow", "words"),
    [
        ("ehds", "ehds-53-1-g", 'did you mean "ehds-53-1-'),
        ("ehds", "scientific research related to health or care sectors", 'did you mean "ehds-53-1-e"?'),
        ("dpv", "dpv:AcademicResearch", 'did you mean "https://w3id.org/dpv#AcademicResearch"?'),
        ("dpv", "https://w3id.org/dpv#AcademicReserch", 'did you mean "https://w3id.org/dpv#AcademicResearch"?'),
    ],
)
def test_a_purpose_outside_its_vocabulary_is_refused(example, vocabulary: str, allow: str, words: str) -> None:
    text = example.text.replace("vocabulary: duo", f"vocabulary: {vocabulary}").replace("[HMB]", f'["{allow}"]')
    assert words in "\n".join(problems(text))

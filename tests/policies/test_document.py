"""The document loader: what is refused, where, and in which words."""

import hashlib
import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example as case
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from policies.document import Closed, Kind, json_schema, load_document
from policies.errors import DocumentError, PolicyError
from policies.limits import Limits
from policies.scalars import ByteSize, IsoDate, Name, Sha256


class Door(Closed):
    width: float
    """Width of the door in metres. It is inside the frame."""
    colour: Literal["red", "green"] = "red"


class House(Kind):
    kind: Literal["House"]
    name: str
    doors: tuple[Door, ...] = ()
    rooms: dict[Name, Door] = Field(default_factory=dict)
    cellar: Door | None = None
    built: IsoDate | None = None
    size: ByteSize | None = None
    digest: Sha256 | None = None
    floors: int = 1
    heated: bool = True


HEAD = "apiVersion: concordat/v1\nkind: House\nname: a\n"


def problems(text: str | bytes, limits: Limits | None = None) -> list[str]:
    with pytest.raises(DocumentError) as caught:
        load_document(text, House, "h.yaml", *([limits] if limits else []))
    return [str(problem) for problem in caught.value.problems]


def only(text: str | bytes, limits: Limits | None = None) -> str:
    found = problems(text, limits)
    assert len(found) == 1, found
    return found[0]


def test_a_document_has_its_model_digest_source_and_text(tmp_path: Path) -> None:
    path = tmp_path / "h.yaml"
    path.write_text(HEAD + "doors: [{width: 1}]\n")
    document = load_document(path, House)
    assert document.model.doors == (Door(width=1.0),)
    assert document.digest == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert document.source == str(path)
    assert document.text == path.read_text()
    assert load_document(path.read_text(), House, "x").digest == document.digest


def test_the_digest_is_over_the_bytes_of_the_file() -> None:
    data = b"\xef\xbb\xbf" + HEAD.replace("\n", "\r\n").encode()
    assert load_document(data, House).digest == "sha256:" + hashlib.sha256(data).hexdigest()
    assert load_document(data, House).model.name == "a"


def test_locate_finds_keys_items_and_the_nearest_ancestor() -> None:
    document = load_document(HEAD + "doors:\n  - width: 1\n    colour: green\n", House, "h.yaml")
    assert document.locate() == "h.yaml:1:1"
    assert document.locate(("doors",)) == "h.yaml:4:1"
    assert document.locate(("doors", 0)) == "h.yaml:5:5"
    assert document.locate(("doors", 0, "colour")) == "h.yaml:6:5"
    assert document.locate(("doors", 0, "handle", "x")) == "h.yaml:5:5"
    assert document.locate(("doors", 7)) == "h.yaml:4:1"
    assert document.locate(("doors", -1)) == "h.yaml:4:1"
    assert document.locate(("garden",)) == "h.yaml:1:1"


@pytest.mark.parametrize("word", ["NO", "no", "yes", "on", "off", "Y", "2026-11-01", "1_000", "12:30:00", "0b1"])
def test_text_stays_text(word: str) -> None:
    assert load_document(HEAD.replace("name: a", f"name: {word}"), House).model.name == word


@pytest.mark.parametrize(("text", "number"), [("010", 10), ("0x1F", 31), ("0o17", 15), ("-3", -3)])
def test_integers_of_yaml_1_2(text: str, number: int) -> None:
    assert load_document(HEAD + f"floors: {text}\n", House).model.floors == number


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 << 20), ("10kB", 10_000), ("7", 7), ("3 GiB", 3 << 30), ("2TB", 2 * 10**12), ("5B", 5)],
)
def test_sizes(text: str, size: int) -> None:
    assert load_document(HEAD + f"size: {text}\n", House).model.size == size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("colour: red\n", 'h.yaml:4:1: got the unknown field "colour", expected one of: '),
        ("flors: 2\n", '; did you mean "floors"?'),
        ("cellar: {width: 1, color: red}\n", 'h.yaml:4:20: got the unknown field "color"'),
        ("cellar: {width: 1, color: red}\n", 'expected one of: colour, width; did you mean "colour"?'),
        (
            "cellar: {colour: red}\n",
            'h.yaml:4:1: got no "width" in "cellar", expected this field (Width of the door in metres)',
        ),
        (
            "cellar: {width: 1, colour: gren}\n",
            'h.yaml:4:28: got "gren", expected one of: red, green; did you mean "green"?',
        ),
        ("rooms: {hall: {width: wide}}\n", 'h.yaml:4:23: got "wide", expected a number'),
        ("rooms: {big hall: {width: 1}}\n", 'h.yaml:4:9: got the key "big hall", expected a name'),
        ("rooms: {hall: {wdth: 1, width: 1}}\n", 'h.yaml:4:16: got the unknown field "wdth"'),
        ("rooms: {hall: {wdth: 1}}\n", 'did you mean "width"?'),
        ("doors:\n  - width: 1\n  - 7\n", "h.yaml:6:5: got the number 7, expected a mapping"),
        ("doors: {}\n", "h.yaml:4:1: got a mapping, expected a list"),
        ("cellar: []\n", "h.yaml:4:1: got an empty list, expected a mapping"),
        ("floors: '2'\n", 'h.yaml:4:9: got "2", expected a whole number'),
        ("floors: 2.0\n", "h.yaml:4:9: got the number 2.0, expected a whole number"),
        ("floors: true\n", "h.yaml:4:9: got true, expected a whole number"),
        ("floors:\n", "h.yaml:4:1: got nothing, expected a whole number"),
        ("floors: " + "9" * 19 + "\n", "h.yaml:4:9: got a number of 19 digits, expected at most 18"),
        ("floors: " + "9" * 5000 + "\n", "h.yaml:4:9: got a number of 5000 digits, expected at most 18"),
        ("heated: yes\n", 'h.yaml:4:9: got "yes", expected true or false'),
        ("cellar: {width: .nan}\n", "h.yaml:4:17: got the number nan, expected a finite number"),
        (
            "built: 2026-02-30\n",
            'h.yaml:4:8: got "2026-02-30", expected a date of the calendar as YYYY-MM-DD',
        ),
        ("built: 20260201\n", "h.yaml:4:8: got the number 20260201, expected a date of the calendar"),
        ("size: 64Mib\n", 'h.yaml:4:7: got "64Mib", expected a positive number of bytes'),
        ("size: 64Mib\n", '; did you mean "64MiB"?'),
        ("size: 0\n", "h.yaml:4:7: got the number 0, expected a positive number of bytes"),
        ("size: true\n", "h.yaml:4:7: got true, expected a positive number of bytes"),
        ("digest: sha256:12\n", "expected sha256: and 64 lower-case hex digits; this has 2 after the prefix"),
        (f"digest: {'A' * 64}\n", f"write sha256:{'a' * 64}"),
        ("floors: 2\nfloors: 3\n", 'h.yaml:5:1: got "floors" a second time (first at line 4)'),
        ("floors:\n\t- 1\n", "h.yaml:5:1: got a tab, expected spaces"),
        ("cellar: *door\n", "h.yaml:4:9: got the alias *door, expected the value written out"),
        ("*door : 1\n", "h.yaml:4:1: got an alias as a key, expected text"),
        ("? [a]\n: 1\n", "h.yaml:4:3: got a list or a mapping as a key, expected text"),
        ("12: 1\n", 'h.yaml:4:1: got 12 as a key, expected text: write "12"'),
        ("cellar: !door {width: 1}\n", "h.yaml:4:9: got the tag !door, expected a value without a tag"),
        ("!!str floors: 2\n", "h.yaml:4:1: got the tag tag:yaml.org,2002:str"),
        ("<<: {floors: 2}\n", 'h.yaml:4:1: got the unknown field "<<"'),
        ("floors: [1\n", "h.yaml:5:1: got text that is not YAML (expected ',' or ']'"),
        ("floors: 1: 2\n", "h.yaml:4:10: got text that is not YAML (mapping values are not allowed here)"),
        ("floors: 'x\n", "got text that is not YAML"),
        ("floors: \x07\n", "h.yaml:4:9: got the character U+0007, expected printable text"),
        ('"a\\ud800": 1\n', "h.yaml:4:1: got the invisible character U+D800, expected visible text"),
        ("fl\u200boors: 1\n", "h.yaml:4:1: got the invisible character U+200B, expected visible text"),
        ("---\nfloors: 2\n", "h.yaml:4:1: got a second document, expected one"),
    ],
)
def test_each_error_has_its_position_and_advice(text: str, expected: str) -> None:
    found = problems(HEAD + text)
    assert any(expected in problem for problem in found), found


def test_all_problems_are_reported_at_once_in_the_order_of_the_text() -> None:
    text = "apiVersion: concordat/v2\nkind: House\nfloors: x\n"
    text += "cellar: {width: *w, colour: blue}\nfloors: 1\ncolour: 1\n"
    assert [problem.split(": ")[0] for problem in problems(text)] == [
        "h.yaml:1:1",
        "h.yaml:1:13",
        "h.yaml:3:9",
        "h.yaml:4:17",
        "h.yaml:4:29",
        "h.yaml:5:1",
        "h.yaml:6:1",
    ]


def test_a_value_refused_while_reading_is_reported_once() -> None:
    assert only(HEAD + "floors: *n\n") == "h.yaml:4:9: got the alias *n, expected the value written out"


def test_another_kind_is_refused_alone_with_advice() -> None:
    text = "apiVersion: concordat/v1\nkind: Run\nrounds: 3\n"
    assert only(text) == 'h.yaml:2:7: got a document of kind "Run", expected House: give a file of that kind'


def test_a_misspelt_or_missing_kind_does_not_hide_the_rest() -> None:
    found = problems(HEAD.replace("House", "Hose") + "floors: x\n")
    assert found[0] == 'h.yaml:2:7: got "Hose", expected House'
    assert found[1].startswith("h.yaml:4:9")
    assert 'got no "kind"' in only(HEAD.replace("kind: House\n", ""))
    assert 'got no "apiVersion"' in only(HEAD.replace("apiVersion: concordat/v1\n", ""))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "h.yaml:1:1: got an empty file, expected House"),
        ("# nothing\n", "h.yaml:1:1: got an empty file, expected House"),
        ("- a\n", "h.yaml:1:1: got a list, expected a mapping with apiVersion and kind"),
        ("House\n", "h.yaml:1:1: got a single value, expected a mapping with apiVersion and kind"),
    ],
)
def test_a_document_is_a_mapping(text: str, expected: str) -> None:
    assert only(text) == expected


def test_an_older_yaml_version_is_refused() -> None:
    assert only("%YAML 1.1\n---\n" + HEAD) == "h.yaml:1:1: got the directive %YAML 1.1, expected 1.2: remove it"
    assert load_document("%YAML 1.2\n---\n" + HEAD, House).model.name == "a"


def test_an_alias_bomb_is_not_expanded() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    found = problems(HEAD + bomb)
    assert "h.yaml:5:8: got the alias *a, expected the value written out" in found
    assert sum("alias" in problem for problem in found) == 16


def test_limits_are_enforced() -> None:
    small = Limits(document_bytes=200, depth=4, nodes=20, scalar_characters=30)
    assert only(HEAD + "#" * 200, small) == "h.yaml: got more than 200 bytes, expected a smaller file"
    assert only(HEAD + "x: [[[[[1]]]]]\n", small) == "h.yaml:4:7: got more than 4 levels, expected fewer"
    assert "got more than 20 values" in only(HEAD + "x: [" + "1," * 30 + "]\n", small)
    assert only(HEAD.replace("name: a", "name: " + "a" * 31), small) == (
        "h.yaml:3:7: got a text of 31 characters, expected at most 30"
    )


def test_the_default_limits_stop_what_would_be_slow_or_deep() -> None:
    assert only(b"#" * (1 << 20) + b"#") == "h.yaml: got more than 1048576 bytes, expected a smaller file"
    assert only("[" * 1000).startswith("h.yaml:1:33: got more than 32 levels")
    assert "got more than 20000 values" in only("".join(f"k{i}: 1\n" for i in range(20_001)))


def test_a_file_over_the_limit_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DocumentError, match="got more than 1048576 bytes"):
        load_document(path, House)


def test_bytes_that_are_not_utf8_have_a_position() -> None:
    assert only(HEAD.encode() + "ä".encode() + b"\xff") == "h.yaml:4:2: got the byte 0xff, expected UTF-8 text"
    assert only(HEAD + "\ud800") == "h.yaml:4:1: got the byte 0xed, expected UTF-8 text"


def test_a_missing_file_is_a_document_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="got No such file or directory, expected a readable file"):
        load_document(tmp_path / "none.yaml", House)


def test_a_model_without_a_kind_is_a_mistake_of_the_program() -> None:
    with pytest.raises(TypeError, match="got the model Door, expected one with a Literal field kind"):
        load_document(HEAD, Door)


def test_a_closed_model_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Door(width=1.0).width = 2.0  # type: ignore[misc]


def test_the_schema_describes_and_closes() -> None:
    schema = json_schema(House)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"apiVersion", "kind", "name"}
    width = schema["$defs"]["Door"]["properties"]["width"]
    assert width["description"].startswith("Width of the door in metres.")


def loads_or_is_refused(text: str) -> None:
    try:
        document = load_document(text, House, "h.yaml")
    except DocumentError as refused:
        problems_found = refused.problems
    else:
        assert isinstance(document.model, House)
        return
    assert problems_found
    assert all(problem.source == "h.yaml" and problem.line >= 1 for problem in problems_found)


@given(st.text(max_size=200))
@case("a: &a [*a]")
@case("\ufeff")
@case("? ")
@case("%TAG ! x\n--- !y")
def test_any_text_loads_or_is_a_document_error(text: str) -> None:
    for content in (text, HEAD + text):
        loads_or_is_refused(content)


@given(st.binary(max_size=100))
def test_any_bytes_load_or_are_a_document_error(data: bytes) -> None:
    with pytest.raises(DocumentError):
        load_document(data, House)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), st.lists, max_leaves=5)
)
def test_any_value_in_a_field_loads_or_is_a_document_error(value: object) -> None:
    for name in ("name", "floors", "size", "digest", "built", "doors", "rooms", "cellar"):
        text = HEAD.replace("name: a\n", "" if name == "name" else "name: a\n") + f"{name}: {json.dumps(value)}\n"
        loads_or_is_refused(text)

"""The documentation says what the code does: every setting, limit, rule id and command stands in it."""

from __future__ import annotations

import ast
import dataclasses
import importlib.machinery
import importlib.util
import re
import typing
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from coordinator.authority.directory import AuthorityConfig
from federation.limits import LIMITS
from federation.manifest import Federation
from federation.run import Run
from federation.statistics.document import Statistics
from silo.config import SiloConfig, WorkerConfig
from silo.dataset.contract import Dataset

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
AT_THE_DOOR = re.compile(r"(gateway|enrolment|renewal)\.[a-z]+")
LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}.*?(?=^## |\Z)", SETTINGS, re.M | re.S)
    assert found is not None, title
    return found[0]


def fields(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of a model's leaf fields; `NAME.` for a mapping's keys and `[]` for a list's items."""
    names = set()
    for name, info in model.model_fields.items():
        if prefix == "" and name in {"api_version", "kind"}:
            continue
        inner, mark = inner_models(info.annotation)
        for one in inner:
            names |= fields(one, f"{prefix}{name}{mark}.")
        if not inner:
            names.add(prefix + name)
    return names


def inner_models(annotation: object) -> tuple[list[type[BaseModel]], str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation], ""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    found = [model for argument in arguments for model in inner_models(argument)[0]]
    mark = ".NAME" if origin is dict else "[]" if origin is tuple else ""
    return found, mark


@pytest.mark.parametrize(
    ("model", "title"),
    [
        (Run, "kind: Run"),
        (Statistics, "kind: Statistics"),
        (SiloConfig, "kind: Silo (the gate)"),
        (WorkerConfig, "kind: Worker"),
        (Dataset, "kind: Dataset"),
        (Federation, "kind: Federation"),
        (AuthorityConfig, "kind: Authority"),
    ],
)
def test_every_setting_is_documented_and_no_other(model: type[BaseModel], title: str) -> None:
    documented = set(re.findall(r"^\| `([^`]+)` \|", section(title), re.M))
    assert documented == fields(model)


def test_every_limit_is_documented_with_its_bound() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section("Limits"), re.M))
    assert set(rows) == {field.name for field in dataclasses.fields(LIMITS)}
    for name, text in rows.items():
        number, _, unit = text.strip().replace(",", "").partition(" ")
        scale = {"": 1, "KiB": 1024, "MiB": 1024 * 1024}[unit]
        assert int(number) * scale == getattr(LIMITS, name), name


def test_every_rule_id_decided_outside_the_policy_is_documented() -> None:
    documented = set(re.findall(r"^\| `([\w.-]+)` \|", section("Rule ids outside the policy"), re.M))
    used = set()
    for path in [*(ROOT / "silo" / "gate").glob("*.py"), *(ROOT / "coordinator").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "rule" and isinstance(node.value, ast.Constant):
                used.add(node.value.value)
            called = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if isinstance(node, ast.Call) and called in {"_refuse", "refuse"}:
                used |= {one.value for one in node.args[:1] if isinstance(one, ast.Constant)}
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and AT_THE_DOOR.fullmatch(node.value):
                used.add(node.value)
    assert used - {None} == documented


def tool(name: str) -> ModuleType:
    loader = importlib.machinery.SourceFileLoader(name.replace("-", "_"), str(ROOT / "tools" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_the_commands_help_is_what_the_docs_show() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == tool("cli-docs").page()


def test_exit_codes_are_documented() -> None:
    from federation.cli import EPILOG
    from federation.errors import Exit

    assert {int(code) for code in re.findall(r"\b(\d+) [a-z]", EPILOG)} == {int(code) for code in Exit}


@pytest.mark.parametrize(
    "page", sorted(str(p.relative_to(ROOT)) for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target, _ in LINK.findall(path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_security_page_has_the_ten_promises_and_names_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    promises = re.split(r"^## (\d+)\. ", text.partition("## What the promises do not say")[0], flags=re.M)[1:]
    assert [int(number) for number in promises[::2]] == list(range(1, 11))
    for number, section_of_it in zip(promises[::2], promises[1::2], strict=True):
        for part in ("**What enforces it**", "**Attacked by** `tests/", "**Not yet**"):
            assert part in section_of_it, f"{number}: {part}"
    for path in re.findall(r"`(tests/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path


def test_every_attack_is_listed_and_every_one_listed_is_a_test() -> None:
    listed: dict[str, set[str]] = {}
    for path, name in re.findall(
        r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "security-testing.md").read_text()
    ):
        listed.setdefault(path, set()).add(name)
    for path, names in listed.items():
        tests = {one.name for one in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(one, ast.FunctionDef)}
        assert names - {""} <= tests, path
    attacks = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_attack*.py")}
    assert attacks <= set(listed)


def test_commands_in_the_docs_exist() -> None:
    known = {" ".join(command) for command in tool("cli-docs").commands()}
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for words in re.findall(r"concordat ((?:[a-z]+)(?: [a-z][a-z-]*)?)", page.read_text()):
            group, _, name = words.partition(" ")
            if any(command.split(" ")[0] == group and " " in command for command in known):
                assert words in known or name == "", f"{page.name}: concordat {words}"

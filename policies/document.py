"""Closed YAML documents: read, validated against a model, every problem reported at its position."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from policies.characters import foreign_space, lines
from policies.errors import DocumentError, Problem
from policies.files import open_regular
from policies.limits import LIMITS, Limits
from policies.problems import problems_of
from policies.reader import parse
from policies.tree import Node, PathKey
from policies.wording import nearest, shown

API_VERSION = "concordat/v1"


class Closed(BaseModel):
    """A model without unknown fields, without conversions and without change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class Kind(Closed):
    """The base of a document's model; a subclass adds `kind` as a Literal with its name."""

    api_version: Literal["concordat/v1"] = Field(alias="apiVersion")
    """Version of the document's format."""


M = TypeVar("M", bound=Closed)
M_co = TypeVar("M_co", bound=Closed, covariant=True)


@dataclass(frozen=True, slots=True)
class Document(Generic[M_co]):
    """A validated document with the digest of its bytes and the positions of its fields."""

    model: M_co
    digest: str
    source: str
    text: str = field(repr=False)
    root: Node = field(repr=False, compare=False)

    def locate(self, path: tuple[PathKey, ...] = ()) -> str:
        """`file:line:column` of a field, or of its nearest ancestor that is present.

        A path has keys and, for list items, indexes from 0.
        """
        line, column = self.root.locate(path)
        return f"{self.source}:{line}:{column}"


def load_document(
    path_or_text: Path | str | bytes, model: type[M], source: str | None = None, limits: Limits = LIMITS
) -> Document[M]:
    """Read a document from a file (a Path) or from its content (text or bytes).

    `source` is the name used in positions; it defaults to the path. The digest is SHA-256 over the bytes of
    the file, for a text over its UTF-8 form. Raises DocumentError with all problems found.
    """
    if isinstance(path_or_text, Path):
        source = source or str(path_or_text)
        data = _read(path_or_text, source, limits)
    else:
        source = source or "document"
        data = _encode(path_or_text)
    text = _decode(data, source, limits)
    root, problems = parse(text, source, limits)
    if root is None:
        raise DocumentError([Problem(1, 1, f"got an empty file, expected {_kind_names(model)[0]}", source)])
    if root.entries is None:
        found = "a list" if root.items is not None else "a single value"
        message = f"got {found}, expected a mapping with apiVersion and kind"
        raise DocumentError([*problems, Problem(*root.position, message, source)])
    foreign = _foreign_kind(root, model, source)
    if foreign:
        raise DocumentError([*problems, foreign])
    try:
        value = model.model_validate_json(json.dumps(root.plain()))
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        every = [*problems, *problems_of(model, root, details, source)]
        raise DocumentError([*every, *_misleading_spaces(text, every, source)]) from None
    if problems:
        raise DocumentError(problems)
    return Document(value, f"sha256:{hashlib.sha256(data).hexdigest()}", source, text, root)


def _misleading_spaces(text: str, found: Iterable[Problem], source: str) -> Iterator[Problem]:
    """Spaces that YAML takes for letters, in lines that have a problem: nobody sees them there."""
    faulty = {problem.line for problem in found}
    for number, line in enumerate(lines(text), 1):
        space = foreign_space(line, (number, 1)) if number in faulty else None
        if space is not None:
            yield Problem(*space[0], f"got {space[1]}, expected a space", source)


def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a document's model, for editors that check while typing."""
    schema = model.model_json_schema(by_alias=True)
    _close(schema)
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def _close(schema: object) -> None:
    """Refuse keys that fit none of an object's patterns, as the loader does."""
    if isinstance(schema, dict):
        if "patternProperties" in schema:
            schema.setdefault("additionalProperties", False)
        for part in schema.values():
            _close(part)
    elif isinstance(schema, list):
        for part in schema:
            _close(part)


def _encode(content: str | bytes) -> bytes:
    # A lone surrogate, which UTF-8 cannot hold, is reported with its position when the bytes are decoded.
    return content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content


def _read(path: Path, source: str, limits: Limits) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(limits.document_bytes + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DocumentError([Problem(0, 0, f"got {reason}, expected a readable file", source)]) from error


def _decode(data: bytes, source: str, limits: Limits) -> str:
    if len(data) > limits.document_bytes:
        message = f"got more than {limits.document_bytes} bytes, expected a smaller file"
        raise DocumentError([Problem(0, 0, message, source)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before.rpartition(b"\n")[2].decode("utf-8-sig")) + 1
        message = f"got the byte 0x{data[error.start]:02x}, expected UTF-8 text"
        raise DocumentError([Problem(before.count(b"\n") + 1, column, message, source)]) from None


def _kind_names(model: type[BaseModel]) -> tuple[str, ...]:
    names = get_args(model.model_fields["kind"].annotation) if "kind" in model.model_fields else ()
    if not names:
        raise TypeError(f"got the model {model.__name__}, expected one with a Literal field kind")
    return tuple(str(name) for name in names)


def _foreign_kind(root: Node, model: type[BaseModel], source: str) -> Problem | None:
    """The problem of a document of another kind, whose other fields it would be noise to report."""
    names = _kind_names(model)
    found = root.child("kind")
    if found is None or found[1].faulty or not isinstance(found[1].value, str) or found[1].value in names:
        return None
    kind = found[1].value
    if nearest(kind, names):
        return None
    expected = " or ".join(names)
    message = f'got a document of kind "{shown(kind)}", expected {expected}: give a file of that kind'
    return Problem(*found[1].position, message, source)

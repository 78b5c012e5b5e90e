"""Documents that reviewers of a silo sign: how they are written, read and verified."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from federation.errors import ConcordatError, IdentityError
from federation.home import read_limited
from federation.identity import NAME, sign, verify
from federation.limits import LIMITS
from policies.document import Kind, load_document
from policies.errors import DocumentError
from policies.scalars import Text

ReviewerName = Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
Keys = Mapping[str, ec.EllipticCurvePublicKey]


class Reviewed(Kind):
    """A document with a reviewer's signature over all its other fields."""

    reviewer: ReviewerName
    signature: Text


K = TypeVar("K", bound=Reviewed)


def signed(fields: Mapping[str, object], key: ec.EllipticCurvePrivateKey, domain: bytes) -> str:
    """The text of a document with these fields, signed; a time is given as `moment` writes it."""
    every = {"apiVersion": "concordat/v1", **fields}
    signature = base64.b64encode(sign(key, domain, _canonical(every))).decode()
    lines = {**every, "signature": signature}
    return "".join(f"{name}: {json.dumps(value, ensure_ascii=False)}\n" for name, value in lines.items())


def verify_document(document: Reviewed, domain: bytes, keys: Keys) -> None:
    """Check a document's signature against the key of its reviewer; raises IdentityError."""
    key = keys.get(document.reviewer)
    if key is None:
        raise IdentityError(f"{document.reviewer} is not a reviewer of this silo", advice="name the key in silo.yaml")
    try:
        signature = base64.b64decode(document.signature, validate=True)
    except ValueError:
        raise IdentityError(f"the signature of {document.reviewer} is not base64") from None
    verify(key, domain, statement(document), signature)


def verified(
    directory: Path, suffix: str, model: type[K], domain: bytes, keys: Keys, problems: list[str], unread: list[str]
) -> Iterator[K]:
    """The documents of one kind in a directory whose signature verifies.

    Why others do not goes to `problems`, why a file cannot be read at all to `unread`. Raises ConcordatError for too
    many of them.
    """
    paths = sorted(directory.glob(f"*{suffix}")) if directory.is_dir() else []
    if len(paths) > LIMITS.approvals:
        raise ConcordatError(f"{directory} holds {len(paths)} files, expected at most {LIMITS.approvals}")
    for path in paths:
        try:
            document = _parsed(read_limited(path, LIMITS.approval), model, path.name)
        except (DocumentError, ConcordatError) as error:
            unread.append(str(error).splitlines()[0][:500])
            continue
        try:
            verify_document(document, domain, keys)
        except ConcordatError as error:
            problems.append(str(error)[:500])
        else:
            yield document


def statement(document: Reviewed) -> bytes:
    """What is signed of a document: its other fields, as sorted JSON."""
    fields = document.model_dump(mode="json", by_alias=True, exclude={"signature"})
    for name in fields:
        value = getattr(document, name, None)
        if isinstance(value, datetime):
            fields[name] = moment(value)
    return _canonical(fields)


def moment(time: datetime) -> str:
    """A time as documents have it, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=2 * LIMITS.approvals)
def _parsed(content: bytes, model: type[K], name: str) -> K:
    """A document by its content, kept: a gate counts approvals again before every round."""
    return load_document(content, model, name).model


def _canonical(fields: Mapping[str, object]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

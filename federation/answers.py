"""What a coordinator answers over HTTP, read as it is and no further than it may go."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import httpx

from federation.errors import WireError
from federation.json_text import parse_json
from federation.limits import LIMITS

HEADERS = {"accept-encoding": "identity"}
"""An answer that comes packed all the same is refused: little of it can be made to fill any memory."""


def read_answer(response: httpx.Response, limit: int) -> bytes:
    """The whole body of a streamed answer; raises WireError where it is coded, or larger than it may be."""
    parts: list[bytes] = []
    size = 0
    for part in _raw(response):
        size += len(part)
        if size > limit:
            raise WireError(f"got an answer of more than {limit} bytes from the coordinator")
        parts.append(part)
    return b"".join(parts)


def read_events(response: httpx.Response, limit: int) -> Iterator[dict[str, Any]]:
    """The events of a streamed answer, one a line as they come; raises WireError for a line that is none."""
    rest = b""
    for part in _raw(response):
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > limit or any(len(line) > limit for line in lines):
            raise WireError(f"got an event of more than {limit} bytes from the coordinator")
        yield from (_event(line) for line in lines if line.strip())
    if rest.strip():
        yield _event(rest)


def parse_answer(content: bytes) -> Any:
    """An answer's JSON; raises WireError. The loss of a run that diverged need not be finite."""
    try:
        found = parse_json(content, finite=False)
    except ValueError as error:
        raise WireError(f"got an answer from the coordinator that is not JSON: {error}") from None
    return shallow(found)


def shallow(found: Any) -> Any:
    """What was read, if it is nested no deeper than an answer is; raises WireError. Python's own bound is its stack."""
    level = [found]
    for _ in range(LIMITS.answer_depth):
        level = [part for one in level if isinstance(one, dict | list) for part in _parts(one)]
        if not level:
            return found
    raise WireError(f"got an answer from the coordinator of more than {LIMITS.answer_depth} levels")


def _parts(one: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return one.values() if isinstance(one, dict) else one


def _raw(response: httpx.Response) -> Iterator[bytes]:
    coding = response.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise WireError(f"got an answer in the coding {coding[:40]!r} from the coordinator, expected it as it is")
    return response.iter_raw()


def _event(line: bytes) -> dict[str, Any]:
    found = parse_answer(line)
    if not isinstance(found, dict) or type(found.get("number")) is not int or not isinstance(found.get("event"), str):
        raise WireError("got a line from the coordinator that is not an event with its number")
    return found

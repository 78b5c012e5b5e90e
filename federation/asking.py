"""One question to a coordinator over HTTPS, before there is a connection that stays."""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass

from federation.addresses import split_address
from federation.errors import UnreachableError
from federation.json_text import parse_json
from federation.limits import LIMITS

TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class Answer:
    """The status and the content of an answer; at most four documents long."""

    status: int
    content: bytes

    @property
    def reason(self) -> str:
        """The `error` that a refusal carries, else its text."""
        try:
            return str(parse_json(self.content)["error"])[:1000]
        except (ValueError, KeyError, TypeError):
            return self.content[:1000].decode("utf-8", "replace") or "it gave no reason"


def post(
    address: str,
    path: str,
    content: object,
    context: ssl.SSLContext,
    *,
    unsent: str | None = None,
    unanswered: str | None = None,
) -> Answer:
    """Post JSON and read the answer.

    Raises UnreachableError with the advice `unsent` where the request certainly did not arrive, else `unanswered`.
    """
    host, port = split_address(address)
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=TIMEOUT_SECONDS)
    advice = unsent
    try:
        connection.connect()
        advice = unanswered
        body = json.dumps(content).encode()
        connection.request("POST", path, body=body, headers={"content-type": "application/json"})
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(4 * LIMITS.document))
    except (OSError, http.client.HTTPException) as error:
        raise UnreachableError(f"{address} does not answer: {error}", advice=advice) from None
    finally:
        connection.close()

"""Lines on standard error, for people and for machines."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import logging, sys
from federation.logs import LogFormat, speaker
say = speaker(LogFormat(sys.argv[1]), "gate")
say('connected to "hub"')
def fail():
    raise ValueError("a value of the data")
try:
    fail()
except ValueError:
    logging.getLogger("uvicorn.error").exception("request %s failed", 7)
logging.getLogger("uvicorn.access").info("not worth a line")
"""


def _lines(form: str) -> list[str]:
    done = subprocess.run([sys.executable, "-P", "-c", CODE, form], capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


def test_as_text_a_sentence_is_a_line() -> None:
    assert _lines("text")[0] == 'connected to "hub"'


def test_as_json_sentences_and_what_libraries_log_are_objects_a_line_each() -> None:
    said, logged = map(json.loads, _lines("json"))
    assert said.pop("time").endswith("+00:00")
    assert said == {"level": "info", "component": "gate", "message": 'connected to "hub"'}
    assert (logged["level"], logged["logger"], logged["message"]) == ("error", "uvicorn.error", "request 7 failed")


def test_of_an_exception_json_tells_kind_and_place_but_not_its_words() -> None:
    logged = json.loads(_lines("json")[1])
    assert (logged["exception"], logged["at"]) == ("ValueError", "fail:7")
    assert "a value of the data" not in json.dumps(logged)

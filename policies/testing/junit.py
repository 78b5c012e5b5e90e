"""The result of tests as JUnit XML, the form that build servers read."""

import datetime as dt
from collections.abc import Sequence
from xml.etree import ElementTree as ET

from policies.testing.coverage import Coverage
from policies.testing.runner import Tested


def junit(tested: Sequence[Tested], coverages: Sequence[Coverage], problems: Sequence[tuple[str, str]]) -> bytes:
    """One suite a test file; an unreadable file is an error, a rule without a test (with coverages) a failure.

    `problems` has the name of a file and what is wrong with it.
    """
    root = ET.Element("testsuites", name="concordat policy test")
    for one in tested:
        suite = _suite(root, one.test.source, one.test.model.now)
        for outcome in one.outcomes:
            case = ET.SubElement(
                suite, "testcase", name=_clean(outcome.name), classname=_clean(one.test.source), file=one.test.source
            )
            if not outcome.passed:
                failure = ET.SubElement(case, "failure", message=_clean("; ".join(outcome.differences)))
                failure.text = _clean(f"{outcome.location}\n{outcome.decision.location}: {outcome.decision.reason}")
    for source, text in problems:
        case = ET.SubElement(_suite(root, source), "testcase", name="the file is read", classname=source)
        ET.SubElement(case, "error", message="refused").text = _clean(text)
    for one_coverage in coverages:
        source = one_coverage.policy.source
        suite = _suite(root, f"{source}: rules")
        for rule in one_coverage.used:
            case = ET.SubElement(suite, "testcase", name=f"{rule} has a test", classname=source)
            if rule in one_coverage.missing:
                ET.SubElement(case, "failure", message=f"no passing case is decided by {rule}")
        case = ET.SubElement(suite, "testcase", name="something is allowed", classname=source)
        if not one_coverage.allows:
            ET.SubElement(case, "failure", message="no passing case is allowed")
    for element in (root, *root.findall("testsuite")):
        for tag, count in (("tests", "testcase"), ("failures", "failure"), ("errors", "error")):
            element.set(tag, str(len(list(element.iter(count)))))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _suite(root: ET.Element, name: str, now: dt.datetime | None = None) -> ET.Element:
    attributes = {"name": _clean(name)} | ({"timestamp": now.isoformat()} if now else {})
    return ET.SubElement(root, "testsuite", attributes)


def _clean(text: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return "".join(c if c in "\t\n" or (ord(c) >= 32 and ord(c) not in (0xFFFE, 0xFFFF)) else "?" for c in text)

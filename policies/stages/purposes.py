"""Checks of a run's purpose and of who submits it."""

from policies.decision import ABSENT, PASSED, Check, Context, Finding
from policies.request import Admission
from policies.vocabulary.purposes import for_public_bodies, is_known, purpose_name, within
from policies.wording import listed, shown


def _purpose(context: Context, request: Admission) -> Finding:
    purposes = context.model.purposes
    vocabulary = purposes.vocabulary
    if any(within(request.purpose, allowed, vocabulary) for allowed in purposes.allow):
        return PASSED
    known = is_known(request.purpose, vocabulary)
    name = purpose_name(request.purpose, vocabulary) if known else f"{shown(request.purpose)} (unknown)"
    narrower = [allowed for allowed in purposes.allow if within(allowed, request.purpose, vocabulary)]
    nearest = f"; the nearest is {narrower[0]}, which is narrower than {shown(request.purpose)}" if narrower else ""
    return context.deny(
        "purposes.allow",
        purpose=name,
        allowed=listed(purpose_name(code, vocabulary) for code in purposes.allow) + nearest,
        widen=f"add {shown(request.purpose)} to purposes.allow, or " if known else "",
        codes=listed(purposes.allow, "no purpose"),
    )


def operators(request: Admission) -> tuple[str, ...]:
    """The operators among the parties: whoever submitted the run."""
    return tuple(party.name for party in request.parties if party.role == "operator")


def _persons(context: Context, request: Admission) -> Finding:
    named = context.model.purposes.persons
    if named is None:
        return ABSENT
    submitted = operators(request)
    strangers = [name for name in submitted if name not in named]
    if submitted and not strangers:
        return PASSED
    return context.deny("purposes.persons", operator=listed(strangers, "unknown"), named=listed(named))


def _public_bodies(context: Context, request: Admission) -> Finding:
    purposes = context.model.purposes
    if not for_public_bodies(request.purpose, purposes.vocabulary):
        return ABSENT
    submitted = operators(request)
    others = [name for name in submitted if name not in purposes.public_bodies]
    if submitted and not others:
        return PASSED
    return context.deny(
        "purposes.public_bodies",
        ("purposes", "public_bodies"),
        purpose=purpose_name(request.purpose, purposes.vocabulary),
        operator=listed(others, "unknown"),
        named=listed(purposes.public_bodies, "no one"),
    )


CHECKS = (
    Check("purposes.allow", _purpose),
    Check("purposes.persons", _persons),
    Check("purposes.public_bodies", _public_bodies),
)

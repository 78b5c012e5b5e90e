"""Checks of where the silo is and of who receives what."""

from collections.abc import Iterable, Iterator

from policies.decision import ABSENT, PASSED, Check, Context, Decision, Finding
from policies.model.places import Destination
from policies.request import Admission, Party, Release
from policies.vocabulary.places import members, place_name
from policies.wording import listed, shown

RECEIVED = {
    "coordinator": ("model_update", "metrics", "final_model"),
    "silo": ("model_update", "final_model"),
    "operator": ("metrics", "final_model"),
}
"""What each role receives, by the classes of artifact under `residency.destinations`."""

STATISTICS = "statistics"
STATISTICS_ROLES = ("coordinator", "operator")
"""Who receives statistics of the data, where a run asks for them."""

ARTIFACT = {
    "model_update": "model updates",
    "metrics": "metrics",
    "final_model": "the final model",
    STATISTICS: "statistics of the data",
}


Received = tuple[str, str, Destination | None]
"""A class of artifact, the field of the policy that decides on it, and what stands there."""


def _silo(context: Context, request: Admission) -> Finding:
    if request.silo is None:
        return PASSED
    own = _own(request)
    expected = context.model.residency.silo
    if own is not None and own.country == expected:
        return PASSED
    return context.deny(
        "residency.silo",
        party=shown(request.silo),
        found=f"stands in {place_name(own.country)}" if own else "is not among the run's parties",
        expected=place_name(expected),
    )


def _own(request: Admission) -> Party | None:
    return next((p for p in request.parties if p.name == request.silo and p.role == "silo"), None)


def _destinations(context: Context, request: Admission) -> Finding:
    if not any(party.role == "coordinator" for party in request.parties):
        return context.deny(
            "default-deny",
            ("residency", "destinations"),
            what="a run whose coordinator is not among the parties",
            nearest="residency.destinations.model_update",
            failed="the coordinator's place, which is not known",
            remedy="name the coordinator and its country",
        )
    refusals = (refusal for party in _receivers(request) for refusal in _party(context, party, request))
    return next(refusals, PASSED)


def _receivers(request: Admission) -> Iterator[Party]:
    own = None if request.silo is None else _own(request)
    return (party for party in request.parties if party is not own)


def _party(context: Context, party: Party, request: Admission) -> Iterator[Decision]:
    if party.role not in RECEIVED:
        yield _unknown_role(context, party)
        return
    for artifact, field, destination in _received(context, party, request):
        if destination is None:
            yield context.deny(
                "default-deny",
                ("residency", "destinations"),
                what=ARTIFACT[artifact],
                nearest="residency.destinations.metrics",
                failed=f"the class of artifact, {artifact}",
                remedy=f"submit a run that asks for none, or add residency.destinations.{artifact}",
            )
        elif party.country not in members(destination.countries):
            yield _abroad(context, party, artifact, field, destination)


def _received(context: Context, party: Party, request: Admission) -> Iterator[Received]:
    """What a party receives, with the field of the policy that decides on it."""
    for artifact in () if request.surveys else RECEIVED[party.role]:
        yield _destination(context, artifact)
    if request.statistics and party.role in STATISTICS_ROLES:
        yield STATISTICS, STATISTICS, context.model.residency.destinations.statistics


def _destination(context: Context, artifact: str) -> tuple[str, str, Destination]:
    destinations = context.model.residency.destinations
    if artifact == "metrics":
        return artifact, artifact, destinations.metrics
    if artifact == "final_model" and destinations.final_model is not None:
        return artifact, artifact, destinations.final_model
    # A final model is folded from the updates: where the policy does not speak of it, it goes where they may.
    return artifact, "model_update", destinations.model_update


def _abroad(context: Context, party: Party, artifact: str, field: str, destination: Destination) -> Decision:
    return context.deny(
        "residency.destinations",
        ("residency", "destinations", field, "countries"),
        role=party.role,
        party=shown(party.name),
        found=place_name(party.country),
        code=shown(party.country),
        artifact=ARTIFACT[artifact],
        allowed=listed(place_name(code) for code in destination.countries),
        field=field,
    )


def _unknown_role(context: Context, party: Party) -> Decision:
    return context.deny(
        "default-deny",
        ("residency", "destinations"),
        what=f"party {shown(party.name)} in the role {shown(party.role)}",
        nearest="residency.destinations",
        failed="its role, which receives nothing",
        remedy=f"use one of the roles: {listed(RECEIVED)}",
    )


def _parties(context: Context, request: Admission) -> Finding:
    return _named(
        context,
        (
            (party, received)
            for party in _receivers(request)
            if party.role in RECEIVED
            for received in _received(context, party, request)
        ),
    )


def _named(context: Context, transfers: Iterable[tuple[Party, Received]]) -> Finding:
    """Each receiver is among the parties that the destination names, where it names any."""
    asked = False
    for party, (artifact, field, destination) in transfers:
        named = destination.parties if destination else None
        if named is None:
            continue
        asked = True
        if party.name not in named:
            return context.deny(
                "residency.parties",
                ("residency", "destinations", field, "parties"),
                role=party.role,
                party=shown(party.name),
                artifact=ARTIFACT[artifact],
                allowed=listed(named),
                field=field,
            )
    return PASSED if asked else ABSENT


def _release_destination(context: Context, request: Release) -> Finding:
    if request.party.role not in RECEIVED:
        return _unknown_role(context, request.party)
    artifact, field, destination = _destination(context, "final_model")
    if request.party.country not in members(destination.countries):
        return _abroad(context, request.party, artifact, field, destination)
    return PASSED


def _release_party(context: Context, request: Release) -> Finding:
    return _named(context, [(request.party, _destination(context, "final_model"))])


ADMISSION = (
    Check("residency.silo", _silo),
    Check("residency.destinations", _destinations),
    Check("residency.parties", _parties),
)
RELEASE = (
    Check("residency.destinations", _release_destination),
    Check("residency.parties", _release_party),
)

"""May this run take place here?"""

from collections.abc import Callable, Iterator

from policies.decision import Context, Decision
from policies.request import Admission, Party
from policies.stages import common
from policies.vocabulary.places import members, place_name
from policies.vocabulary.purposes import is_known, purpose_name, within
from policies.wording import counted, listed, short_digest, shown

RECEIVED = {
    "coordinator": ("model_update", "metrics"),
    "silo": ("model_update",),
    "operator": ("metrics",),
}
"""What each role receives, by the classes of artifact under `residency.destinations`."""

_ARTIFACT = {"model_update": "model updates", "metrics": "metrics"}


def decide(context: Context, request: Admission) -> Decision:
    """The first rule that refuses, or admission."""
    for check in _CHECKS:
        refusal = check(context, request)
        if refusal is not None:
            return refusal
    metadata = context.model.metadata
    return context.allow(
        "admission.allow",
        purpose=purpose_name(request.purpose, context.model.purposes.vocabulary),
        dataset=request.dataset,
        columns=counted(len(request.columns), "column"),
        rounds=counted(request.rounds, "round"),
        name=metadata.name,
        version=metadata.version,
    )


def _in_force(context: Context, _: Admission) -> Decision | None:
    return common.in_force(context)


def _purpose(context: Context, request: Admission) -> Decision | None:
    purposes = context.model.purposes
    if any(within(request.purpose, allowed, purposes.vocabulary) for allowed in purposes.allow):
        return None
    known = is_known(request.purpose, purposes.vocabulary)
    return context.deny(
        "purposes.allow",
        purpose=purpose_name(request.purpose, purposes.vocabulary) if known else f"{shown(request.purpose)} (unknown)",
        allowed=listed(purpose_name(code, purposes.vocabulary) for code in purposes.allow),
        widen=f"add {request.purpose} to purposes.allow, or " if known else "",
        codes=listed(purposes.allow, "no purpose"),
    )


def _residency(context: Context, request: Admission) -> Decision | None:
    own = None
    if request.silo is not None:
        own = next((p for p in request.parties if p.name == request.silo and p.role == "silo"), None)
        expected = context.model.residency.silo
        if own is None or own.country != expected:
            return context.deny(
                "residency.silo",
                party=shown(request.silo),
                found=f"stands in {place_name(own.country)}" if own else "is not among the run's parties",
                expected=place_name(expected),
            )
    if not any(party.role == "coordinator" for party in request.parties):
        return context.deny(
            "default-deny",
            ("residency", "destinations"),
            what="a run whose coordinator is not among the parties",
            remedy="name the coordinator and its country",
        )
    return next(_refused(context, [party for party in request.parties if party is not own]), None)


def _refused(context: Context, parties: list[Party]) -> Iterator[Decision]:
    destinations = context.model.residency.destinations
    for party in parties:
        if party.role not in RECEIVED:
            yield context.deny(
                "default-deny",
                ("residency", "destinations"),
                what=f"party {shown(party.name)} in the role {shown(party.role)}",
                remedy=f"use one of the roles: {listed(RECEIVED)}",
            )
            continue
        for field in RECEIVED[party.role]:
            allowed = (destinations.model_update if field == "model_update" else destinations.metrics).countries
            if party.country not in members(allowed):
                yield context.deny(
                    "residency.destinations",
                    ("residency", "destinations", field, "countries"),
                    role=party.role,
                    party=shown(party.name),
                    found=place_name(party.country),
                    code=shown(party.country),
                    artifact=_ARTIFACT[field],
                    allowed=listed(place_name(code) for code in allowed),
                    field=field,
                )


def _app(context: Context, request: Admission) -> Decision | None:
    approved = context.model.apps.allow
    digest = short_digest(request.app_digest)
    index = next((i for i, app in enumerate(approved) if app.digest == request.app_digest), None)
    if index is None:
        known = listed((short_digest(app.digest) for app in approved), "no app")
        return context.deny("apps.allow", digest=digest, approved=known)
    expires = approved[index].expires
    if expires is not None and not context.today <= expires:
        path = ("apps", "allow", index, "expires")
        return context.deny("apps.expires", path, digest=digest, expires=expires, today=context.today)
    return None


def _dataset(context: Context, request: Admission) -> Decision | None:
    return common.dataset_known(context, request.dataset) or common.columns_allowed(
        context, request.dataset, request.columns
    )


def _rounds(context: Context, request: Admission) -> Decision | None:
    return common.rounds_within(context, request.rounds, f"the run plans {counted(request.rounds, 'round')}")


def _metrics(context: Context, request: Admission) -> Decision | None:
    return common.metrics_listed(context, request.metrics)


_CHECKS: tuple[Callable[[Context, Admission], Decision | None], ...] = (
    _in_force,
    _purpose,
    _residency,
    _app,
    _dataset,
    _rounds,
    _metrics,
)

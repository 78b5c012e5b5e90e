"""Checks of every stage: the policy has begun, and no document it rests on has ended."""

from collections.abc import Callable

from policies.decision import ABSENT, PASSED, Check, Context, Finding
from policies.model.metadata import Reference
from policies.wording import shown


def _effective(context: Context, _: object) -> Finding:
    metadata, today = context.model.metadata, context.today
    if today >= metadata.effective:
        return PASSED
    return context.deny(
        "policy.effective",
        name=metadata.name,
        version=metadata.version,
        effective=metadata.effective,
        today=today,
    )


def _reference(rule: str, found: Callable[[Context], Reference | None]) -> Check:
    """The check that a document of the policy has not ended."""

    def ask(context: Context, _: object) -> Finding:
        reference = found(context)
        if reference is None:
            return ABSENT
        if context.today <= reference.expires:
            return PASSED
        return context.deny(rule, ref=shown(reference.ref), expires=reference.expires, today=context.today)

    return Check(rule, ask)


def _attestations(context: Context, _: object) -> Finding:
    for index, attestation in enumerate(context.model.attestations or ()):
        if not context.today <= attestation.expires:
            return context.deny(
                "attestations",
                ("attestations", index, "expires"),
                name=attestation.name,
                ref=shown(attestation.ref),
                expires=attestation.expires,
                today=context.today,
            )
    return PASSED if context.model.attestations else ABSENT


IN_FORCE = (
    Check("policy.effective", _effective),
    _reference("purposes.permit", lambda context: context.model.purposes.permit),
    _reference("purposes.ethics", lambda context: context.model.purposes.ethics),
    _reference("purposes.dpia", lambda context: context.model.purposes.dpia),
    _reference("purposes.agreement", lambda context: context.model.purposes.agreement),
    Check("attestations", _attestations),
    _reference("inventory.validated", lambda c: c.model.inventory.validated if c.model.inventory else None),
)
"""What must hold whatever is asked."""

"""Checks of the code that would run next to the data."""

from policies.decision import ABSENT, PASSED, Check, Context, Finding
from policies.model.apps import ApprovedApp
from policies.request import Admission
from policies.wording import counted, listed, short_digest


def _approval(context: Context, request: Admission) -> tuple[int, ApprovedApp] | None:
    if request.surveys:
        return None
    approved = enumerate(context.model.apps.allow)
    return next(((index, app) for index, app in approved if app.digest == request.app_digest), None)


def _listed(context: Context, request: Admission) -> Finding:
    if request.surveys:
        return ABSENT
    if _approval(context, request) is not None:
        return PASSED
    known = listed((short_digest(app.digest) for app in context.model.apps.allow), "no app")
    return context.deny("apps.allow", digest=short_digest(request.app_digest), approved=known)


def _expires(context: Context, request: Admission) -> Finding:
    found = _approval(context, request)
    if found is None or found[1].expires is None:
        return ABSENT
    index, app = found
    if app.expires is not None and context.today <= app.expires:
        return PASSED
    path = ("apps", "allow", index, "expires")
    return context.deny("apps.expires", path, digest=short_digest(app.digest), expires=app.expires, today=context.today)


def _reviewers(context: Context, request: Admission) -> Finding:
    found = _approval(context, request)
    if found is None or found[1].reviewers is None:
        return ABSENT
    index, app = found
    named = context.model.apps.reviewers or ()
    valid = [name for name in named if name in request.reviewers and name not in request.authors]
    # Where no one knows who made the app, no one knows that its reviewers did not.
    if request.authors and app.reviewers is not None and len(valid) >= app.reviewers:
        return PASSED
    author = f"whose author is {listed(request.authors)}" if request.authors else "whose author is not known"
    return context.deny(
        "apps.reviewers",
        ("apps", "allow", index, "reviewers"),
        digest=short_digest(app.digest),
        count=counted(len(valid), "valid approval"),
        names=listed(valid, "no one"),
        author=author,
        minimum=app.reviewers,
        named=listed(named, "no one"),
    )


def _uses(context: Context, request: Admission) -> Finding:
    found = _approval(context, request)
    if found is None or found[1].uses is None:
        return ABSENT
    index, app = found
    if request.uses is not None and app.uses is not None and 0 <= request.uses < app.uses:
        return PASSED
    return context.deny(
        "apps.uses",
        ("apps", "allow", index, "uses"),
        digest=short_digest(app.digest),
        uses="an unknown number of runs" if request.uses is None else counted(request.uses, "run"),
        maximum=counted(app.uses or 0, "run"),
    )


CHECKS = (
    Check("apps.allow", _listed),
    Check("apps.expires", _expires, needs=("apps.allow",)),
    Check("apps.reviewers", _reviewers, needs=("apps.allow",)),
    Check("apps.uses", _uses, needs=("apps.allow",)),
)

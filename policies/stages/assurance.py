"""Checks of certificates and of the silo's own log."""

import datetime as dt
import math

from policies.decision import ABSENT, PASSED, Check, Context, Finding
from policies.model.assurance import Certificates
from policies.request import Admission, LogHealth
from policies.wording import counted, shown


def _certificates(context: Context) -> Certificates | None:
    identity = context.model.identity
    return identity.certificates if identity else None


def _max_age(context: Context, request: Admission) -> Finding:
    bounds = _certificates(context)
    if bounds is None or bounds.max_age is None:
        return ABSENT
    for certificate in request.certificates:
        if not bounds.max_age.before(context.now) <= certificate.issued <= context.now:
            return context.deny(
                "identity.certificates.max_age",
                party=shown(certificate.party),
                issued=_day(certificate.issued),
                maximum=bounds.max_age,
            )
    if request.certificates:
        return PASSED
    return context.deny(
        "identity.certificates.max_age", party="every party", issued="a day not known", maximum=bounds.max_age
    )


def _min_left(context: Context, request: Admission) -> Finding:
    bounds = _certificates(context)
    if bounds is None or bounds.min_left is None:
        return ABSENT
    for certificate in request.certificates:
        if not bounds.min_left.after(context.now) <= certificate.expires:
            return context.deny(
                "identity.certificates.min_left",
                party=shown(certificate.party),
                expires=_day(certificate.expires),
                minimum=bounds.min_left,
            )
    if request.certificates:
        return PASSED
    return context.deny(
        "identity.certificates.min_left", party="every party", expires="a day not known", minimum=bounds.min_left
    )


def _log(request: Admission) -> LogHealth:
    return request.log or LogHealth()


def _retention(context: Context, request: Admission) -> Finding:
    audit, log = context.model.audit, _log(request)
    if audit is None or audit.retention.maximum is None:
        return ABSENT
    maximum = audit.retention.maximum
    if log.payloads_known and (log.oldest_payload is None or maximum.before(context.now) <= log.oldest_payload):
        return PASSED
    if log.payloads_known and log.oldest_payload is not None:
        found = f"the log keeps a payload of {_day(log.oldest_payload)}"
    else:
        found = "it is not known how old the log's payloads are"
    return context.deny("audit.retention.maximum", found=found, maximum=maximum)


def _witnesses(context: Context, request: Admission) -> Finding:
    audit, seen = context.model.audit, _log(request).witnesses
    if audit is None or audit.witnesses is None:
        return ABSENT
    if seen is not None and seen >= audit.witnesses.quorum:
        return PASSED
    found = "it is not known who cosigned the log" if seen is None else f"{counted(seen, 'member')} cosigned the log"
    return context.deny("audit.witnesses.quorum", found=found, minimum=audit.witnesses.quorum)


def _verify_age(context: Context, request: Admission) -> Finding:
    audit, verified = context.model.audit, _log(request).verified
    if audit is None or audit.verify_age is None:
        return ABSENT
    if verified is not None and audit.verify_age.before(context.now) <= verified <= context.now:
        return PASSED
    found = (
        "it is not known when the log was verified" if verified is None else f"the log was verified on {_day(verified)}"
    )
    return context.deny("audit.verify_age", found=found, maximum=audit.verify_age)


def _clock_skew(context: Context, request: Admission) -> Finding:
    audit, skew = context.model.audit, _log(request).clock_skew
    if audit is None or audit.clock_skew is None:
        return ABSENT
    if skew is not None and math.isfinite(skew) and abs(skew) <= audit.clock_skew:
        return PASSED
    found = "how far the clock is off is not known" if skew is None else f"the clock is off by {abs(skew):g} seconds"
    return context.deny("audit.clock_skew", found=found, maximum=f"{audit.clock_skew:g}")


def _day(moment: dt.datetime) -> str:
    return f"{moment.astimezone(dt.UTC):%Y-%m-%d}"


CHECKS = (
    Check("identity.certificates.max_age", _max_age),
    Check("identity.certificates.min_left", _min_left),
    Check("audit.retention.maximum", _retention),
    Check("audit.witnesses.quorum", _witnesses),
    Check("audit.verify_age", _verify_age),
    Check("audit.clock_skew", _clock_skew),
)

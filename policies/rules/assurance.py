"""Rules on identities and on the log."""

from policies.rules.rule import Rule

TABLE = (
    Rule(
        "identity.certificates.max_age",
        ("admission",),
        "No certificate is too old",
        "Keys are renewed as often as the institution wants.",
        "the certificate of {party} was issued on {issued}; the policy allows an age of {maximum}",
        "renew the certificate, or raise identity.certificates.max_age",
        ("identity", "certificates", "max_age"),
    ),
    Rule(
        "identity.certificates.min_left",
        ("admission",),
        "No certificate is about to end",
        "A run does not outlive the identities behind it.",
        "the certificate of {party} ends on {expires}; the policy needs {minimum} left",
        "renew the certificate, or lower identity.certificates.min_left",
        ("identity", "certificates", "min_left"),
    ),
    Rule(
        "audit.retention.maximum",
        ("admission",),
        "Nothing is kept for too long",
        "Payloads are erased when their time is over.",
        "{found}; the policy keeps payloads for at most {maximum}",
        "erase what is older: concordat audit retention",
        ("audit", "retention", "maximum"),
    ),
    Rule(
        "audit.witnesses.quorum",
        ("admission",),
        "Enough witnesses saw the log",
        "A log that its owner rewrites does not pass.",
        "{found}; the policy needs {minimum}",
        "wait until more members have cosigned the log",
        ("audit", "witnesses", "quorum"),
    ),
    Rule(
        "audit.verify_age",
        ("admission",),
        "The log was verified lately",
        "A damaged log does not go unseen.",
        "{found}; the policy allows an age of {maximum}",
        "verify the log: concordat audit verify",
        ("audit", "verify_age"),
    ),
    Rule(
        "audit.clock_skew",
        ("admission",),
        "The clock is right",
        "What the log says of time can be trusted.",
        "{found}; the policy allows {maximum} seconds",
        "set the clock by a time server",
        ("audit", "clock_skew"),
    ),
)

"""Rules on where what leaves the silo goes."""

from policies.rules.rule import Rule

TABLE = (
    Rule(
        "residency.silo",
        ("admission",),
        "The silo is where the policy says",
        "A policy written for one country is not used in another.",
        "silo {party} {found}; the policy is written for {expected}",
        "correct residency.silo, or the silo's entry in the manifest",
        ("residency", "silo"),
        mandatory=True,
    ),
    Rule(
        "residency.destinations",
        ("admission", "release"),
        "Every receiver is in an allowed country",
        "What leaves the silo goes only where the policy lets it go.",
        "{role} {party} in {found} would receive {artifact}; the policy allows {allowed}",
        "add {code} to residency.destinations.{field}.countries, or run without {party}",
        ("residency", "destinations"),
        mandatory=True,
    ),
    Rule(
        "residency.parties",
        ("admission", "release"),
        "Every receiver is a named party",
        "What leaves the silo goes only to those whom the policy names.",
        "{role} {party} would receive {artifact}; the policy names {allowed}",
        "add {party} to residency.destinations.{field}.parties, or run without {party}",
        ("residency", "destinations"),
        mandatory=True,
    ),
)

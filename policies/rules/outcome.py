"""Rules that decide when no other does."""

from policies.rules.rule import EVERY, Rule

TABLE = (
    Rule(
        "admission.allow",
        ("admission",),
        "The run is admitted",
        "Every admission rule was passed.",
        "run for {purpose} on dataset {dataset} is admitted: {columns}, {rounds}, {name} version {version}",
    ),
    Rule(
        "view.allow",
        ("view",),
        "The view is allowed",
        "Every view rule was passed.",
        "view of dataset {dataset} is allowed: {columns}, {rows}",
    ),
    Rule(
        "ingress.allow",
        ("ingress",),
        "The received model is allowed in",
        "Every ingress rule was passed.",
        "model of round {round} is allowed in: {values}, {size}",
    ),
    Rule(
        "egress.allow",
        ("egress",),
        "The reply is allowed out",
        "Every egress rule was passed.",
        "reply of round {round} is allowed out: {update}, {metrics}, from {examples}",
    ),
    Rule(
        "release.allow",
        ("release",),
        "The model may be handed out",
        "Every release rule was passed.",
        "the final model may be handed to {party}: {count} agreed, {name} version {version}",
    ),
    Rule(
        "default-deny",
        ("admission", "egress", "release"),
        "No rule allows it",
        "What the policy does not speak of is refused.",
        "no rule of the policy allows {what}; the nearest is {nearest}, failed on {failed}",
        "{remedy}",
        mandatory=True,
    ),
    Rule(
        "evaluation-error",
        EVERY,
        "The decision could not be made",
        "An error while deciding is a refusal.",
        "the request could not be decided: {error}",
        "correct the request; if it is correct, report the error",
        mandatory=True,
    ),
)

"""The table of rules: every decision names one, and its reason is the rule's message with the facts."""

from dataclasses import dataclass

PathKey = str | int

EVERY = ("admission", "view", "ingress", "egress")


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its stable id, where it is checked, what it protects and how it speaks.

    `message` and `remedy` are templates over the facts of a decision; `path` is the field of the policy that
    decides, unless the check names a closer one.
    """

    id: str
    stages: tuple[str, ...]
    title: str
    protects: str
    message: str
    remedy: str | None = None
    path: tuple[PathKey, ...] = ()


_TABLE = (
    Rule(
        "policy.effective",
        EVERY,
        "The policy is in effect",
        "Nothing happens under a policy before its first day.",
        "policy {name} version {version} takes effect on {effective}, and today is {today}",
        "wait until {effective}, or issue a version with an earlier metadata.effective",
        ("metadata", "effective"),
    ),
    Rule(
        "purposes.permit",
        EVERY,
        "The permit is valid",
        "Processing ends with the permit it rests on.",
        "permit {ref} was valid until {expires}, and today is {today}",
        "renew the permit and set purposes.permit.expires",
        ("purposes", "permit", "expires"),
    ),
    Rule(
        "purposes.allow",
        ("admission",),
        "The purpose is allowed",
        "Data is used for the purposes it was given for.",
        "run purpose {purpose} is not allowed; the policy allows {allowed}",
        "{widen}submit the run for one of: {codes}",
        ("purposes", "allow"),
    ),
    Rule(
        "residency.silo",
        ("admission",),
        "The silo is where the policy says",
        "A policy written for one country is not used in another.",
        "silo {party} {found}; the policy is written for {expected}",
        "correct residency.silo, or the silo's entry in the manifest",
        ("residency", "silo"),
    ),
    Rule(
        "residency.destinations",
        ("admission",),
        "Every receiver is in an allowed country",
        "What leaves the silo goes only where the policy lets it go.",
        "{role} {party} in {found} would receive {artifact}; the policy allows {allowed}",
        "add {code} to residency.destinations.{field}.countries, or run without {party}",
        ("residency", "destinations"),
    ),
    Rule(
        "apps.allow",
        ("admission",),
        "The app is approved",
        "Only reviewed code runs next to the data.",
        "app {digest} is not approved; the policy approves {approved}",
        "review the app and add its digest to apps.allow",
        ("apps", "allow"),
    ),
    Rule(
        "apps.expires",
        ("admission",),
        "The app's approval is valid",
        "An approval ends on the day it was given for.",
        "the approval of app {digest} was valid until {expires}, and today is {today}",
        "review the app again and set a later expires",
        ("apps", "allow"),
    ),
    Rule(
        "datasets.known",
        ("admission", "view"),
        "The dataset is in the policy",
        "Only datasets with rules of their own are used.",
        "dataset {dataset} is not in the policy; it has {known}",
        "add {dataset} to datasets, or submit the run for one of: {known}",
        ("datasets",),
    ),
    Rule(
        "datasets.columns",
        ("admission", "view"),
        "Every column is allowed",
        "No more of a record is read than the policy allows.",
        "{columns} of dataset {dataset} may not be read; the policy allows {allowed}",
        "name only allowed columns, or add what is missing to datasets.{dataset}.columns.allow",
        ("datasets",),
    ),
    Rule(
        "datasets.rows.minimum",
        ("view",),
        "There are enough rows",
        "A view is never so small that it points at single persons.",
        "the view of dataset {dataset} has {rows}; the policy needs at least {minimum}",
        "use more data, or lower datasets.{dataset}.rows.minimum",
        ("datasets",),
    ),
    Rule(
        "runs.max_rounds",
        ("admission", "ingress", "egress"),
        "The number of rounds is within bounds",
        "How often the data is asked stays bounded.",
        "{asked}; the policy allows 1 to {maximum}",
        "plan at most {maximum} rounds, or raise runs.max_rounds",
        ("runs", "max_rounds"),
    ),
    Rule(
        "ingress.round",
        ("ingress",),
        "The round is in the plan",
        "A run does not go on past what was admitted.",
        "got round {round}, expected a round of the plan, 1 to {planned}",
        "submit a run with more rounds",
    ),
    Rule(
        "ingress.dtype",
        ("ingress",),
        "The received model has the agreed type",
        "Only the agreed form of a model reaches the worker.",
        "the received model has values of type {dtype}, expected float32",
        "send float32 values",
    ),
    Rule(
        "ingress.shape",
        ("ingress",),
        "The received model has the size of the run's model",
        "Only the run's model reaches the worker.",
        "the received model has {values}, expected {expected}",
        "send the model that the run declares",
    ),
    Rule(
        "ingress.finite",
        ("ingress",),
        "The received model is finite",
        "A broken model does not reach the data.",
        "the received model has values that are infinite or not a number",
        "start the run again from the last finite model",
    ),
    Rule(
        "ingress.max_bytes",
        ("ingress",),
        "The received model is not too large",
        "The silo's memory stays its own.",
        "the received model has {size}; the policy allows at most {maximum}",
        "use a smaller model, or raise egress.update.max_bytes",
        ("egress", "update", "max_bytes"),
    ),
    Rule(
        "egress.metrics.declared",
        ("egress",),
        "Every metric was declared by the run",
        "Nothing leaves that was not announced at admission.",
        "{metrics} not declared by the run, which declared {declared}",
        "declare it in the run, or remove it from the app's reply",
        ("egress", "metrics"),
    ),
    Rule(
        "egress.metrics.allow",
        ("admission", "egress"),
        "Every metric is on the list",
        "Only metrics that the officer knows leave the silo.",
        "{metrics} may not leave; the policy allows {allowed}",
        "remove it from the run, or add it to egress.metrics.allow",
        ("egress", "metrics", "allow"),
    ),
    Rule(
        "egress.metrics.finite",
        ("egress",),
        "Every metric is a finite number",
        "A metric carries a number and nothing else.",
        "{metrics} infinite or not a number",
        "correct the app's metrics",
        ("egress", "metrics"),
    ),
    Rule(
        "egress.metrics.minimum_count",
        ("egress",),
        "There are enough examples behind the reply",
        "A reply never describes a handful of persons.",
        "the reply rests on {examples}; the policy needs at least {minimum}",
        "use more data, or lower egress.metrics.minimum_count",
        ("egress", "metrics", "minimum_count"),
    ),
    Rule(
        "egress.update.shape",
        ("egress",),
        "The update has the size of the run's model",
        "An update is an update and no other message.",
        "the update has {values}, expected {expected}",
        "send an update of the model that the run declares, with all its facts",
        ("egress", "update"),
    ),
    Rule(
        "egress.update.dtype",
        ("egress",),
        "The update has the agreed type",
        "An update is an update and no other message.",
        "the update has values of type {dtype}, expected float32",
        "send float32 values",
        ("egress", "update"),
    ),
    Rule(
        "egress.update.finite",
        ("egress",),
        "The update is finite",
        "A broken update does not reach the aggregate.",
        "the update has values that are infinite or not a number",
        "lower the learning rate, or start the round again",
        ("egress", "update"),
    ),
    Rule(
        "egress.update.max_bytes",
        ("egress",),
        "The update is not too large",
        "What leaves stays bounded.",
        "the update has {size}; the policy allows at most {maximum}",
        "use a smaller model, or raise egress.update.max_bytes",
        ("egress", "update", "max_bytes"),
    ),
    Rule(
        "egress.update.max_norm",
        ("egress",),
        "The update's norm is bounded",
        "No single silo moves the model too far. A longer update is clipped, not refused.",
        "{norm}",
        "{remedy}",
        ("egress", "update", "max_norm"),
    ),
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
        "default-deny",
        ("admission",),
        "No rule allows it",
        "What the policy does not speak of is refused.",
        "no rule of the policy allows {what}",
        "{remedy}",
    ),
    Rule(
        "evaluation-error",
        EVERY,
        "The decision could not be made",
        "An error while deciding is a refusal.",
        "the request could not be decided: {error}",
        "correct the request; if it is correct, report the error",
    ),
)

RULES: dict[str, Rule] = {rule.id: rule for rule in _TABLE}
"""Every rule by its id, in the order of the documentation."""

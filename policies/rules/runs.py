"""Rules on how much a run does, and when."""

from policies.rules.rule import Rule

TABLE = (
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
        "runs.windows",
        ("admission",),
        "It is a time for runs",
        "Runs take place when the institution wants them.",
        "it is {local}; the policy allows {windows}",
        "wait for the next window, or widen runs.windows",
        ("runs", "windows"),
    ),
    Rule(
        "runs.max_concurrent",
        ("admission",),
        "Not too many runs at once",
        "The silo's machines stay its own.",
        "{running}; the policy allows {maximum} at once",
        "wait until a run has ended, or raise runs.max_concurrent",
        ("runs", "max_concurrent"),
    ),
    Rule(
        "runs.minimum_silos",
        ("admission",),
        "Every round folds enough silos together",
        "An aggregate never shows what few institutions sent.",
        "{found}; the policy needs {minimum}",
        "raise the run's quorum, or lower runs.minimum_silos",
        ("runs", "minimum_silos"),
    ),
)

"""Rules on code that runs next to the data."""

from policies.rules.rule import Rule

TABLE = (
    Rule(
        "apps.allow",
        ("admission",),
        "The app is approved",
        "Only reviewed code runs next to the data.",
        "app {digest} is not approved; the policy approves {approved}",
        "review the app and add its digest to apps.allow",
        ("apps", "allow"),
        mandatory=True,
    ),
    Rule(
        "apps.expires",
        ("admission",),
        "The app's approval is valid",
        "An approval ends on the day it was given for.",
        "the approval of app {digest} was valid until {expires}, and today is {today}",
        "review the app again and set a later expires",
        ("apps", "allow"),
        mandatory=True,
    ),
    Rule(
        "apps.reviewers",
        ("admission",),
        "Enough reviewers approved the app",
        "No one alone brings code to the data, and no one approves their own.",
        "app {digest} has {count} ({names}), {author}; the policy needs {minimum} of {named}",
        "have more of the named reviewers approve it: concordat silo approve",
        ("apps", "allow"),
        mandatory=True,
    ),
    Rule(
        "apps.uses",
        ("admission",),
        "The app's approval is not used up",
        "An approval is for as many runs as it was given for.",
        "app {digest} was admitted for {uses}; its approval is for {maximum}",
        "review the app again and raise its uses",
        ("apps", "allow"),
        mandatory=True,
    ),
)

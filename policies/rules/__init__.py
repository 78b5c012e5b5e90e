"""The table of rules: every decision names one, and its reason is the rule's message with the facts."""

from policies.rules import assurance, basis, code, data, models, outcome, places, private, runs
from policies.rules.rule import EVERY, PathKey, Rule

__all__ = ["EVERY", "RULES", "PathKey", "Rule"]

_TABLES = (basis, places, code, data, runs, private, models, assurance, outcome)

RULES: dict[str, Rule] = {rule.id: rule for table in _TABLES for rule in table.TABLE}
"""Every rule by its id, in the order of the documentation."""

"""Checks of differential privacy and secure aggregation, of a run's plan and of each reply."""

import math

from policies.decision import ABSENT, PASSED, Check, Context, Finding
from policies.request import Admission, Egress, Privacy
from policies.wording import shown

UNKNOWN = "the run does not say what it does for privacy"
MODE = ("privacy.mode",)
UNITS = {"example_dp": "each example (example_dp)", "silo_dp": "the silo's data as a whole (silo_dp)"}


def _mode(context: Context, request: Admission | Egress) -> Finding:
    privacy, facts = context.model.privacy, request.privacy
    if privacy is None or privacy.mode == "none":
        return ABSENT
    if facts is not None and facts.mode == privacy.mode:
        return PASSED
    found = UNKNOWN if facts is None else f"the run trains with mode {shown(facts.mode)}"
    return context.deny("privacy.mode", found=found, mode=UNITS[privacy.mode])


def _clip_norm(context: Context, request: Admission) -> Finding:
    maximum = context.model.privacy.clip_norm if context.model.privacy else None
    if maximum is None or request.surveys:  # statistics have no gradients
        return ABSENT
    norm = request.privacy.clip_norm if request.privacy else None
    if norm is not None and 0 < norm <= maximum:
        return PASSED
    return context.deny("privacy.clip_norm", found=_said("a clip norm", norm), maximum=f"{maximum:g}")


def _noise(context: Context, request: Admission) -> Finding:
    minimum = context.model.privacy.noise_multiplier if context.model.privacy else None
    if minimum is None:
        return ABSENT
    noise = request.privacy.noise_multiplier if request.privacy else None
    if noise is not None and math.isfinite(noise) and noise >= minimum:
        return PASSED
    return context.deny("privacy.noise_multiplier", found=_said("a noise multiplier", noise), minimum=f"{minimum:g}")


def _max_epsilon(context: Context, request: Admission) -> Finding:
    privacy, facts = context.model.privacy, request.privacy
    if privacy is None or privacy.max_epsilon is None or privacy.budget is None:
        return ABSENT
    delta = privacy.budget.delta
    if facts is not None and _bounded(facts.epsilon, privacy.max_epsilon) and _counted_at(facts, delta):
        return PASSED
    found = _said("an epsilon", facts.epsilon if facts else None, facts.delta if facts else None)
    return context.deny("privacy.max_epsilon", found=found, maximum=f"{privacy.max_epsilon:g}", delta=f"{delta:g}")


def _budget(context: Context, request: Admission | Egress) -> Finding:
    budget, facts = context.model.privacy.budget if context.model.privacy else None, request.privacy
    if budget is None:
        return ABSENT
    if facts is not None and _bounded(facts.spent, budget.epsilon) and _counted_at(facts, budget.delta):
        return PASSED
    if facts is None or facts.spent is None or facts.delta is None:
        found = "what would be spent is not known"
    else:
        found = f"epsilon {facts.spent:g} at delta {facts.delta:g} would be spent"
    return context.deny(
        "privacy.budget",
        found=found,
        dataset=shown(request.dataset) if isinstance(request, Admission) else "of the run",
        maximum=f"{budget.epsilon:g}",
        delta=f"{budget.delta:g}",
        window=budget.window,
    )


def _secure_aggregation(context: Context, request: Admission | Egress) -> Finding:
    privacy, facts = context.model.privacy, request.privacy
    if privacy is None or privacy.secure_aggregation != "required":
        return ABSENT
    if facts is not None and facts.secure_aggregation:
        return PASSED
    found = UNKNOWN if facts is None else "the run shows the coordinator each silo's update"
    return context.deny("privacy.secure_aggregation", found=found)


def _bounded(epsilon: float | None, maximum: float) -> bool:
    return epsilon is not None and 0 <= epsilon <= maximum


def _counted_at(facts: Privacy, delta: float) -> bool:
    """Whether epsilon was counted at the policy's delta, or at a smaller one, where it is larger."""
    return facts.delta is not None and 0 <= facts.delta <= delta


def _said(what: str, value: float | None, delta: float | None = None) -> str:
    if value is None:
        return f"the run says nothing of {what}"
    return f"the run has {what} of {value:g}" + ("" if delta is None else f" at delta {delta:g}")


ADMISSION = (
    Check("privacy.mode", _mode),
    Check("privacy.clip_norm", _clip_norm, needs=MODE),
    Check("privacy.noise_multiplier", _noise, needs=MODE),
    Check("privacy.max_epsilon", _max_epsilon, needs=MODE),
    Check("privacy.budget", _budget, needs=MODE),
    Check("privacy.secure_aggregation", _secure_aggregation),
)
EGRESS = (
    Check("privacy.mode", _mode),
    Check("privacy.budget", _budget, needs=MODE),
    Check("privacy.secure_aggregation", _secure_aggregation),
)

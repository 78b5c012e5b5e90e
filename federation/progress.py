"""A run's events as lines for a terminal or a log; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from federation.errors import WireError
from federation.terminal import all_printable, printable

Drawn = TypeVar("Drawn")

MEANS = ("loss", "auc", "pr_auc", "accuracy", "brier", "calibration_error", "calibration_in_the_large")
"""The mean metrics that a line shows, in this order, as far as the run has them."""


def line_of(event: Mapping[str, Any]) -> str | None:
    """One line for an event, or None for one that says nothing new to a reader; raises WireError for a malformed one.

    Reasons are silos' words, names and rules those of whoever sent the event: none reaches a terminal as it is.
    """
    try:
        return _line(all_printable(event))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise WireError("got an event that cannot be read") from None


def _line(event: Mapping[str, Any]) -> str | None:
    kind = event.get("event")
    match kind:
        case "run.started" | "run.resumed":
            return _beginning(event)
        case "silo.admitted" | "silo.absent" | "silo.returned" | "silo.summarised":
            return f"  {event['silo']}: {_silo(event)}"
        case "silo.refused":
            return refusal(event)
        case "silo.dropped":
            return f"  {event['silo']}: left out of {event['phase']} ({event['reason']})"
        case "round.closed":
            return round_line(event)
        case "run.summarised" | "run.normalised":
            return _merged(event)
        case "run.evaluated":
            return "\n".join([f"  final model: {_metrics(event['metrics'])}", *_evenness(event)])
        case "run.completed":
            kept = ", ".join(event.get("release", ()))
            return "run completed" + (
                f"; its model waits for the release by {kept}: concordat run release" if kept else ""
            )
        case "run.failed" | "run.refused" | "run.stopped":
            return f"{str(kind).replace('.', ' ')}: {event.get('problem', '')}"
        case _:
            return None


def _silo(event: Mapping[str, Any]) -> str:
    match event["event"]:
        case "silo.admitted":
            return f"admitted, {event['examples']} training rows{_cost(event)}"
        case "silo.summarised":
            return "sent its statistics"
        case "silo.returned":
            return "is back"
        case _:
            return "not connected"


def _merged(event: Mapping[str, Any]) -> str:
    if event["event"] == "run.normalised":
        return f"  features are normalised by the statistics of {', '.join(event['silos'])}"
    return f"  statistics of {event['rows']} rows at {len(event['silos'])} silos"


def _beginning(event: Mapping[str, Any]) -> str:
    if event["event"] == "run.resumed":
        damaged = f" (damaged checkpoints: {', '.join(map(str, event['damaged']))})" if event["damaged"] else ""
        return f"run {event['run']} goes on after round {event['round']}{damaged}"
    if event["strategy"] == "statistics":
        return f"run {event['run']}: purpose {event['purpose']}, statistics, silos {', '.join(event['silos'])}"
    return (
        f"run {event['run']}: purpose {event['purpose']}, {event['strategy']} mu {event['mu']:g}, "
        f"{event['rounds']} rounds, silos {', '.join(event['silos'])}"
    )


def standing_lines(run: Mapping[str, Any]) -> list[str]:
    """How a run stands, for people; raises WireError for what says it in another form."""
    try:
        return _standing(all_printable(run))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise WireError("got a run's standing that cannot be read") from None


def _standing(run: Mapping[str, Any]) -> list[str]:
    rows = [("run", run["run"]), ("state", run["state"])]
    if "rounds" in run:
        rows += [
            ("purpose", run["purpose"]),
            ("strategy", run["strategy"]),
            ("silos", ", ".join(run["silos"])),
            ("submitted", run["submitted"]),
            ("rounds", f"{run['closed']} of {run['rounds']} closed"),
        ]
    if run["resumed"]:
        rows.append(("resumed", f"{run['resumed']} times"))
    if run.get("metrics"):
        rows.append(("metrics", _metrics(run["metrics"])))
    if run.get("model"):
        rows.append(("model", run["model"]))
    if run.get("checkpoints"):
        rows.append(("checkpoints", f"of rounds {', '.join(map(str, run['checkpoints']))}"))
    if run.get("files"):
        rows.append(("files", ", ".join(run["files"])))
    if run.get("problem"):
        rows.append(("problem", run["problem"]))
    return [f"{name:11} {value}" for name, value in rows]


def list_line(run: Mapping[str, Any]) -> str:
    """A run in the list of runs: its id, its state, its closed rounds, the mean metrics of its newest model."""
    try:
        return _listed(all_printable(run))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise WireError("got a list of runs that cannot be read") from None


def member_line(member: Mapping[str, Any]) -> str:
    """A member in the list of members: its name, its role, its country, whether it is connected."""
    return drawn(lambda: _member(all_printable(member)))


def _member(member: Mapping[str, Any]) -> str:
    state = "connected" if member["online"] else ""
    return f"{member['name']:24} {member['role']:12} {member['country']}  {state}".rstrip()


def release_line(silo: str, said: Mapping[str, Any]) -> str:
    """What a silo said when it was asked to release a model."""
    return drawn(lambda: _released(printable(silo), all_printable(said)))


def _released(silo: str, said: Mapping[str, Any]) -> str:
    return f"{silo:24} {said['status']:9} {said['rule']} {said['reason']}".rstrip()


def drawn(draw: Callable[[], Drawn]) -> Drawn:
    """What is drawn of an answer; raises WireError if the answer's parts are missing or of another kind."""
    try:
        return draw()
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise WireError("got an answer from the coordinator that cannot be read") from None


def _listed(run: Mapping[str, Any]) -> str:
    rounds = f"{run['closed']}/{run['rounds']} rounds" if "rounds" in run else ""
    metrics = _metrics(run["metrics"]) if run.get("metrics") else ""
    return f"{run['run']:40} {run['state']:11} {rounds:14} {metrics}".rstrip()


def round_line(event: Mapping[str, Any]) -> str:
    """A closed round: its number, the mean metrics of the model it began with, each silo's state, its seconds."""
    work = event.get("work") or {}

    def state(name: str, values: Mapping[str, float]) -> str:
        done, planned = work.get(name, (0, 0))
        return f"{name} {_short(values)}" + (f" ({done} of {planned} steps)" if done < planned else "")

    silos = " ".join(state(name, values) for name, values in sorted(dict(event["silos"]).items()))
    lost = "".join(f" {name} DROPPED" for name in sorted(event["dropped"]))
    return f"  round {event['round']:>3}  {_metrics(event['metrics'])}  [{silos}{lost}]  {event['seconds']:.2f} s"


def refusal(event: Mapping[str, Any]) -> str:
    """A silo's refusal: rule, reason, place in its policy, and what would have to change."""
    lines = [f"  {event['silo']}: REFUSED by rule {event['rule']}", f"      {event['reason']}"]
    if event.get("location"):
        lines.append(f"      at {event['location']}")
    if event.get("remedy"):
        lines.append(f"      to change: {event['remedy']}")
    return "\n".join(lines)


def _cost(event: Mapping[str, Any]) -> str:
    """What a private run costs a silo's rows, as it says itself."""
    if "delta" not in event:
        return ""
    epsilon = "without bound" if event["epsilon"] is None else f"{event['epsilon']:.3g}"
    return f", epsilon {epsilon} at delta {event['delta']:g}"


def _evenness(event: Mapping[str, Any]) -> list[str]:
    """Lines on how evenly the final model serves the silos, where the event says it."""
    lines = []
    spread = event.get("fairness") or {}
    if spread and len(event["silos"]) > 1:
        deviation = float(spread["variance"]) ** 0.5
        lines.append(
            f"  worst silo: {spread['worst']}, {spread['metric']} {spread['value']:.4f} "
            f"(mean {spread['mean']:.4f}, standard deviation {deviation:.4f})"
        )
    for silo, found in sorted((event.get("better_alone") or {}).items()):
        lines.append(
            f"  WARNING {silo}: a model of its own rows alone is better, {found['metric']} {found['own']:.4f} "
            f"against {found['federated']:.4f}"
        )
    return lines


def _metrics(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in MEANS if name in metrics)


def _short(metrics: Mapping[str, float]) -> str:
    if "auc" in metrics:
        return f"{metrics['auc']:.3f}"
    return f"{metrics['loss']:.3f}" if "loss" in metrics else "ok"

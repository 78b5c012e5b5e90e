"""A run's events as lines for a terminal or a log; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def line_of(event: Mapping[str, Any]) -> str | None:
    """One line for an event, or None for one that says nothing new to a reader."""
    kind = event.get("event")
    match kind:
        case "run.started":
            return (
                f"run {event['run']}: purpose {event['purpose']}, {event['strategy']} mu {event['mu']:g}, "
                f"{event['rounds']} rounds, silos {', '.join(event['silos'])}"
            )
        case "silo.admitted":
            return f"  {event['silo']}: admitted, {event['examples']} training rows"
        case "silo.refused":
            return refusal(event)
        case "silo.absent" | "silo.returned":
            return f"  {event['silo']}: {'is back' if kind == 'silo.returned' else 'not connected'}"
        case "silo.dropped":
            return f"  {event['silo']}: left out of {event['phase']} ({event['reason']})"
        case "round.closed":
            return round_line(event)
        case "run.evaluated":
            return f"  final model: {_metrics(event['metrics'])}"
        case "run.completed":
            return "run completed"
        case "run.failed" | "run.refused" | "run.stopped":
            return f"{str(kind).replace('.', ' ')}: {event.get('problem', '')}"
        case _:
            return None


def round_line(event: Mapping[str, Any]) -> str:
    """A closed round: its number, the mean metrics of the model it began with, each silo's state, its seconds."""
    silos = " ".join(f"{name} {_short(values)}" for name, values in sorted(dict(event["silos"]).items()))
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


def _metrics(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in ("loss", "auc", "accuracy") if name in metrics)


def _short(metrics: Mapping[str, float]) -> str:
    if "auc" in metrics:
        return f"{metrics['auc']:.3f}"
    return f"{metrics['loss']:.3f}" if "loss" in metrics else "ok"

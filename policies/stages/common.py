"""Checks that several stages share."""

from policies.decision import Context, Decision
from policies.wording import counted, listed, shown


def in_force(context: Context) -> Decision | None:
    """The policy has begun and its permit has not ended."""
    metadata, permit, today = context.model.metadata, context.model.purposes.permit, context.today
    if not today >= metadata.effective:
        return context.deny(
            "policy.effective",
            name=metadata.name,
            version=metadata.version,
            effective=metadata.effective,
            today=today,
        )
    if permit is not None and not today <= permit.expires:
        return context.deny("purposes.permit", ref=shown(permit.ref), expires=permit.expires, today=today)
    return None


def dataset_known(context: Context, dataset: str) -> Decision | None:
    """The policy has the dataset."""
    datasets = context.model.datasets
    if dataset in datasets:
        return None
    return context.deny("datasets.known", dataset=shown(dataset), known=listed(datasets, "none"))


def columns_allowed(context: Context, dataset: str, columns: tuple[str, ...]) -> Decision | None:
    """Columns are named, and every one is on the dataset's list; the dataset is known."""
    allowed = context.model.datasets[dataset].columns.allow
    path = ("datasets", dataset, "columns", "allow")
    known = frozenset(allowed)
    wrong = [column for column in columns if column not in known]
    if columns and not wrong:
        return None
    named = f"{'column' if len(wrong) == 1 else 'columns'} {listed(wrong)}" if wrong else "an empty list of columns"
    return context.deny("datasets.columns", path, columns=named, dataset=dataset, allowed=listed(allowed))


def rounds_within(context: Context, rounds: int, asked: str) -> Decision | None:
    """A number of rounds, or of a round, is from 1 to the policy's maximum."""
    maximum = context.model.runs.max_rounds
    return None if 1 <= rounds <= maximum else context.deny("runs.max_rounds", asked=asked, maximum=maximum)


def metrics_listed(context: Context, metrics: tuple[str, ...]) -> Decision | None:
    """Every metric is on the policy's list."""
    allowed = context.model.egress.metrics.allow
    wrong = [metric for metric in metrics if metric not in allowed]
    return (
        context.deny("egress.metrics.allow", metrics=metrics_named(wrong), allowed=listed(allowed)) if wrong else None
    )


def metrics_named(metrics: list[str]) -> str:
    """`metric a` or `metrics a, b`."""
    return f"{'metric' if len(metrics) == 1 else 'metrics'} {listed(metrics)}"


def values_named(count: int) -> str:
    """`1 value` or `n values`."""
    return counted(count, "value")


def size_named(count: int) -> str:
    """A number of bytes, with the binary unit when it is a whole number of it."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count and count % 1024**power == 0:
            return f"{count // 1024**power} {unit}"
    return counted(count, "byte")

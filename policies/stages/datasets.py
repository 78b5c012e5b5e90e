"""Checks of what is seen of a dataset."""

from policies.decision import ABSENT, PASSED, Check, Context, Finding
from policies.model.datasets import Dataset
from policies.request import Admission, View
from policies.vocabulary.identifiers import class_name
from policies.wording import counted, listed, short_digest, shown

KNOWN = ("datasets.known",)


def _known(context: Context, request: Admission | View) -> Finding:
    datasets = context.model.datasets
    if request.dataset in datasets:
        return PASSED
    return context.deny("datasets.known", dataset=shown(request.dataset), known=listed(datasets, "none"))


def _dataset(context: Context, request: Admission | View) -> Dataset:
    return context.model.datasets[request.dataset]


def _columns(context: Context, request: Admission | View) -> Finding:
    """Columns are named, and every one is on the dataset's list."""
    allowed = _dataset(context, request).columns.readable
    path = ("datasets", request.dataset, "columns", "allow")
    known = frozenset(allowed)
    wrong = [column for column in request.columns if column not in known]
    if request.columns and not wrong:
        return PASSED
    named = f"{'column' if len(wrong) == 1 else 'columns'} {listed(wrong)}" if wrong else "an empty list of columns"
    return context.deny("datasets.columns", path, columns=named, dataset=request.dataset, allowed=listed(allowed))


def _deny(context: Context, request: Admission | View) -> Finding:
    columns = _dataset(context, request).columns
    if not columns.deny:
        return ABSENT
    for column in request.columns:
        found = columns.classes.get(column)
        if found is None or found in columns.deny:
            return context.deny(
                "datasets.columns.deny",
                ("datasets", request.dataset, "columns", "deny"),
                column=shown(column),
                dataset=request.dataset,
                found=class_name(found) if found else "of no known class",
            )
    return PASSED


def _pseudonymize(context: Context, request: View) -> Finding:
    asked = _dataset(context, request).columns.pseudonymize
    if not asked:
        return ABSENT
    plain = [name for name in request.columns if name in asked and name not in request.pseudonymized]
    if not plain:
        return PASSED
    return context.deny(
        "datasets.columns.pseudonymize",
        ("datasets", request.dataset, "columns", "pseudonymize"),
        columns=f"{'column' if len(plain) == 1 else 'columns'} {listed(plain)}",
        dataset=request.dataset,
    )


def _consent(context: Context, request: View) -> Finding:
    return _by_column(
        context, request, "datasets.rows.consent", _dataset(context, request).rows.consent, request.consent
    )


def _opt_out(context: Context, request: View) -> Finding:
    return _by_column(
        context, request, "datasets.rows.opt_out", _dataset(context, request).rows.opt_out, request.opt_out
    )


def _by_column(context: Context, request: View, rule: str, expected: str | None, found: str | None) -> Finding:
    if expected is None:
        return ABSENT
    if found == expected:
        return PASSED
    return context.deny(
        rule,
        ("datasets", request.dataset, "rows", rule.rpartition(".")[2]),
        dataset=request.dataset,
        found="no column" if found is None else f"column {shown(found)}",
        expected=shown(expected),
    )


def _contract(context: Context, request: View) -> Finding:
    expected = _dataset(context, request).contract
    if expected is None:
        return ABSENT
    if request.contract == expected:
        return PASSED
    return context.deny(
        "datasets.contract",
        ("datasets", request.dataset, "contract"),
        dataset=request.dataset,
        found="no contract" if request.contract is None else f"contract {short_digest(request.contract)}",
        expected=short_digest(expected),
    )


def _minimum(context: Context, request: View) -> Finding:
    minimum = _dataset(context, request).rows.minimum
    if request.rows >= minimum:
        return PASSED
    return context.deny(
        "datasets.rows.minimum",
        ("datasets", request.dataset, "rows", "minimum"),
        dataset=request.dataset,
        rows=counted(request.rows, "row"),
        minimum=minimum,
    )


ADMISSION = (
    Check("datasets.known", _known),
    Check("datasets.columns", _columns, needs=KNOWN),
    Check("datasets.columns.deny", _deny, needs=KNOWN),
)
VIEW = (
    *ADMISSION,
    Check("datasets.contract", _contract, needs=KNOWN),
    Check("datasets.columns.pseudonymize", _pseudonymize, needs=KNOWN),
    Check("datasets.rows.consent", _consent, needs=KNOWN),
    Check("datasets.rows.opt_out", _opt_out, needs=KNOWN),
    Check("datasets.rows.minimum", _minimum, needs=KNOWN),
)

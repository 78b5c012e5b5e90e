"""What a silo is asked: to admit a run, to build a view, to take a model in, to let a reply out, to release a model.

A fact that is None is unknown. A policy that asks for it refuses.
"""

import dataclasses
import datetime as dt
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from policies.errors import UndecidableError


@dataclass(frozen=True, slots=True)
class Party:
    """A member of the federation that takes part in the run, as the signed manifest has it.

    `role` is coordinator, operator or silo; `country` an ISO 3166 alpha-2 code.
    """

    name: str
    role: str
    country: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """How long a party's certificate is valid; both times aware."""

    party: str
    issued: dt.datetime
    expires: dt.datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What a run does for privacy, and what it would leave of the budget.

    `mode` is none, example_dp or silo_dp. `epsilon` is what this run, or this reply, adds at `delta`; `spent` is the
    epsilon at `delta` of everything debited to the dataset in the policy's window, this run or reply counted.
    """

    mode: str
    clip_norm: float | None = None
    noise_multiplier: float | None = None
    epsilon: float | None = None
    spent: float | None = None
    delta: float | None = None
    secure_aggregation: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHealth:
    """How the silo's own log stands.

    `witnesses` is the number of members that cosigned its newest cosigned checkpoint, `verified` when it was last
    verified from its first entry, `clock_skew` the distance in seconds from the clocks of those members, and
    `oldest_payload` when the oldest payload that is still kept was recorded (None also where there is none;
    `payloads_known` says that it was looked for).
    """

    witnesses: int | None = None
    verified: dt.datetime | None = None
    clock_skew: float | None = None
    oldest_payload: dt.datetime | None = None
    payloads_known: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """A run asks to be admitted, or to go on.

    `app_digest` is `sha256:` and 64 hex digits. `metrics` are those the run declares. `parties` are all that
    take part; `silo` is the name of the deciding silo among them. Without it every party is taken for a
    receiver. `statistics` says that the run asks for statistics of the data, `kinds` of which kinds, `per_silo` that
    the operator would see this silo's by themselves. Without `code` nothing but statistics is asked for: no app runs,
    and no update or model leaves. `quorum` is the number of silos whose updates every round folds together at least.
    `authors` made the app (none: no one knows who) and `reviewers` are those whose valid approval of app and run this
    silo holds. `uses` is the number of runs admitted with the app before this one, `running` that of other runs in
    progress here. `release_asked` says that the final model is kept until the silos release it.
    """

    purpose: str
    dataset: str
    columns: tuple[str, ...]
    app_digest: str
    rounds: int
    metrics: tuple[str, ...]
    parties: tuple[Party, ...]
    silo: str | None = None
    statistics: bool = False
    kinds: tuple[str, ...] = ()
    per_silo: bool = False
    code: bool = True
    quorum: int | None = None
    authors: tuple[str, ...] = ()
    reviewers: tuple[str, ...] = ()
    uses: int | None = None
    running: int | None = None
    release_asked: bool | None = None
    certificates: tuple[Certificate, ...] = ()
    privacy: Privacy | None = None
    log: LogHealth | None = None

    @property
    def surveys(self) -> bool:
        """Whether nothing but statistics is asked for."""
        return self.statistics and not self.code


@dataclass(frozen=True, slots=True)
class View:
    """A view of a dataset was built, with this many rows.

    `consent` and `opt_out` name the columns by which rows were left out, `pseudonymized` the columns that hold
    pseudonyms, `contract` is the digest of the dataset's contract, if it has one.
    """

    dataset: str
    columns: tuple[str, ...]
    rows: int
    consent: str | None = None
    opt_out: str | None = None
    pseudonymized: tuple[str, ...] = ()
    contract: str | None = None


@dataclass(frozen=True, slots=True)
class Ingress:
    """A model has come in. Rounds count from 1; `expected_values` is the size of the run's model."""

    round: int
    rounds_planned: int
    values: int
    expected_values: int
    dtype: str
    finite: bool
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """A reply is to go out: metrics, and an update unless the round was an evaluation only.

    The facts of the update (`values` to `size_bytes`) are all given or all None. `norm` is the update's L2
    norm. `examples` is the number of examples behind the reply. `privacy` counts the reply as debited. `cell` is the
    number of rows in the smallest cell that a reply of statistics shows; None for a reply that shows none.
    `beyond_range` names the metrics that have a value which such a metric cannot have, with what it can have.
    """

    round: int
    examples: int
    metrics: Mapping[str, float]
    declared_metrics: tuple[str, ...]
    values: int | None = None
    expected_values: int | None = None
    dtype: str | None = None
    finite: bool | None = None
    norm: float | None = None
    size_bytes: int | None = None
    privacy: Privacy | None = None
    cell: int | None = None
    beyond_range: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """The final model of a run is to be handed to a party. `approvals` are those who agreed, by valid signatures."""

    party: Party
    approvals: tuple[str, ...]


Request = Admission | View | Ingress | Egress | Release

Check = Callable[[object], str | None]
"""What a value should be, or None where it is that."""


def check_types(request: Request) -> None:
    """Raise UndecidableError unless every fact has its declared type: other types compare in odd ways."""
    for name, check in _checks(type(request)):
        expected = check(getattr(request, name))
        if expected is not None:
            value = getattr(request, name)
            raise UndecidableError(f"got {type(value).__name__} for {name}, expected {expected}")


def _checks(kind: type[Any]) -> tuple[tuple[str, Check], ...]:
    """The check of each fact of a request, or of a record inside one."""
    if kind not in _KNOWN:
        hints = get_type_hints(kind)
        _KNOWN[kind] = tuple((field.name, _check(hints[field.name])) for field in dataclasses.fields(kind))
    return _KNOWN[kind]


_KNOWN: dict[type[Any], tuple[tuple[str, Check], ...]] = {}


def _check(annotation: Any) -> Check:
    """The check of one annotation; raises TypeError for a form that no request uses."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        (inner,) = (part for part in arguments if part is not types.NoneType)
        check = _check(inner)
        return lambda value: None if value is None else check(value)
    if origin is tuple:
        return _every(_check(arguments[0]), f"a tuple of {_plural(arguments[0])}")
    if origin is Mapping:
        return _numbers_by_name
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _record(annotation)
    return _SCALARS[annotation]


def _text(value: object) -> str | None:
    return None if isinstance(value, str) else "text"


def _count(value: object) -> str | None:
    return "a whole number" if isinstance(value, bool) or not isinstance(value, Integral) else None


def _number(value: object) -> str | None:
    return "a number" if isinstance(value, bool) or not isinstance(value, Real) else None


def _flag(value: object) -> str | None:
    return None if isinstance(value, bool) else "true or false"


def _moment(value: object) -> str | None:
    return None if isinstance(value, dt.datetime) and value.utcoffset() is not None else "a time with its zone"


_SCALARS: dict[object, Check] = {str: _text, int: _count, float: _number, bool: _flag, dt.datetime: _moment}


def _numbers_by_name(value: object) -> str | None:
    fits = (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and all(_number(item) is None for item in value.values())
    )
    return None if fits else "numbers by name"


def _every(check: Check, expected: str) -> Check:
    return lambda value: None if isinstance(value, tuple) and all(check(item) is None for item in value) else expected


def _record(kind: type[Any]) -> Check:
    expected = f"a {kind.__name__}"

    def check(value: object) -> str | None:
        fits = type(value) is kind and all(inner(getattr(value, name)) is None for name, inner in _checks(kind))
        return None if fits else expected

    return check


def _plural(annotation: Any) -> str:
    names = {str: "texts", Party: "parties", Certificate: "certificates"}
    return names[annotation]

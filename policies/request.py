"""What a silo is asked: to admit a run, to build a view, to take a model in, to let a reply out."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real

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
class Admission:
    """A run asks to be admitted.

    `app_digest` is `sha256:` and 64 hex digits. `metrics` are those the run declares. `parties` are all that
    take part; `silo` is the name of the deciding silo among them. Without it every party is taken for a
    receiver.
    """

    purpose: str
    dataset: str
    columns: tuple[str, ...]
    app_digest: str
    rounds: int
    metrics: tuple[str, ...]
    parties: tuple[Party, ...]
    silo: str | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A view of a dataset is to be built, with this many rows."""

    dataset: str
    columns: tuple[str, ...]
    rows: int


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
    norm. `examples` is the number of examples behind the reply.
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


Request = Admission | View | Ingress | Egress


def _text(value: object) -> bool:
    return isinstance(value, str)


def _count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _texts(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_text, value))


def _parties(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(party, Party) and _texts((party.name, party.role, party.country)) for party in value
    )


def _metrics(value: object) -> bool:
    return isinstance(value, Mapping) and all(map(_text, value)) and all(map(_number, value.values()))


_CHECKS: dict[object, tuple[Callable[[object], bool], str]] = {
    str: (_text, "text"),
    int: (_count, "a whole number"),
    float: (_number, "a number"),
    bool: (_flag, "true or false"),
    tuple[str, ...]: (_texts, "a tuple of texts"),
    tuple[Party, ...]: (_parties, "a tuple of parties"),
    Mapping[str, float]: (_metrics, "numbers by name"),
}


def check_types(request: Request) -> None:
    """Raise UndecidableError unless every fact has its declared type: other types compare in odd ways."""
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        annotation = field.type
        if value is None and field.default is None:
            continue
        fits, expected = _CHECKS[_required(annotation)]
        if not fits(value):
            raise UndecidableError(f"got {type(value).__name__} for {field.name}, expected {expected}")


def _required(annotation: object) -> object:
    """The annotation of an optional fact without its None."""
    arguments = [part for part in getattr(annotation, "__args__", ()) if part is not type(None)]
    optional = type(None) in getattr(annotation, "__args__", ())
    return arguments[0] if optional else annotation

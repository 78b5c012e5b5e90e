"""Classes of identifiers that a column may hold."""

from typing import Annotated

from pydantic import AfterValidator

from policies.scalars import SchemaWhenAsked, misfit
from policies.vocabulary import identifier_classes
from policies.wording import nearest

NONE = "none"
"""The class of a column that identifies no one."""


def class_name(code: str) -> str:
    """A class with its label, `date (elements of dates but the year, and ages over 89)`."""
    found = identifier_classes().classes.get(code)
    return f"{code} ({found.label})" if found else code


def _class(value: str) -> str:
    known = (*identifier_classes().classes, NONE)
    if value not in known:
        raise misfit(f"a class of identifiers ({', '.join(known)})", meant=nearest(value, known))
    return value


def _denied(value: str) -> str:
    if value == NONE:
        raise misfit("a class of identifiers", advice="none is the class of what identifies no one")
    return _class(value)


IdentifierClass = Annotated[
    str,
    AfterValidator(_class),
    SchemaWhenAsked(lambda: {"type": "string", "enum": [*identifier_classes().classes, NONE]}),
]
"""A class of identifiers, or none."""

DeniedClass = Annotated[
    str,
    AfterValidator(_denied),
    SchemaWhenAsked(lambda: {"type": "string", "enum": list(identifier_classes().classes)}),
]
"""A class of identifiers."""

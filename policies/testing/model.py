"""`kind: PolicyTest` and `kind: PolicyRequest`: requests in YAML and what a policy is expected to decide."""

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema, model_validator

from policies.document import Closed, Document, Kind, load_document
from policies.errors import DocumentError, Problem
from policies.facts import STAGES, MissingFactsError, Moment, build, given, stages_model
from policies.limits import LIMITS, Limits
from policies.request import Request
from policies.rules import RULES
from policies.scalars import Misfit, Name, Text, misfit, misfits
from policies.wording import listed, nearest


def _rule(value: str) -> str:
    if value not in RULES:
        raise misfit("the id of a rule (`concordat policy rules` lists them)", meant=nearest(value, RULES))
    return value


def _relative(value: str) -> str:
    if Path(value).is_absolute():
        raise misfit("a path relative to this file")
    return value


RuleId = Annotated[str, AfterValidator(_rule), WithJsonSchema({"type": "string", "enum": list(RULES)})]
"""The id of a rule."""

RelativePath = Annotated[Text, AfterValidator(_relative)]
"""A path relative to the file it stands in."""


def stages_given(model: Closed) -> tuple[str, ...]:
    """The stages for which a model has facts."""
    return tuple(stage for stage in STAGES if stage in model.model_fields_set and getattr(model, stage) is not None)


class _OneStage(Closed):
    @model_validator(mode="after")
    def _exactly_one(self) -> "_OneStage":
        if len(stages_given(self)) != 1:
            misfits([Misfit(f"exactly one of: {listed(STAGES)}")])
        return self


class _Base(Closed):
    """Facts by stage, which cases start from."""


class _Case(_OneStage):
    """One request and what the policy is expected to decide."""

    name: Text
    """What the case shows, in words."""
    base: Name | None = Field(default=None, alias="from")
    """Which of the named requests this case changes."""
    now: Moment | None = None
    """When it is asked, if not at the time of the whole file."""
    expect: Literal["allow", "deny"]
    """The effect."""
    rule: RuleId | None = None
    """The rule that decides; a refusal names it."""
    at: Text | None = None
    """The field of the policy that the decision points at, as `datasets.heart.rows.minimum`."""

    @model_validator(mode="after")
    def _a_refusal_names_its_rule(self) -> "_Case":
        if self.expect == "deny" and self.rule is None:
            misfits([Misfit("a rule beside it", ("expect",), advice="name the rule that is to refuse")])
        return self


class _Request(_OneStage, Kind):
    """A request, to be explained."""

    kind: Literal["PolicyRequest"]
    """Kind of the document."""
    now: Moment | None = None
    """When it is asked, if not now."""


BaseRequest: Any = stages_model("BaseRequest", _Base)
"""Facts by stage under a name."""

Case: Any = stages_model("Case", _Case)
"""A case of a test."""

PolicyRequest: Any = stages_model("PolicyRequest", _Request)
"""`kind: PolicyRequest`."""


class PolicyTest(Kind):
    """Cases for one policy; they lie beside it in a file that ends in .test.yaml."""

    kind: Literal["PolicyTest"]
    """Kind of the document."""
    policy: RelativePath
    """The policy's file, relative to this one."""
    now: Moment
    """When the cases are asked, unless one has a time of its own."""
    requests: dict[Name, BaseRequest] = Field(default_factory=dict)
    """Requests by name, which cases start from."""
    cases: Annotated[tuple[Case, ...], Field(min_length=1, max_length=LIMITS.cases)]
    """The cases."""

    @model_validator(mode="after")
    def _bases_exist(self) -> "PolicyTest":
        found = []
        for index, case in enumerate(self.cases):
            if case.base is None:
                continue
            at = ("cases", index, "from")
            if case.base not in self.requests:
                close = nearest(case.base, self.requests)
                found.append(Misfit(f"one of the requests: {listed(self.requests, 'none')}", at, meant=close))
        names = [case.name for case in self.cases]
        found += [
            Misfit("each name once", ("cases", index, "name"), advice="remove the repetition")
            for index, name in enumerate(names)
            if name in names[:index]
        ]
        misfits(found)
        return self


def load_test(
    path_or_text: Path | str | bytes, source: str | None = None, limits: Limits = LIMITS
) -> Document[PolicyTest]:
    """Read a test from a file (a Path) or from its content; raises DocumentError with every problem."""
    return load_document(path_or_text, PolicyTest, source, limits)


def load_request(path_or_text: Path | str | bytes, source: str | None = None, limits: Limits = LIMITS) -> Document[Any]:
    """Read a request from a file (a Path) or from its content; raises DocumentError with every problem."""
    return load_document(path_or_text, PolicyRequest, source, limits)


def request_of(path: Path) -> tuple[Request, dt.datetime | None]:
    """The request in a file and the time it names, if it does; raises DocumentError with every problem."""
    document = load_request(path)
    (stage,) = stages_given(document.model)
    try:
        return build(stage, given(getattr(document.model, stage))), document.model.now
    except MissingFactsError as error:
        message = f"got no {listed(error.names)}, expected it"
        raise DocumentError([Problem(*document.root.locate((stage,)), message, document.source)]) from None

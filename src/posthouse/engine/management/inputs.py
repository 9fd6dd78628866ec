"""What the writing calls of the management API take, field by field, in the protocol's words.

The schemas in the OpenAPI document and the checks both come from here. null means the same as not there.
"""

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    WithJsonSchema,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from posthouse.domain.endpoint import PARAMETERS, EndpointState, Parameter
from posthouse.keys import KeyLimits
from posthouse.wire.checks import MAX_INTEGER, unknown
from posthouse.wire.fallback import FAULTS, Fault
from posthouse.wire.status import MAX_LOADING_S

MAX_NAME = 255
"""Longest name, in characters: the protocol's."""
MAX_IMAGE = 4096
"""Longest name of an image, in characters: our choice."""
MAX_TEXT = 262_144
"""Longest script or readme, in characters: our choice, far above real ones."""
MIN_PASSWORD, MAX_PASSWORD = 12, 1024
"""Shortest and longest password, in characters: our choice."""
MAX_GB = 1e6
"""Largest disk, and largest model, in GB: our choice, far above real ones."""

KEY_LIMITS = tuple(one.name for one in fields(KeyLimits))

NEAR = 0.85
"""How alike a misspelled name and the one that was meant are at least: `difflib` says 0.88 of min_laod."""

CREDENTIALS = ("api_key", "api_token")
"""Where a body may carry the key of its sender, which the middleware reads."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("words", "must have printable characters only")
    return text


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise PydanticCustomError("words", "must be text without NUL")
    return text


def _in_capitals(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise PydanticCustomError("bool", "is no number")
    return value


Line = Annotated[str, Strict(), StringConstraints(max_length=MAX_NAME), AfterValidator(_printable)]
Name = Annotated[str, Strict(), StringConstraints(min_length=1, max_length=MAX_NAME), AfterValidator(_printable)]
Image = Annotated[str, Strict(), StringConstraints(max_length=MAX_IMAGE), AfterValidator(_printable)]
Text = Annotated[str, Strict(), StringConstraints(max_length=MAX_TEXT), AfterValidator(_no_nul)]
YesOrNo = Annotated[bool, Strict()]
Whole = Annotated[int, BeforeValidator(_no_bool)]
Id = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=MAX_INTEGER)]
Gb = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=MAX_GB, allow_inf_nan=False)]
Limit = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=10**12)]
LoadingS = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=MAX_LOADING_S, allow_inf_nan=False)]
Search = Annotated[str, Strict()] | dict[str, Any]
"""An offer filter: text, or an object `{field: {op: value}}`."""


class WireInput(BaseModel):
    """Of the protocol's calls: unknown fields are ignored, since its peers send more than they document."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class SpelledInput(WireInput):
    """Unknown fields are ignored, but for one that is nearly the name of a known one: that was meant."""

    @model_validator(mode="before")
    @classmethod
    def _no_misspelling(cls, body: Any) -> Any:
        for name in body if isinstance(body, dict) else ():
            if name not in cls.model_fields and difflib.get_close_matches(name, cls.model_fields, 1, NEAR):
                raise PydanticCustomError("words", "{text}", {"text": str(unknown(name, cls.model_fields))})
        return body


class OwnInput(WireInput):
    """Unknown fields are refused by name, but for `passed_over`."""

    model_config = ConfigDict(extra="forbid")
    passed_over: ClassVar[frozenset[str]] = frozenset(CREDENTIALS)

    @model_validator(mode="before")
    @classmethod
    def _without_passed_over(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        return {name: value for name, value in body.items() if name in cls.model_fields or name not in cls.passed_over}


def _checked(parameter: Parameter) -> Any:
    """The type of a scaling parameter in a body."""

    def check(value: object) -> object:
        if value is not None:
            parameter.check(value)
        return value

    schema: dict[str, Any] = {"type": "string", "enum": list(parameter.choices)}
    if not parameter.choices:
        kind = "integer" if parameter.whole else "number"
        schema = {"type": kind, "minimum": parameter.low, "maximum": parameter.high}
    kinds = [schema, {"type": "null"}, *([{"const": "none", "type": "string"}] if parameter.optional else [])]
    unit = f" Unit: {parameter.unit}." if parameter.unit else ""
    text = f"{parameter.meaning}{unit} A new endpoint has {'none' if parameter.optional else parameter.default}."
    return Annotated[Any, BeforeValidator(check), WithJsonSchema({"anyOf": kinds, "description": text})]


if TYPE_CHECKING:
    _ScalingInput = SpelledInput
else:
    _fields = {name: (_checked(parameter), None) for name, parameter in PARAMETERS.items()}
    _ScalingInput = create_model("ScalingInput", __base__=SpelledInput, **_fields)


class EndpointChanges(_ScalingInput):
    """What changes of an endpoint; what is absent or null stays. The text "none" takes back an optional parameter."""

    endpoint_name: Line | None = None
    endpoint_state: EndpointState | None = None
    """suspended: its workers stay as they are; stopped: all of them become cold."""
    min_workers: Annotated[Any, WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "null"}]})] = None
    """Another name of `cold_workers`."""

    def scaling(self) -> Mapping[str, object]:
        """The scaling parameters that are given."""
        given = {name: getattr(self, name) for name in PARAMETERS}
        if self.min_workers is not None:
            given["cold_workers"] = self.min_workers if given["cold_workers"] is None else given["cold_workers"]
        return {name: value for name, value in given.items() if value is not None}

    @model_validator(mode="after")
    def _one_name(self) -> "EndpointChanges":
        if self.min_workers is not None and self.scaling()["cold_workers"] != self.min_workers:
            raise PydanticCustomError("words", "min_workers: is another name of cold_workers, and the two differ")
        return self


class NewEndpoint(EndpointChanges):
    """A new endpoint; what is absent or null has its default."""


class WorkergroupChanges(SpelledInput):
    """What changes of a workergroup; what is absent or null stays. It never moves to another endpoint."""

    endpoint_id: Id | None = None
    endpoint_name: Line | None = None
    template_id: Id | None = None
    template_hash: Annotated[str, Strict()] | None = None
    search_params: Search | None = None
    """Offer filter, as text or as an object `{field: {op: value}}`. Empty: the template's own."""
    launch_args: Text | None = None
    """Further arguments, for providers that know them."""
    gpu_ram: Gb | None = None
    """Size of the model in GB: an estimate, not a filter."""
    provider: Line | None = None
    """Where to rent: names, types or classes of providers, with commas between, or `any`; empty: as the server says."""
    signature_scheme: Annotated[Literal["", "A4", "A5", "A5S", "U"], BeforeValidator(_in_capitals)] | None = None
    """Signature scheme of its workers; empty: by each worker's version."""


class NewWorkergroup(WorkergroupChanges):
    """A new workergroup, of an endpoint by its id or name, from a template by its hash or id."""


class NewTemplate(OwnInput):
    """A new template. Fields of the protocol that mean nothing here are ignored, as those about ssh and jupyter."""

    passed_over: ClassVar[frozenset[str]] = frozenset(CREDENTIALS) | {
        *("args_str", "runtype", "use_ssh", "ssh_direct", "jup_direct", "use_jupyter_lab", "jupyter_dir"),
        *("docker_login_repo", "docker_login_user", "docker_login_pass", "href", "repo", "volume_info", "client_id"),
        # What the protocol shows of a template, which comes back from who changes a copy.
        *("id", "hash_id", "template_id", "creator_id", "created_at", "count_created", "recent_create_date"),
        *("default_tag", "recommended", "readme_visible"),
    }

    name: Line | None = None
    image: Image | None = None
    tag: Line | None = None
    env: Annotated[str, Strict()] | dict[str, Any] | None = None
    """Environment and ports: docker flags as text, or an object of texts."""
    onstart: Text | None = None
    """Shell script that a worker runs at every start."""
    recommended_disk_space: Gb | None = None
    """GB."""
    extra_filters: Search | None = None
    """Offer filter, as text or as an object `{field: {op: value}}`."""
    desc: Text | None = None
    readme: Text | None = None
    private: YesOrNo | None = None
    loading_timeout_s: LoadingS | None = None
    """Longest time, in seconds, until a worker is ready, above every other limit on loading; 0: as the server says."""


class TemplateChanges(NewTemplate):
    """What changes of the template with this `id`, this `hash_id`, or both; what is absent or null stays."""

    id: Id | None = None
    hash_id: Annotated[str, Strict()] | None = None


class TemplateRef(WireInput):
    """The template with this id, this hash, or both."""

    template_id: Id | None = None
    hash_id: Annotated[str, Strict()] | None = None


class SecretName(WireInput):
    """A secret, by its name."""

    key: str = Field(strict=True)
    """The name of an environment variable."""


class Secret(SecretName):
    """A secret: an environment variable that every new instance is given."""

    value: Annotated[str, Strict(), AfterValidator(_no_nul)] = Field(repr=False, json_schema_extra={"writeOnly": True})


class NamedOrphan(OwnInput):
    """An instance that no worker owns."""

    instance_id: Line
    """Its id at its provider, or its label."""
    provider: Line = ""
    """Which provider has it, where several have one of that id."""


class AdoptedOrphan(NamedOrphan):
    """An instance that is to be a worker again."""

    workergroup_id: int
    """Of the workergroup that it is to be a worker of."""


class NewSession(OwnInput):
    """Somebody who signs in: with an account key, or with name and password."""

    key: str = Field("", strict=True, max_length=128, repr=False, json_schema_extra={"writeOnly": True})
    """An account key."""
    name: Line = ""
    password: str = Field("", strict=True, max_length=MAX_PASSWORD, repr=False, json_schema_extra={"writeOnly": True})

    @model_validator(mode="after")
    def _one_proof(self) -> "NewSession":
        if bool(self.key) == bool(self.name and self.password):
            raise PydanticCustomError("words", "key: is required, or name and password instead of it")
        return self


def _password(default: Any) -> Any:
    return Field(
        default,
        strict=True,
        min_length=MIN_PASSWORD,
        max_length=MAX_PASSWORD,
        repr=False,
        json_schema_extra={"writeOnly": True},
    )


UserScope = Literal["read", "operate", "admin"]


class UserChanges(OwnInput):
    """What changes of a user; what is absent or null stays."""

    password: str | None = _password(None)
    scope: UserScope | None = None


class NewUser(OwnInput):
    """Somebody who may sign in to the console with a password."""

    name: Name
    """To sign in with; no two users of an installation have the same."""
    password: str = _password(...)
    scope: UserScope
    """What the user may do; each scope includes the ones before it."""
    account: Line = ""
    """Whose user it is, by name; only an admin of the installation may say so. Empty: the caller's."""


class _KeyLimits(OwnInput):
    requests_per_minute: Limit | None = None
    """Most requests per minute, as a mean: that many at once after a minute without any. 0: no limit."""
    work_per_minute: Limit | None = None
    """Most work per minute, in the units of the endpoints: for models of text, tokens that they write. 0: no limit."""
    at_once: Limit | None = None
    """Most requests that wait or run at once. 0: no limit."""

    def limits(self, before: KeyLimits) -> KeyLimits:
        """The limits that are given; those that are not stay as they were."""
        given = {name: getattr(self, name) for name in KEY_LIMITS}
        return replace(before, **{name: value for name, value in given.items() if value is not None})


class KeyChanges(_KeyLimits):
    """What changes of a key; what is absent or null stays."""

    name: Name | None = None


class NewKey(_KeyLimits):
    """A new key of an account."""

    name: Name
    """What it is for."""
    scope: Literal["route", "read", "operate", "admin"]
    """What it may do; each scope includes the ones before it."""
    account: Line = ""
    """Whose key it is, by name; only an admin of the installation may say so. Empty: the caller's."""


class NewAccount(OwnInput):
    """A new account."""

    name: Name


Weight = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1e6, allow_inf_nan=False)]
Hold = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=86_400, allow_inf_nan=False)]


class NewAliasTarget(OwnInput):
    """Where requests to an alias go."""

    model: Name
    """An endpoint, or another alias."""
    weight: Weight = 1.0
    """Its share of the requests, beside the weights of the others."""


class NewAliasFallback(OwnInput):
    """Where requests go that failed before their first byte."""

    model: Name
    """An endpoint, another alias, or as the last one `external:NAME`, which gateways know."""
    faults: Annotated[list[Fault], Field(min_length=1, max_length=len(FAULTS))] = list(FAULTS[:3])
    """For which classes of errors."""


class NewAlias(OwnInput):
    """What an alias stands for."""

    targets: Annotated[list[NewAliasTarget], Field(min_length=1, max_length=16)]
    """One is drawn for each request."""
    fallbacks: Annotated[list[NewAliasFallback], Field(max_length=8)] = []
    """Tried in this order where the target fails."""
    wait_s: Hold | None = None
    """How long a request waits for a worker before it goes on to a fallback; null: as long as the gateway holds it."""

"""What the writing calls of the management API take, field by field, in the protocol's words.

The schemas in the OpenAPI document and the checks both come from here. null means the same as not there.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
from posthouse.wire.checks import MAX_INTEGER

MAX_NAME = 255
"""Longest name, in characters: the protocol's."""
MAX_IMAGE = 4096
"""Longest name of an image, in characters: our choice."""
MAX_TEXT = 262_144
"""Longest script or readme, in characters: our choice, far above real ones."""
MAX_GB = 1e6
"""Largest disk, and largest model, in GB: our choice, far above real ones."""

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
Search = Annotated[str, Strict()] | dict[str, Any]
"""An offer filter: text, or an object `{field: {op: value}}`."""


class WireInput(BaseModel):
    """Of the protocol's calls: unknown fields are ignored, since its peers send more than they document."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class OwnInput(WireInput):
    """Of our own calls: unknown fields are refused by name."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _without_credentials(cls, body: Any) -> Any:
        return {k: v for k, v in body.items() if k not in CREDENTIALS} if isinstance(body, dict) else body


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
    _ScalingInput = WireInput
else:
    _fields = {name: (_checked(parameter), None) for name, parameter in PARAMETERS.items()}
    _ScalingInput = create_model("ScalingInput", __base__=WireInput, **_fields)


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


class WorkergroupChanges(WireInput):
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
    """Where to rent; empty: the server's default."""
    signature_scheme: Annotated[Literal["", "A4", "A5", "A5S", "U"], BeforeValidator(_in_capitals)] | None = None
    """Signature scheme of its workers; empty: by each worker's version."""


class NewWorkergroup(WorkergroupChanges):
    """A new workergroup, of an endpoint by its id or name, from a template by its hash or id."""


class NewTemplate(WireInput):
    """A new template. Fields about ssh and jupyter are ignored."""

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


class NewKey(OwnInput):
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

"""Bodies of calls that ask for something; those that change something are in `engine.management.inputs`."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Strict

from posthouse.engine.management.inputs import Gb, Id, Whole, WireInput, YesOrNo
from posthouse.wire.checks import MAX_INTEGER

Tail = Annotated[Whole, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
"""Lines from the end: far more than are kept is as good as all, and so is anything below 0."""


class EndpointRef(WireInput):
    """An endpoint, by its id."""

    id: Id


class WorkergroupRef(WireInput):
    """A workergroup, by its id."""

    id: Id


class WorkersUpdate(WireInput):
    """An update of the workers of a workergroup."""

    workergroup_id: Id
    cancel_update: YesOrNo | None = None
    """Leave those as they are whose update has not begun."""


class EndpointLogsQuery(WireInput):
    """The logs of an endpoint, by its id or its name."""

    id: Id | None = None
    endpoint: Annotated[str, Strict()] | None = None
    tail: Tail | None = None
    """The last lines of each text; below 0 or absent: all."""


class WorkergroupLogsQuery(WireInput):
    """The logs of a workergroup, by its id."""

    id: Id
    tail: Tail | None = None
    """The last lines of each text; below 0 or absent: all."""


class OfferSearch(WireInput):
    """A search of offers: any other field is a filter `{field: {op: value}}`."""

    model_config = ConfigDict(extra="allow")

    type: Literal["on-demand", "ondemand"] | None = None
    """Workers are rented in no other way."""
    limit: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    """Most offers."""
    allocated_storage: Gb | Literal[""] | None = None
    """GB of disk."""
    order: Any = None
    """Ignored: the cheapest come first."""
    disable_bundling: Any = None
    client_id: Any = None
    api_key: Any = None
    api_token: Any = None


class OfferSearchQuery(WireInput):
    """A search of offers, in `q`."""

    q: OfferSearch

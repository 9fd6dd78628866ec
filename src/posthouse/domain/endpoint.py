"""An endpoint: a named group of workers that serve one model, and the parameters by which it scales."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Annotated, Any, Literal, NewType, get_type_hints

from posthouse.errors import BadRequest

AccountId = NewType("AccountId", int)
"""The owner of endpoints, templates, keys and secrets."""
EndpointId = NewType("EndpointId", int)
WorkergroupId = NewType("WorkergroupId", int)
"""The workergroup itself is in `posthouse.template`: only code that makes workers needs it."""
DEFAULT_ACCOUNT = AccountId(1)
"""The installation's own account. Its admin keys see and change what every account has."""
SloMode = Literal["fixed", "auto"]
SLO_MODES: tuple[SloMode, ...] = ("fixed", "auto")
ScalingValue = float | str | None


class EndpointState(StrEnum):
    ACTIVE = "active"  # managed
    SUSPENDED = "suspended"  # nothing is recruited or released; what is on its way arrives
    STOPPED = "stopped"  # every worker is made inactive


@dataclass(frozen=True, slots=True)
class Parameter:
    """The one description of a scaling parameter.

    The API's schemas, the command line's options, scenarios, the checks and the documentation all read it.
    """

    meaning: str
    low: float = 0.0
    high: float = 0.0
    unit: str = ""
    whole: bool = False
    choices: tuple[str, ...] = ()
    name: str = ""
    default: ScalingValue = None

    @property
    def optional(self) -> bool:
        """True if it may be none, which takes it back."""
        return self.default is None

    @property
    def allowed(self) -> str:
        """The values that it may have, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        kind = "a whole number" if self.whole else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}" + (", or none" if self.optional else "")

    def check(self, value: object) -> ScalingValue:
        """The value as the parameter has it. Raises: BadRequest."""
        if self.choices:
            if value in self.choices:
                return str(value)
        elif self.optional and value in (None, "none"):
            return None
        elif isinstance(value, int | float | str) and not isinstance(value, bool):
            try:
                found = float(value)
            except (ValueError, OverflowError):
                found = math.nan
            if self.low <= found <= self.high and not (self.whole and found % 1):
                return int(found) if self.whole else found
        raise BadRequest(f"{self.name}: must be {self.allowed}, not {value!r:.60}")


_INACTIVITY = "Time without a request before it may go to zero. None: 20 starts; 0: the load decides; below 0: never."
_SLO_MODE = (
    "fixed: capacity by target_util and cold_mult. auto: as much as keeps waits within target_queue_time, with these "
    "two as upper bounds and the other parameters as lower ones."
)


@dataclass(frozen=True, slots=True)
class Scaling:
    """How an endpoint scales. Names and meanings are the protocol's; defaults are those of its current documentation.

    A new parameter is one more entry here. `work` is the unit in which clients state `cost`.
    """

    min_load: Annotated[float, Parameter("Lowest load to plan for.", 0, 1e12, "work/s")] = 1.0
    target_util: Annotated[float, Parameter("Hot capacity wanted = load / target_util.", 0.01, 1)] = 0.9
    cold_mult: Annotated[float, Parameter("Capacity in all, hot and cold, per hot capacity.", 0, 1000)] = 3.0
    min_cold_load: Annotated[float, Parameter("Lowest capacity in all, at any load.", 0, 1e12, "work/s")] = 0.0
    cold_workers: Annotated[int, Parameter("Fewest workers, hot or stopped.", 0, 10_000, "workers", True)] = 5
    max_workers: Annotated[int, Parameter("Most workers in any state.", 0, 10_000, "workers", True)] = 16
    max_queue_time: Annotated[
        float, Parameter("Longest expected wait at which a worker still gets requests.", 0.1, 86_400, "s")
    ] = 30.0
    target_queue_time: Annotated[
        float, Parameter("Wait beyond which capacity is added, to clear the queue in that time.", 0.1, 86_400, "s")
    ] = 10.0
    inactivity_timeout: Annotated[float | None, Parameter(_INACTIVITY, -1e9, 1e9, "s")] = None
    max_usd_h: Annotated[float | None, Parameter("Most that it may come to cost.", 0, 1e6, "$/h")] = None
    max_usd_day: Annotated[float | None, Parameter("Most that it may spend in a day, in UTC.", 0, 1e9, "$")] = None
    max_usd_month: Annotated[
        float | None, Parameter("Most that it may spend in a calendar month, in UTC.", 0, 1e9, "$")
    ] = None
    slo_mode: Annotated[SloMode, Parameter(_SLO_MODE, choices=SLO_MODES)] = "fixed"

    def changed(self, values: Mapping[str, object]) -> "Scaling":
        """The parameters with these values in place of theirs. Raises: BadRequest for an unknown or a wrong one."""
        for name in values:
            if name not in PARAMETERS:
                raise BadRequest(f"{name}: there is no such scaling parameter. Allowed: {', '.join(PARAMETERS)}")
        checked: dict[str, Any] = {name: PARAMETERS[name].check(value) for name, value in values.items()}
        return replace(self, **checked)


def _parameters() -> dict[str, Parameter]:
    types = get_type_hints(Scaling, include_extras=True)
    return {f.name: replace(types[f.name].__metadata__[0], name=f.name, default=f.default) for f in fields(Scaling)}


PARAMETERS = _parameters()


def defaults(slo_mode: object) -> Scaling:
    """The parameters of a new endpoint that names only its mode. In `auto` the fixed ratios' own bounds do not bind."""
    return Scaling(slo_mode="auto", target_util=1.0, cold_workers=0) if slo_mode == "auto" else Scaling()


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: EndpointId
    name: str
    scaling: Scaling = field(default_factory=Scaling)
    state: EndpointState = EndpointState.ACTIVE
    key_version: int = 1
    """Raised to revoke the endpoint's key: keys are derived from it."""
    created_at: float = 0.0
    account_id: AccountId = DEFAULT_ACCOUNT
    """Its owner. Names are unique per owner."""
    revision: int = 0
    """Raised by the store at every change, so that no server overwrites what another has just written."""

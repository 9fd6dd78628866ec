"""What goes wrong in the market, and how long things take there."""

from typing import Annotated, Literal

import msgspec

from posthouse.errors import BadRequest

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e6)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e6)]


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares are of calls or instances, 0 to 1; rates are per hour."""

    schedule_s: Seconds = 1.0
    """From the rental to the first byte of the image."""
    pull_s: Seconds = 5.0
    """How long an image is pulled."""
    stop_s: Seconds = 1.0
    start_s: Seconds = 1.0
    """From a stopped instance, or a reboot, to one that runs."""
    slow: Share = 0.0
    """Of instances: the pull takes `slow_factor` times as long."""
    slow_factor: Annotated[float, msgspec.Meta(ge=1, le=1e4)] = 10.0
    stuck: Share = 0.0
    """Of instances: the pull never ends."""
    taken: Share = 0.0
    """Of rentals: somebody was faster."""
    churn_h: Rate = 0.0
    """How often others rent a machine, and how often each gives one back."""
    offline_h: Rate = 0.0
    """How often a machine goes away for good."""
    move_h: Rate = 0.0
    """How often the prices of a machine move."""
    move: Share = 0.2
    """Most that a price moves, as a share of it."""
    error: Share = 0.0
    """Of calls: 503, and nothing was done."""
    lost: Share = 0.0
    """Of calls: they are done, and the connection ends without an answer."""
    late: Share = 0.0
    """Of calls: they are done, and the answer comes `late_s` later."""
    late_s: Seconds = 180.0
    truncated: Share = 0.0
    """Of answers: only the first half arrives."""
    only: Literal["", "search", "create", "list", "show", "manage", "destroy", "execute"] = ""
    """The kind of calls to which these four happen; empty: to all."""
    lag_s: Seconds = 0.0
    """How old the list of instances is."""
    limits: Annotated[float, msgspec.Meta(ge=0, le=100)] = 1.0
    """Of the documented intervals between calls, how much is kept; 0: no limits."""
    searches_per_day: Annotated[int, msgspec.Meta(ge=0)] = 0
    """0: no limit."""
    credit_usd: float = 1e6
    """What the account may still spend."""
    moved_to: str = ""
    """An address to which every call is sent elsewhere."""


def changed(faults: Faults, values: object) -> Faults:
    """`faults` with other values, as `{name: value}`. Raises: BadRequest."""
    try:
        given = msgspec.convert(values, dict[str, str | float | int])
        return msgspec.convert({**msgspec.to_builtins(faults), **given}, Faults, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(f"faults: {error}; known are {', '.join(Faults.__struct_fields__)}") from None

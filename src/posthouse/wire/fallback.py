"""Fallbacks of aliases: the words for what they are, and for which errors."""

from typing import Final, Literal, get_args

EXTERNAL: Final = "external:"
"""What the name of a fallback begins with that is no endpoint of ours, but one of a gateway's externals."""
Fault = Literal["no_worker", "rate_limited", "failed", "too_long"]
"""A class of errors: no worker was free in time; workers put it off (429); it failed at workers; its prompt is longer
than the model's context."""
FAULTS: Final[tuple[Fault, ...]] = get_args(Fault)

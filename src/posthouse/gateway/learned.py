"""What requests that state no work came to: the next of the same kind announces as much."""

from collections import OrderedDict
from typing import Final

from posthouse.gateway.asked import GENERATING
from posthouse.gateway.counted import Usage

AFTER: Final = 5
"""Requests, after which their mean is announced; before that the server takes what is usual at the endpoint."""
MAX_KINDS: Final = 4096
_SHARE: Final = 0.1  # of the latest one in the mean, once there are many

Kind = tuple[str, str, str]
"""Of whose key, which model, at which path: callers do not move each other's means."""


class Learned:
    """Mean work of requests by kind, in tokens that were generated. The least recently used kinds go."""

    def __init__(self) -> None:
        self._means: OrderedDict[Kind, tuple[float, int]] = OrderedDict()

    def work(self, kind: Kind) -> float | None:
        """What one of this kind usually is; None where that is not known."""
        mean, count = self._means.get(kind, (0.0, 0))
        return round(mean, 1) if count >= AFTER and mean > 0 else None

    def counted(self, kind: Kind, usage: Usage) -> None:
        """One of this kind, which stated nothing, has come to its end."""
        _, _, path = kind
        if path not in GENERATING:
            return
        mean, count = self._means.pop(kind, (0.0, 0))
        mean += (usage.completion_tokens - mean) * max(_SHARE, 1 / (count + 1))
        self._means[kind] = mean, count + 1
        if len(self._means) > MAX_KINDS:
            self._means.popitem(last=False)

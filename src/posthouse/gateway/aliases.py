"""What a model's name stands for: the endpoint that a request goes to, and those that it falls back on."""

import random
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple

from posthouse.client.errors import ClientError, NotFound, Unauthorized
from posthouse.client.management import Management
from posthouse.gateway.errors import RETRY_S, Refused, refusal
from posthouse.gateway.server import Server
from posthouse.http1.reply import Reply
from posthouse.wire.rows import Alias

KNOWN_S: Final = 5.0
"""How long a key's aliases are used before they are asked for again: how late a change is known here."""
MAX_KEYS: Final = 1000
"""Keys whose aliases are remembered; the least recently used go."""
MAX_STEPS: Final = 16
"""Endpoints that one request is tried at."""
_MAX_LOOKS: Final = 256  # names that are looked up for them; more only where two servers made a circle at once

_TOO_LONG: Final = re.compile(
    rb"context_length_exceeded|exceed_context_size|maximum context length|maximum model length|maximum allowed length"
    rb"|available context size|longer than the (model's )?context",
    re.IGNORECASE,
)


class Step(NamedTuple):
    """An endpoint that a request may go to."""

    model: str
    faults: frozenset[str] = frozenset()
    """For which classes of errors of the endpoint before it."""
    wait_s: float | None = None
    """How long it waits here for a worker where another one may take it; None: as long as the gateway holds it."""


class Aliases:
    """The aliases that callers' keys reach, as they were a few seconds ago; to name an endpoint needs none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, draw: Callable[[], float] = random.random) -> None:
        self._clock = clock
        self._draw = draw
        self._known: OrderedDict[str, tuple[float, Mapping[str, Alias]]] = OrderedDict()
        self._adapted: OrderedDict[tuple[str, str], float] = OrderedDict()

    def known(self, key: str, model: str) -> Sequence[Step]:
        """Where a request goes; empty where it is not known that the model is an alias."""
        at, aliases = self._known.get(key, (0.0, {}))
        known = model in aliases and self._clock() < at + KNOWN_S
        return steps(aliases, model, self._draw) if known else ()

    async def find(self, server: Server, key: str, model: str) -> Sequence[Step]:
        """The same; empty where there is no such alias. Raises: Refused."""
        aliases = await self.all(server, key)
        return steps(aliases, model, self._draw) if model in aliases else ()

    def adapted(self, key: str, model: str, found: bool = False) -> bool:
        """Whether a part of this name is an adapter's, as was `found` a few seconds ago."""
        if found:
            self._adapted[key, model] = self._clock()
            if len(self._adapted) > MAX_KEYS:
                self._adapted.popitem(last=False)
        return (key, model) in self._adapted and self._clock() < self._adapted[key, model] + KNOWN_S

    async def all(self, server: Server, key: str) -> Mapping[str, Alias]:
        """Every alias of the key, by name, as it is now. Raises: Refused."""
        try:
            found = {row.name: row for row in await Management(server.with_key(key)).aliases()}
        except NotFound:  # a server of before there were any
            found = {}
        except ClientError as error:
            raise refusal(error) from None
        self._known[key] = self._clock(), found
        self._known.move_to_end(key)
        if len(self._known) > MAX_KEYS:
            self._known.popitem(last=False)
        return found


def steps(aliases: Mapping[str, Alias], model: str, draw: Callable[[], float]) -> Sequence[Step]:
    """The endpoints that a request for this model is tried at, in this order. `draw`: a number from 0 to below 1."""
    found, rest = list[Step](), [Step(model)]
    for _ in range(_MAX_LOOKS):
        if not rest or len(found) == MAX_STEPS:
            break
        step = rest.pop(0)
        if (alias := aliases.get(step.model)) is None:
            found.append(step)
            continue
        target = _drawn(alias, draw())
        rest[:0] = [
            Step(target, step.faults, alias.wait_s),
            *(Step(one.model, frozenset(one.faults), alias.wait_s) for one in alias.fallbacks),
        ]
    return found


def _drawn(alias: Alias, drawn: float) -> str:
    left = drawn * sum(target.weight for target in alias.targets)
    for target in alias.targets:
        left -= target.weight
        if left < 0:
            return target.model
    return alias.targets[-1].model


def too_long(status: int, said: bytes) -> bool:
    """Whether a worker refuses a prompt that is longer than its model's context; each engine has its own words."""
    return status in (400, 413, 422) and _TOO_LONG.search(said) is not None


async def first_good(
    steps: Sequence[Step], begin_at: Callable[[Step], Awaitable[tuple[Reply, bytes]]]
) -> tuple[Reply, bytes]:
    """The answer of the first of these endpoints, or of the next that takes what became of the one before.

    Raises: Refused.
    """
    while True:
        step, *steps = steps
        if all("no_worker" not in later.faults for later in steps):
            step = step._replace(wait_s=None)
        try:
            reply, first = await begin_at(step)
            if not too_long(reply.status, first) or not (steps := _after(steps, "too_long")):
                return reply, first
            reply.close()
        except (Unauthorized, NotFound):
            if not (steps := _after(steps, "no_worker")):
                raise Refused(503, "no_worker", f"the endpoint {step.model!r} is gone", retry_s=RETRY_S) from None
        except Refused as refused:
            if refused.fault is None or not (steps := _after(steps, refused.fault)):
                raise


def _after(steps: Sequence[Step], fault: str) -> Sequence[Step]:
    """The steps from the first that takes such an error."""
    return next((steps[number:] for number, step in enumerate(steps) if fault in step.faults), ())

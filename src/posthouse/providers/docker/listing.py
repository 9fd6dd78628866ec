"""A worker as it is listed: what an engine says of it, in Posthouse's words."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.errors import NotFound
from posthouse.providers.docker import layout
from posthouse.providers.docker.engine import Engine
from posthouse.providers.docker.layout import UNBEGUN, Found, Place
from posthouse.providers.docker.stock import Pull

LAST_LINES = 5
LATE_S = 0.5
NO_SHELL = ("exec /bin/sh failed: No such file", "failed to exec pid1: No such file")
"""What Docker's init prints, and podman's, where there is no shell."""


@dataclass(slots=True)
class Making:
    """A worker that has no container yet."""

    image: str
    place: Place
    pull: Pull | None = None
    task: asyncio.Task[None] | None = None
    """Launches it once its image is there."""
    error: str = ""

    @property
    def message(self) -> str:
        return f"pulling {self.image}: {layout.progress(self.pull.layers if self.pull else {})}"


class Misnamed:
    """Containers that run though their names say that they are meant to be stopped: their start was cut short."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def overdue(self, workers: Mapping[str, Found], after_s: float, now: float) -> list[Found]:
        """Those that were so for longer than a stop takes."""
        found = [label for label, worker in workers.items() if worker.halted and worker.state == "running"]
        self._since = {label: self._since.get(label, now) for label in found}
        return [workers[label] for label, since in self._since.items() if now - since > after_s]


async def seen(
    engine: Engine, worker: Found, making: Making | None, addresses: frozenset[str], moving: bool
) -> Instance:
    """The instance as it is listed. `moving`: a call of ours is about to start it."""
    label, message, progress = worker.place.label, "", ""
    begun = worker.container and worker.state not in UNBEGUN
    if begun and worker.state in layout.RUNNING:
        state = Observation.RUNNING
    elif moving:
        state = Observation.PROVISIONING
    elif worker.halted:
        state = Observation.HALTED
    elif begun:
        state, message = Observation.EXITED, await last_words(engine, worker.container)
    elif making is None or making.error:
        state = Observation.EXITED
        message = making.error if making else "it was cut short while it was made"
    else:
        state, message = Observation.PULLING, making.message
        progress = message
    return Instance(
        id=label,
        label=label,
        seen=state,
        addresses=addresses,
        progress=progress,
        message=message,
    )


async def last_words(engine: Engine, container: str) -> str:
    """How a container ended, and what it printed last."""
    try:
        state = (await engine.inspect(container))["State"]
        if not (lines := lines_of(await engine.logs(container, LAST_LINES))):
            await asyncio.sleep(LATE_S)  # podman lists a container as ended before it has all that was printed
            lines = lines_of(await engine.logs(container, LAST_LINES))
    except NotFound:
        return "it is gone"
    how = "out of memory" if state.get("OOMKilled") else state.get("Error") or f"exit code {state['ExitCode']}"
    printed = " | ".join(line.strip() for line in lines if line.strip())
    if any(words in printed for words in NO_SHELL):
        how = f"the image has no /bin/sh, which every worker needs; {how}"
    return f"{how}; the last output: {printed[-400:]}" if printed else f"{how}, without any output"


def lines_of(text: bytes) -> list[str]:
    return text.decode(errors="replace").splitlines(keepends=True)

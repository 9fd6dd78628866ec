"""Which workers a request must have, or is best at, from what its call of `/route/` prefers."""

import hashlib
from collections.abc import Mapping

from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.worker import Worker, WorkerId
from posthouse.engine.directory import Listed
from posthouse.engine.managed import ManagedEndpoint
from posthouse.errors import BadRequest
from posthouse.fleet.events import Wish
from posthouse.policy.capacity import ready
from posthouse.wire.route import NO_ADAPTER, NO_WORKER, Prefer

SHOWN = 20
"""Most names in a message."""


def wish(managed: ManagedEndpoint, prefer: Prefer) -> tuple[Wish, Mapping[str, str]]:
    """The wish; and what workers call the adapter, by their addresses. Raises: BadRequest where no one has it."""
    key = 0
    if prefer.key:
        key = int.from_bytes(hashlib.blake2b(prefer.key.encode(errors="replace"), digest_size=8).digest())
    if prefer.worker:
        _check_there(managed, WorkerId(prefer.worker))
    if not prefer.adapter:
        return Wish(key, frozenset({WorkerId(prefer.worker)}) if prefer.worker else None), {}
    there = [one for one in _holders(managed, prefer.adapter) if prefer.worker in (0, one[0].id)]
    return Wish(key, frozenset(worker.id for worker, _ in there)), {worker.url: word for worker, word in there}


def _check_there(managed: ManagedEndpoint, worker_id: WorkerId) -> None:
    """Raises: BadRequest where the worker has lost what it kept, or takes no requests any more."""
    worker = managed.fleet.workers.get(worker_id)
    if worker is None or worker.goal is not Goal.HOT or worker.state not in (State.IDLE, State.UNAVAIL):
        name = managed.fleet.endpoint.name
        raise BadRequest(f"{NO_WORKER} with the number {worker_id} of {name!r} that takes requests")


def _holders(managed: ManagedEndpoint, adapter: str) -> list[tuple[Worker, str]]:
    """The ready workers that hold it, and what each calls it.

    Nobody while none is ready, or one has not said yet what it holds. Raises: BadRequest where all have, and none does.
    """
    there = [(worker, managed.worker_stats(worker.id).adapters) for worker in ready(managed.fleet.workers.values())]
    found = [(worker, held[adapter]) for worker, held in there if held and adapter in held]
    if there and not found and all(held is not None for _, held in there):
        known = ", ".join(map(repr, _held(managed)[:SHOWN])) or "none"
        raise BadRequest(f"{NO_ADAPTER} of {managed.fleet.endpoint.name!r} holds {adapter!r}; they hold: {known}")
    return found


def held_at(listed: Listed | None) -> list[str]:
    """The adapters that ready workers of an endpoint hold; none where another server has it."""
    return [] if listed is None or listed.managed is None else _held(listed.managed)


def _held(managed: ManagedEndpoint) -> list[str]:
    there = (managed.worker_stats(worker.id).adapters or () for worker in ready(managed.fleet.workers.values()))
    return sorted({name for held in there for name in held})

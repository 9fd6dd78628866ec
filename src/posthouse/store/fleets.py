"""Fleets, their workers and the journal in the database."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Row, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, EndpointId
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.offer import Capabilities, Price
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId
from posthouse.errors import StaleVersion
from posthouse.ports import FleetRecord, JournalEntry, PeriodRecord
from posthouse.store.checksums import ALIVE, checksum, fields_of, sum_of, with_checksum
from posthouse.store.database import Backend, Database
from posthouse.store.schema import endpoints, fleets, installation, journal, periods, workers

JOURNAL_KEEP = 5000
"""Entries kept per endpoint: over an hour of decisions at one a second."""
DESTROYED_KEEP = 200
"""Destroyed workers kept per endpoint, for people to look at."""
LEARN_FROM = 50
"""Destroyed workers that were measured, handed back with a fleet: enough to know what each kind of machine can do."""
SHOW = 100
"""The latest destroyed workers, handed back whatever became of them: for a day people want to see what failed."""
LATEST = 1e11
"""No time is later: one that is comes from a damaged row, and a clock that began there would stand still."""
UNKNOWN = "-"
"""The build of a worker whose version nobody knows, and the zone of one of which nobody knows where it is."""
NOBODY = "-"
"""No server."""
TRIM_EVERY = 100
"""Commits of a fleet between two trims: the bounds above may be exceeded by what so many commits add."""


class SqlFleets(Database):
    """The `Fleets` port."""

    def __init__(self, backend: Backend, journal_keep: int, destroyed_keep: int) -> None:
        super().__init__(backend)
        self._journal_keep = journal_keep
        self._destroyed_keep = destroyed_keep

    async def open_fleet(self, endpoint_id: EndpointId, epoch: int) -> FleetRecord:
        return (await self.open_fleets({endpoint_id: epoch}))[endpoint_id]

    async def open_fleets(self, epochs: Mapping[EndpointId, int]) -> Mapping[EndpointId, FleetRecord]:
        async with self._transaction() as db:
            found = await _fence(db, epochs)
            kept: dict[EndpointId, list[Worker]] = {endpoint_id: [] for endpoint_id in epochs}
            for row in await db.execute(_kept_workers(epochs)):
                kept[row.endpoint_id].append(worker_of(row))
            return {endpoint_id: _record(found[endpoint_id], kept[endpoint_id]) for endpoint_id in epochs}

    async def fleet_ids(self) -> Sequence[EndpointId]:
        alive = select(workers.c.endpoint_id).where(ALIVE)
        return await self._all(
            alive.distinct().order_by(workers.c.endpoint_id), lambda row: EndpointId(row.endpoint_id)
        )

    async def workers_labelled(self, labels: Collection[str]) -> Mapping[str, EndpointId]:
        if not labels:
            return {}
        query = select(workers.c.label, workers.c.endpoint_id).where(ALIVE, workers.c.label.in_(labels))
        return dict(await self._all(query, lambda row: (str(row.label), EndpointId(row.endpoint_id))))

    async def living_workers(self, but: Collection[EndpointId]) -> Sequence[Worker]:
        return await self._all(select(workers).where(ALIVE, workers.c.endpoint_id.not_in(but)), worker_of)

    async def take_worker_ids(self, count: int, above: int) -> WorkerId:
        async with self._transaction() as db:
            last = await db.scalar(select(installation.c.last_worker_id).with_for_update())
            highest = await db.scalar(select(func.max(workers.c.id)))
            first = max(last or 0, highest or 0, above) + 1
            await db.execute(update(installation).values(last_worker_id=first + count - 1))
            return WorkerId(first)

    async def commit(
        self,
        endpoint_id: EndpointId,
        expected_version: int,
        epoch: int,
        workers: Sequence[Worker],
        entry: JournalEntry | None,
        rollouts: Sequence[Rollout] = (),
    ) -> int:
        version = expected_version + 1
        async with self._transaction() as db:
            await _advance(db, endpoint_id, expected_version, epoch, workers)
            await _replace(db, endpoint_id, workers)
            if rollouts:
                text = msgspec.json.encode(rollouts).decode()
                await db.execute(update(fleets).where(fleets.c.endpoint_id == endpoint_id).values(rollouts=text))
            await _sum_up(db, endpoint_id)
            if entry is not None:
                assert entry.endpoint_id == endpoint_id
                await db.execute(insert(journal).values(asdict(entry)))
            if version % TRIM_EVERY == 0:
                await self._trim(db, endpoint_id)
        return version

    async def journal(self, endpoint_id: EndpointId, limit: int) -> Sequence[JournalEntry]:
        newest = (
            select(journal.c.endpoint_id, journal.c.at, journal.c.body)
            .where(journal.c.endpoint_id == endpoint_id)
            .order_by(journal.c.id.desc())
            .limit(max(0, limit))
        )
        return await self._all(newest, lambda row: JournalEntry(**row._mapping))

    async def spent_usd(self) -> Mapping[EndpointId, float]:
        query = select(fleets.c.endpoint_id, fleets.c.spent_usd)
        return dict(await self._all(query, lambda row: (EndpointId(row.endpoint_id), float(row.spent_usd))))

    async def periods(self) -> Sequence[PeriodRecord]:
        return await self._all(select(periods), lambda row: PeriodRecord(**fields_of(row)))

    async def put_periods(self, records: Sequence[PeriodRecord]) -> None:
        async with self._transaction() as db:
            for record in records:
                of_it = (periods.c.endpoint_id == record.endpoint_id, periods.c.kind == record.kind)
                await db.execute(delete(periods).where(*of_it))
                await db.execute(insert(periods).values(with_checksum(periods, asdict(record))))

    async def latest_at(self) -> float:
        times = (workers.c.since, workers.c.progressed_at, workers.c.outdated_at, journal.c.at)
        async with self._transaction() as db:
            return max([await db.scalar(select(func.max(column)).where(column < LATEST)) or 0.0 for column in times])

    async def _trim(self, db: AsyncConnection, endpoint_id: EndpointId) -> None:
        """Deletes the oldest of what is kept within bounds."""
        entries = select(journal.c.id).where(journal.c.endpoint_id == endpoint_id).order_by(journal.c.id.desc())
        await db.execute(delete(journal).where(journal.c.id.in_(entries.offset(self._journal_keep))))
        destroyed = (
            select(workers.c.id)
            .where(workers.c.endpoint_id == endpoint_id, ~ALIVE)
            .order_by(workers.c.since.desc(), workers.c.id.desc())
        )
        await db.execute(delete(workers).where(workers.c.id.in_(destroyed.offset(self._destroyed_keep))))


def _record(fleet: Mapping[str, Any], kept: Sequence[Worker]) -> FleetRecord:
    rollouts = msgspec.json.decode(fleet["rollouts"], type=tuple[Rollout, ...])
    return FleetRecord(fleet["version"], tuple(kept), fleet["spent_usd"], fleet["account_id"], rollouts)


def _kept_workers(endpoint_ids: Iterable[EndpointId]) -> Any:
    """The query for workers alive of each, the latest destroyed ones, and the latest of these that were measured."""
    of_them = workers.c.endpoint_id.in_(endpoint_ids)
    latest_first = workers.c.since.desc(), workers.c.id.desc()
    rank = func.row_number().over(partition_by=workers.c.endpoint_id, order_by=latest_first).label("rank")

    def latest(count: int, *where: ColumnElement[bool]) -> Any:
        ranked = select(workers.c.id, rank).where(of_them, ~ALIVE, *where).subquery()
        return workers.c.id.in_(select(ranked.c.id).where(ranked.c.rank <= count))

    kept = or_(ALIVE, latest(SHOW), latest(LEARN_FROM, workers.c.perf > 0))
    return select(workers).where(of_them, kept).order_by(workers.c.id)


async def _fence(db: AsyncConnection, epochs: Mapping[EndpointId, int]) -> Mapping[EndpointId, Mapping[str, Any]]:
    """Raises the epochs of fleets; their rows. Raises: StaleVersion if one is an old one."""
    query = select(fleets).where(fleets.c.endpoint_id.in_(epochs)).order_by(fleets.c.endpoint_id)
    found = {row.endpoint_id: dict(row._mapping) for row in await db.execute(query.with_for_update())}
    for endpoint_id, epoch in epochs.items():
        if endpoint_id not in found:
            found[endpoint_id] = await _add_fleet(db, endpoint_id, epoch)
        elif found[endpoint_id]["epoch"] > epoch:
            raise StaleVersion(f"the fleet of endpoint {endpoint_id} was opened under a later epoch than {epoch}")
        elif found[endpoint_id]["epoch"] < epoch:
            await db.execute(update(fleets).where(fleets.c.endpoint_id == endpoint_id).values(epoch=epoch))
    return found


async def _add_fleet(db: AsyncConnection, endpoint_id: int, epoch: int) -> dict[str, Any]:
    """The row of a fleet of which nothing is known yet."""
    owner = await db.scalar(select(endpoints.c.account_id).where(endpoints.c.id == endpoint_id))
    row = new_fleet(endpoint_id, AccountId(owner or DEFAULT_ACCOUNT), epoch)
    await db.execute(insert(fleets).values(with_checksum(fleets, row)))
    return row


def new_fleet(endpoint_id: int, account_id: int, epoch: int) -> dict[str, Any]:
    """The row of a fleet that nothing is known of yet."""
    of_it: dict[str, Any] = {"endpoint_id": endpoint_id, "account_id": account_id, "epoch": epoch}
    return {**of_it, "version": 0, "spent_usd": 0.0, "rollouts": "[]", "server": NOBODY}


async def _replace(db: AsyncConnection, endpoint_id: int, changed: Sequence[Worker]) -> None:
    """Inserts workers, or replaces those that are there."""
    if not changed:
        return
    assert all(worker.endpoint_id == endpoint_id for worker in changed)
    await db.execute(
        delete(workers).where(workers.c.id == bindparam("worker_id")), [{"worker_id": w.id} for w in changed]
    )
    await db.execute(insert(workers), [worker_row(worker) for worker in changed])


async def _sum_up(db: AsyncConnection, endpoint_id: int) -> None:
    """Writes the checksum of a fleet: of its own row, and of its living workers."""
    of_it = fleets.c.endpoint_id == endpoint_id
    own = checksum(fleets, dict((await db.execute(select(fleets).where(of_it))).one()._mapping))
    alive = sum_of(workers, workers.c.endpoint_id == endpoint_id, ALIVE)
    await db.execute(update(fleets).where(of_it).values(checksum=alive + own))


async def _advance(
    db: AsyncConnection, endpoint_id: int, expected_version: int, epoch: int, changed: Sequence[Worker]
) -> None:
    """Raises a fleet's version by one and notes what destroyed workers spent.

    A worker is committed once as DESTROYED, so its spend is added once. Raises: StaleVersion.
    """
    spent_usd = sum(w.spent_usd for w in changed if w.state is State.DESTROYED)
    if expected_version == 0:
        with suppress(IntegrityError):  # it was opened, or somebody else committed
            async with db.begin_nested():
                await _add_fleet(db, endpoint_id, epoch)
    result = await db.execute(
        update(fleets)
        .where(fleets.c.endpoint_id == endpoint_id, fleets.c.version == expected_version, fleets.c.epoch <= epoch)
        .values(version=expected_version + 1, epoch=epoch, spent_usd=fleets.c.spent_usd + spent_usd)
    )
    if not result.rowcount:
        raise StaleVersion(
            f"the fleet of endpoint {endpoint_id} is not at version {expected_version}, or opened after epoch {epoch}"
        )


def worker_row(worker: Worker) -> dict[str, Any]:
    """A worker as its table has it."""
    row = asdict(worker)
    row |= row.pop("price")
    row |= {"state": worker.state.value, "goal": worker.goal.value, "addresses": sorted(worker.addresses)}
    row |= {"build": worker.build or UNKNOWN, "zone": worker.zone or UNKNOWN}
    return with_checksum(workers, row)


def worker_of(row: Row[Any]) -> Worker:
    """A worker from its row."""
    values = fields_of(row)
    price = Price(**{field.name: values.pop(field.name) for field in fields(Price)})
    return Worker(
        **values
        | {
            "price": price,
            "state": State(values["state"]),
            "goal": Goal(values["goal"]),
            "addresses": frozenset(values["addresses"]),
            **{name: "" if values[name] == UNKNOWN else values[name] for name in ("build", "zone")},
            "capabilities": Capabilities(**values["capabilities"]),
        },
    )

"""What survives a crash: a store in memory that answers as the SQL store does, and a connection to it that may fail."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from posthouse.audit import Act
from posthouse.domain.endpoint import DEFAULT_ACCOUNT, AccountId, Endpoint, EndpointId, WorkergroupId
from posthouse.domain.lifecycle import State
from posthouse.domain.rollout import Rollout
from posthouse.domain.worker import Worker, WorkerId
from posthouse.errors import BadRequest, NotFound, StaleVersion
from posthouse.keys import KeyRecord
from posthouse.ports import DEFAULT_ACCOUNT_NAME, Account, FleetRecord, JournalEntry, PeriodRecord
from posthouse.store.fleets import LEARN_FROM, SHOW
from posthouse.template import Runs, Template, TemplateId, Workergroup
from posthouse.users import SessionRecord, UserRecord
from posthouse.wire.rows import Alias

DESTROYED_KEEP = 2 * SHOW
"""Destroyed workers kept of each endpoint; more than are handed back."""

Row = TypeVar("Row", Endpoint, Workergroup, Template)


class Disk:
    """Every method is one transaction, and happens whole or not at all."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, Any]] = {"endpoint": {}, "workergroup": {}, "template": {}}
        self._last_id = dict.fromkeys(self._rows, 0)
        self._versions: dict[EndpointId, int] = {}
        self._spent: dict[EndpointId, float] = {}
        self._workers: dict[EndpointId, dict[WorkerId, Worker]] = {}
        self._journal: dict[EndpointId, list[JournalEntry]] = {}
        self._last_worker_id = 0
        self._epoch = 0
        self._revisions: Counter[str] = Counter()
        self.epochs: dict[EndpointId, int] = {}
        self._periods: dict[tuple[EndpointId, str], PeriodRecord] = {}
        self._rollouts: dict[EndpointId, tuple[Rollout, ...]] = {}
        self._kept: dict[str, Runs] = {}

    # -- all of it, to be written elsewhere and read again -------------------------------------------------------------

    def workers(self) -> list[Worker]:
        return [worker for fleet in self._workers.values() for worker in fleet.values()]

    def fleets(self) -> list[dict[str, Any]]:
        known = self._versions.keys() | self.epochs.keys()
        return [
            {
                "endpoint_id": endpoint_id,
                "account_id": DEFAULT_ACCOUNT,
                "epoch": self.epochs.get(endpoint_id, 0),
                "version": self._versions.get(endpoint_id, 0),
                "spent_usd": self._spent.get(endpoint_id, 0.0),
                "rollouts": msgspec.json.encode(self._rollouts.get(endpoint_id, ())).decode(),
            }
            for endpoint_id in sorted(known)
        ]

    def counters(self) -> tuple[int, int]:
        return self._epoch, self._last_worker_id

    def take(
        self,
        endpoints: list[Endpoint],
        templates: list[Template],
        groups: list[Workergroup],
        workers: list[Worker],
    ) -> None:
        """Takes in rows that were read."""
        for kind, rows in (("endpoint", endpoints), ("template", templates), ("workergroup", groups)):
            self._rows[kind] = {row.id: row for row in rows}
            self._last_id[kind] = max(self._rows[kind], default=0)
        for worker in workers:
            self._workers.setdefault(worker.endpoint_id, {})[worker.id] = worker

    def take_fleet(
        self, endpoint_id: EndpointId, version: int, epoch: int, spent_usd: float, rollouts: tuple[Rollout, ...]
    ) -> None:
        self._versions[endpoint_id], self.epochs[endpoint_id] = version, epoch
        self._rollouts[endpoint_id] = rollouts
        self._spent[endpoint_id] = spent_usd

    def versions(self) -> dict[str, Runs]:
        return {**self._kept}

    def take_versions(self, kept: dict[str, Runs]) -> None:
        self._kept = kept

    def take_journal(self, disk: "Disk") -> None:
        self._journal = disk._journal

    def take_counters(self, epoch: int, last_worker_id: int) -> None:
        self._epoch, self._last_worker_id = epoch, last_worker_id

    # -- the port ------------------------------------------------------------------------------------------------------

    def installation(self) -> str:
        return "disk"

    def next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch

    def revisions(self) -> dict[str, int]:
        kinds = (
            "accounts",
            "endpoints",
            "workergroups",
            "templates",
            "keys",
            "secrets",
            "aliases",
            "users",
            "sessions",
        )
        return dict.fromkeys(kinds, 0) | self._revisions

    def accounts(self) -> list[Account]:
        return [Account(DEFAULT_ACCOUNT, DEFAULT_ACCOUNT_NAME)]

    def keys(self) -> list[KeyRecord]:
        return []

    def users(self) -> list[UserRecord]:
        return []

    def sessions(self) -> list[SessionRecord]:
        return []

    def secrets(self) -> dict[AccountId, dict[str, str]]:
        return {}

    def aliases(self) -> dict[AccountId, dict[str, Alias]]:
        return {}

    def endpoints(self) -> list[Endpoint]:
        return list(self._rows["endpoint"].values())

    def add_endpoint(self, endpoint: Endpoint) -> Endpoint:
        return self._add("endpoint", endpoint, "name")

    def put_endpoint(self, endpoint: Endpoint) -> Endpoint:
        return self._put("endpoint", endpoint, "name")

    def drop_endpoint(self, endpoint_id: EndpointId) -> None:
        if endpoint_id not in self._rows["endpoint"]:
            raise NotFound(f"there is no endpoint {endpoint_id}")
        for left in [i for i in self._workers if i not in self._rows["endpoint"] and i not in self.fleet_ids()]:
            del self._workers[left]
            self._journal.pop(left, None)
        self._drop("endpoint", endpoint_id)
        for group in [g for g in self.workergroups() if g.endpoint_id == endpoint_id]:
            del self._rows["workergroup"][group.id]

    def workergroups(self) -> list[Workergroup]:
        return list(self._rows["workergroup"].values())

    def add_workergroup(self, group: Workergroup) -> Workergroup:
        self._check_home(group)
        return self._add("workergroup", group, "")

    def put_workergroup(self, group: Workergroup) -> Workergroup:
        known = self._rows["workergroup"].get(group.id)
        if known is not None and known.revision == group.revision:
            self._check_home(group)
        return self._put("workergroup", group, "")

    def drop_workergroup(self, group_id: WorkergroupId) -> None:
        self._drop("workergroup", group_id)

    def templates(self) -> list[Template]:
        return list(self._rows["template"].values())

    def add_template(self, template: Template) -> Template:
        return self._add("template", template, "hash_id")

    def put_template(self, template: Template) -> Template:
        before = self._rows["template"].get(template.id)
        after = self._put("template", template, "hash_id")
        self._keep_version(before)
        return after

    def version(self, build: str) -> Runs | None:
        return self._kept.get(build)

    def _keep_version(self, template: Template | None) -> None:
        if template is not None:
            self._kept[template.build()] = template.runs()

    def drop_template(self, template_id: TemplateId) -> None:
        if any(g.template_id == template_id for g in self.workergroups()):
            raise BadRequest(f"template_id {template_id} is used by a workergroup: remove that first")
        before = self._rows["template"].get(template_id)
        self._drop("template", template_id)
        self._keep_version(before)

    def open_fleet(self, endpoint_id: EndpointId, epoch: int) -> FleetRecord:
        if self.epochs.get(endpoint_id, 0) > epoch:
            raise StaleVersion(f"fleet {endpoint_id} was opened under a later epoch")
        self.epochs[endpoint_id] = epoch
        rows = self._workers.get(endpoint_id, {}).values()
        gone = sorted((w for w in rows if w.state is State.DESTROYED), key=lambda w: (-w.since, -w.id))
        told = {w.id for w in [*gone[:SHOW], *[w for w in gone if w.perf > 0][:LEARN_FROM]]}
        kept = tuple(sorted((w for w in rows if w.state is not State.DESTROYED or w.id in told), key=lambda w: w.id))
        version, spent_usd = self._versions.get(endpoint_id, 0), self._spent.get(endpoint_id, 0.0)
        return FleetRecord(version, kept, spent_usd, rollouts=self._rollouts.get(endpoint_id, ()))

    def open_fleets(self, epochs: Mapping[EndpointId, int]) -> dict[EndpointId, FleetRecord]:
        return {endpoint_id: self.open_fleet(endpoint_id, epoch) for endpoint_id, epoch in epochs.items()}

    def fleet_ids(self) -> list[EndpointId]:
        return sorted(
            i for i, rows in self._workers.items() if any(w.state is not State.DESTROYED for w in rows.values())
        )

    def has_label(self, label: str) -> bool:
        """Whether a worker with this label was ever written, as far back as rows are kept."""
        return any(w.label == label for fleet in self._workers.values() for w in fleet.values())

    def workers_labelled(self, labels: Collection[str]) -> dict[str, EndpointId]:
        rows = [w for fleet in self._workers.values() for w in fleet.values() if w.state is not State.DESTROYED]
        return {w.label: w.endpoint_id for w in rows if w.label in labels}

    def living_workers(self, but: Collection[EndpointId]) -> list[Worker]:
        return [w for w in self.workers() if w.state is not State.DESTROYED and w.endpoint_id not in but]

    def count_alive(self, endpoint_id: EndpointId) -> int:
        return sum(w.state is not State.DESTROYED for w in self._workers.get(endpoint_id, {}).values())

    def take_worker_ids(self, count: int, above: int) -> WorkerId:
        first = max(self._last_worker_id, above, *(worker.id for worker in self.workers()), 0) + 1
        self._last_worker_id = first + count - 1
        return WorkerId(first)

    def commit(
        self,
        endpoint_id: EndpointId,
        expected_version: int,
        epoch: int,
        workers: tuple[Worker, ...],
        entry: JournalEntry | None,
        rollouts: tuple[Rollout, ...] = (),
    ) -> int:
        if self._versions.get(endpoint_id, 0) != expected_version or self.epochs.get(endpoint_id, 0) > epoch:
            raise StaleVersion(f"fleet {endpoint_id} is not at version {expected_version} or of a later epoch")
        self.epochs[endpoint_id] = epoch
        version = self._versions[endpoint_id] = expected_version + 1
        if rollouts:
            self._rollouts[endpoint_id] = rollouts
        rows = self._workers.setdefault(endpoint_id, {})
        for worker in workers:
            for fleet in self._workers.values():
                fleet.pop(worker.id, None)  # one that was destroyed elsewhere, and is adopted
            rows[worker.id] = worker
            if worker.state is State.DESTROYED:
                self._spent[endpoint_id] = self._spent.get(endpoint_id, 0.0) + worker.spent_usd
        if len(rows) > 2 * DESTROYED_KEEP:
            gone = sorted((w for w in rows.values() if w.state is State.DESTROYED), key=lambda w: (-w.since, -w.id))
            for worker in gone[DESTROYED_KEEP:]:
                del rows[worker.id]
        if entry is not None:
            self._journal.setdefault(endpoint_id, []).append(entry)
            del self._journal[endpoint_id][:-DESTROYED_KEEP]
        return version

    def spent_usd(self) -> dict[EndpointId, float]:
        return {**self._spent}

    def periods(self) -> list[PeriodRecord]:
        return list(self._periods.values())

    def put_periods(self, records: list[PeriodRecord]) -> None:
        self._periods |= {(r.endpoint_id, r.kind): r for r in records}

    def note(self, act: Act) -> None:
        """What people did is of no consequence here."""

    def latest_at(self) -> float:
        rows = [w for fleet in self._workers.values() for w in fleet.values()]
        times = [t for w in rows for t in (w.since, w.progressed_at, w.outdated_at)]
        return max([0.0, *times, *(e.at for entries in self._journal.values() for e in entries)])

    def journal(self, endpoint_id: EndpointId, limit: int) -> list[JournalEntry]:
        return self._journal.get(endpoint_id, [])[::-1][: max(0, limit)]

    def _add(self, kind: str, row: Row, unique: str) -> Row:
        self._check_unique(kind, row, unique)
        row_id = row.id
        if row_id == 0:
            row_id = self._last_id[kind] + 1  # type: ignore[assignment]
        self._last_id[kind] = max(self._last_id[kind], row_id)
        row = replace(row, id=row_id)
        self._rows[kind][row_id] = row
        self._revisions[f"{kind}s"] += 1
        return row

    def _put(self, kind: str, row: Row, unique: str) -> Row:
        known = self._rows[kind].get(row.id)
        if known is None:
            raise NotFound(f"there is no {kind} {row.id}")
        if known.revision != row.revision:
            raise StaleVersion(f"{kind} {row.id} has been changed meanwhile")
        self._check_unique(kind, row, unique)
        row = self._rows[kind][row.id] = replace(row, revision=row.revision + 1)
        self._revisions[f"{kind}s"] += 1
        return row

    def _drop(self, kind: str, row_id: int) -> None:
        if self._rows[kind].pop(row_id, None) is None:
            raise NotFound(f"there is no {kind} {row_id}")
        self._revisions[f"{kind}s"] += 1

    def _check_unique(self, kind: str, row: Row, unique: str) -> None:
        others = [r for r in self._rows[kind].values() if r.id != row.id]
        if unique and any(getattr(r, unique) == getattr(row, unique) for r in others):
            raise BadRequest(f"{unique} {getattr(row, unique)!r} is taken: choose another")

    def _check_home(self, group: Workergroup) -> None:
        if group.endpoint_id not in self._rows["endpoint"] or group.template_id not in self._rows["template"]:
            raise NotFound(f"there is no endpoint_id {group.endpoint_id} or no template_id {group.template_id}")


class Connection:
    """The `Store` port to a disk: every call has await points before and after it happens."""

    def __init__(self, disk: Disk, before: Callable[[str, tuple[Any, ...]], Awaitable[None]]) -> None:
        self._disk = disk
        self._before = before

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._disk, name)

        async def call(*args: Any) -> Any:
            await self._before(name, args)
            result = method(*args)
            await asyncio.sleep(0)
            return result

        return call

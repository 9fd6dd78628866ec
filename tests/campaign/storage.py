"""What is on the disk as the file of a real store, and what may become of that: pages break, or a backup comes back."""

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, Table, create_engine, delete, event, insert, select, update
from sqlalchemy.exc import DBAPIError

from posthouse.domain.endpoint import EndpointId
from posthouse.domain.lifecycle import State
from posthouse.domain.rollout import Rollout
from posthouse.store import schema
from posthouse.store.catalogue import endpoint_of, endpoint_row
from posthouse.store.checksums import ALIVE, checksum, fields_of, sum_of, with_checksum
from posthouse.store.fleets import worker_of, worker_row
from posthouse.store.integrity import Damaged
from posthouse.store.sql import open_schema
from posthouse.store.sqlite import check_pages
from posthouse.template import Template, Workergroup
from tests.campaign.disk import Disk
from tests.kit.pages import WAYS, damaged

BACKUP = "backup"
FAULTS = (*WAYS, BACKUP, BACKUP)
KEPT = 12
"""Backups that are kept."""
CATALOGUE = (schema.endpoints, schema.templates, schema.workergroups)


class Storage:
    """The file of one day's store, rewritten row by row as the disk changes, and its backups."""

    def __init__(self, seed: int) -> None:
        self.random = Random(f"storage {seed}")
        self.backups: list[bytes] = []
        self._now = b""
        self._rows: dict[tuple[str, object], Mapping[str, Any]] = {}

    def back_up(self, disk: Disk) -> None:
        """Keeps the file as it is."""
        self._write(disk)
        self.backups = [*self.backups[-KEPT + 1 :], self._now]

    def fault(self, disk: Disk) -> tuple[str, Disk | None]:
        """What happens to the file, and what is on the disk then; None where it is refused.

        Raises: AssertionError where the store takes for whole what is not.
        """
        self._write(disk)
        kind = self.random.choice(FAULTS)
        if kind == BACKUP:
            return kind, self.restored()
        broken = damaged(self.random, self._now, self.random.choice(self.backups), kind)
        try:
            found = _read(broken)
        except (Damaged, DBAPIError, ValueError, TypeError):
            return kind, None
        assert _content(found) == _content(disk), f"{kind}: the store says that nothing is wrong"
        found.take_journal(disk)
        return kind, found

    def restored(self) -> Disk:
        """What a backup has."""
        self._now = self.random.choice(self.backups)
        self._rows = {}
        return _read(self._now)

    def _write(self, disk: Disk) -> None:
        with tempfile.TemporaryDirectory(dir=_folder()) as folder:
            path = Path(folder) / "posthouse.db"
            path.write_bytes(self._now)
            engine = _engine(path)
            with engine.begin() as db:
                open_schema(db, check_pages)
                rows = _rows(disk)
                if not self._rows:
                    for table in (*reversed(CATALOGUE), schema.fleets, schema.workers, schema.versions):
                        db.execute(delete(table))
                for table, key in self._rows.keys() - rows.keys():
                    db.execute(delete(_table(table)).where(_key(_table(table)) == key))
                for (table, key), row in rows.items():
                    if self._rows.get((table, key)) != row:
                        db.execute(delete(_table(table)).where(_key(_table(table)) == key))
                        db.execute(insert(_table(table)).values(row))
                _sum_up(db, disk)
            engine.dispose()
            self._now, self._rows = path.read_bytes(), rows


def _read(file: bytes) -> Disk:
    """What is in the file. Raises: what the store raises where it refuses one."""
    with tempfile.TemporaryDirectory(dir=_folder()) as folder:
        path = Path(folder) / "posthouse.db"
        path.write_bytes(file)
        engine = _engine(path)
        try:
            with engine.begin() as db:
                open_schema(db, check_pages)
                disk = Disk()
                disk.take(
                    [endpoint_of(row) for row in db.execute(select(schema.endpoints))],
                    [Template(**fields_of(row)) for row in db.execute(select(schema.templates))],
                    [Workergroup(**fields_of(row)) for row in db.execute(select(schema.workergroups))],
                    [worker_of(row) for row in db.execute(select(schema.workers))],
                )
                for row in db.execute(select(schema.fleets)):
                    rollouts = msgspec.json.decode(row.rollouts, type=tuple[Rollout, ...])
                    disk.take_fleet(EndpointId(row.endpoint_id), row.version, row.epoch, row.spent_usd, rollouts)
                kept = db.execute(select(schema.versions)).all()
                disk.take_versions({row.build: (row.image, row.tag, row.env, row.onstart) for row in kept})
                disk.take_counters(*db.execute(select(*_counters())).one())
        finally:
            engine.dispose()
    return disk


def _counters() -> tuple[Any, Any]:
    return schema.installation.c.epoch, schema.installation.c.last_worker_id


def _rows(disk: Disk) -> dict[tuple[str, object], Mapping[str, Any]]:
    """Every row with its checksum, by table and key."""
    rows: dict[tuple[str, object], Mapping[str, Any]] = {}
    for template in disk.templates():
        rows["templates", template.id] = with_checksum(schema.templates, asdict(template))
    for endpoint in disk.endpoints():
        rows["endpoints", endpoint.id] = with_checksum(schema.endpoints, endpoint_row(endpoint))
    for group in disk.workergroups():
        rows["workergroups", group.id] = with_checksum(schema.workergroups, asdict(group))
    for worker in disk.workers():
        rows["workers", worker.id] = worker_row(worker)
    for fleet in disk.fleets():
        rows["fleets", fleet["endpoint_id"]] = fleet
    for build, runs in disk.versions().items():
        row = {"build": build, **dict(zip(("image", "tag", "env", "onstart"), runs, strict=True))}
        rows["versions", build] = with_checksum(schema.versions, row)
    return rows


def _sum_up(db: Connection, disk: Disk) -> None:
    for table in CATALOGUE:
        topic = schema.revisions.c.topic == table.name
        db.execute(update(schema.revisions).where(topic).values(checksum=sum_of(table)))
    for fleet in disk.fleets():
        alive = sum_of(schema.workers, schema.workers.c.endpoint_id == fleet["endpoint_id"], ALIVE)
        of_it = schema.fleets.c.endpoint_id == fleet["endpoint_id"]
        db.execute(update(schema.fleets).where(of_it).values(checksum=alive + checksum(schema.fleets, fleet)))
    epoch, last_worker_id = disk.counters()
    db.execute(update(schema.installation).values(epoch=epoch, last_worker_id=last_worker_id))


def _content(disk: Disk) -> list[Any]:
    """What decisions rest on."""
    alive = [worker for worker in disk.workers() if worker.state is not State.DESTROYED]
    return [
        *(sorted(rows, key=lambda row: row.id) for rows in (disk.endpoints(), disk.templates(), disk.workergroups())),
        sorted(alive, key=lambda worker: worker.id),
    ]


def _table(name: str) -> Table:
    return schema.metadata.tables[name]


def _key(table: Table) -> Any:
    return next(iter(table.primary_key))


def _folder() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", connect_args={"isolation_level": None})
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine

"""A damaged database is refused in words, or nothing of it is lost: whatever is wrong with a page of it."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Double, Integer

from posthouse.domain.endpoint import DEFAULT_ACCOUNT, EndpointId
from posthouse.domain.lifecycle import State
from posthouse.errors import Refused
from posthouse.keys import KeyRecord
from posthouse.store import open_store
from posthouse.store.schema import fleets, installation, keys, revisions
from posthouse.store.sql import SqlStore
from tests.kit.pages import WAYS, damaged
from tests.kit.rows import add_group, entry, sqlite_url, worker

CASES = 12
"""Of each way. All pages in all ways are some thousand."""


async def everything(store: SqlStore) -> list[Any]:
    """What decisions rest on."""
    catalogue = [await store.endpoints(), await store.templates(), await store.workergroups(), await store.secrets()]
    fleets = [await store.open_fleet(endpoint_id, 1) for endpoint_id in await store.fleet_ids()]
    return [await store.installation(), await store.accounts(), await store.keys(), *catalogue, fleets]


async def made(path: Path) -> tuple[bytes, bytes, list[Any]]:
    """The file of a store as it was, as it is, and what is in it."""
    store = await open_store(sqlite_url(path))
    groups = [await add_group(store, name) for name in ("first", "second")]
    await store.add_key(KeyRecord("0123abcd", "first", "admin", "digest", 1.0))
    await store.put_secret(DEFAULT_ACCOUNT, "HF_TOKEN", "sealed")
    for number in range(1, 21):
        await store.commit(EndpointId(1), number - 1, 1, [worker(number, message="m" * 400)], entry(number))
    await store.close()  # which brings the write-ahead log into the file
    before = path.read_bytes()
    store = await open_store(sqlite_url(path))
    for number in range(1, 11):
        changed = worker(number, state=State.IDLE if number % 2 else State.DESTROYED)
        await store.commit(EndpointId(1), 19 + number, 1, [changed], entry(number))
    await store.commit(EndpointId(2), 0, 1, [worker(30, endpoint_id=2)], None)
    [endpoint, _] = await store.endpoints()
    await store.put_endpoint(endpoint)
    await store.drop_workergroup(groups[0].id)
    found = await everything(store)
    await store.close()
    return before, path.read_bytes(), found


@pytest.mark.parametrize("way", WAYS)
async def test_a_broken_page_is_refused_in_words_or_nothing_is_lost(way: str, tmp_path: Path) -> None:
    path, random = tmp_path / "posthouse.db", Random(way)
    before, now, expected = await made(path)
    said = []
    for _ in range(CASES):
        path.write_bytes(damaged(random, now, before, way))
        try:
            store = await open_store(sqlite_url(path))
        except Refused as error:
            said.append(str(error))
        else:
            found = await everything(store)
            await store.close()
            assert found == expected
    assert said
    assert [text for text in said if str(path) not in text or "restore a backup" not in text] == []


async def test_a_database_of_before_checksums_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "posthouse.db"
    _, _, expected = await made(path)
    with sqlite3.connect(path) as db:
        for table in ("installation", "revisions", "endpoints", "workergroups", "workers", "fleets", "keys"):
            db.execute(f"update {table} set checksum = null")
    db.close()
    store = await open_store(sqlite_url(path))
    assert await everything(store) == expected
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute("delete from workers where id = 1")
    db.close()
    with pytest.raises(Refused, match="fleets has lost rows of endpoint 1"):
        await open_store(sqlite_url(path))


async def test_rows_of_before_a_column_was_added_are_whole_and_their_table_is_watched_as_before(tmp_path: Path) -> None:
    path = tmp_path / "posthouse.db"
    _, _, expected = await made(path)
    with sqlite3.connect(path) as db:
        db.execute("alter table templates drop column loading_timeout_s")
        db.execute("drop table periods")
        db.execute("drop table aliases")
        db.execute("drop table audit")
        db.execute("drop table audit_head")
        for table in ("history", "users", "servers", "shared_files", "sessions", "deleted_endpoints", "manifests"):
            db.execute(f"drop table {table}")
        db.execute("delete from revisions where topic in ('aliases', 'users', 'sessions')")
        for table, column in (
            ("workers", "build"),
            ("fleets", "rollouts"),
            ("fleets", "server"),
            ("workers", "zone"),
            ("workers", "failed_at"),
            ("installation", "oldest"),
            *(("keys", name) for name in ("requests_per_minute", "work_per_minute", "at_once")),
            *(("keys", name) for name in ("used_requests", "used_work", "refused_requests")),
        ):
            db.execute(f"alter table {table} drop column {column}")
        db.execute("drop table versions")
        db.execute("update alembic_version set version_num = '0002_checksums'")
    db.close()
    store = await open_store(sqlite_url(path))
    assert await everything(store) == expected
    [template, _] = await store.templates()
    patient = await store.put_template(replace(template, loading_timeout_s=7200.0))
    await store.close()
    store = await open_store(sqlite_url(path))
    assert (await store.templates())[0] == patient
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute("update templates set loading_timeout_s = 0 where id = ?", (template.id,))
    db.close()
    with pytest.raises(Refused, match=f"row {template.id} of templates is not what was written"):
        await open_store(sqlite_url(path))


@pytest.mark.parametrize("table", ["installation", "endpoints", "workergroups", "workers", "fleets", "revisions"])
async def test_an_emptied_table_is_refused(table: str, tmp_path: Path) -> None:
    path = tmp_path / "posthouse.db"
    await made(path)
    with sqlite3.connect(path) as db:
        db.execute(f"delete from {table}")
    db.close()
    with pytest.raises(Refused, match=r"posthouse.db: .*restore a backup"):
        await open_store(sqlite_url(path))


async def test_a_number_that_is_none_any_more_is_refused_whether_a_checksum_counts_it_or_not(tmp_path: Path) -> None:
    path = tmp_path / "posthouse.db"
    _, whole, _ = await made(path)
    numbers = [
        (table.name, column.name)
        for table in (installation, revisions, fleets, keys)
        for column in table.columns
        if isinstance(column.type, Integer | Double) and not column.primary_key and not column.foreign_keys
    ]
    assert ("installation", "epoch") in numbers
    for table, column in numbers:
        path.write_bytes(whole)
        with sqlite3.connect(path) as db:
            db.execute(f"update {table} set {column} = x'c3'")
        db.close()
        with pytest.raises(Refused, match=f"of {table} is not what was written.*restore a backup"):
            await open_store(sqlite_url(path))

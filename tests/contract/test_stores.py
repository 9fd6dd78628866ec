"""What every store must do. A new kind of store adds its URL to the fixture `url` and passes the same tests."""

import asyncio
import signal
import sqlite3
import stat
import string
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, select

from posthouse.audit import ActFilter
from posthouse.domain.endpoint import (
    DEFAULT_ACCOUNT,
    AccountId,
    Endpoint,
    EndpointId,
    EndpointState,
    Scaling,
    WorkergroupId,
)
from posthouse.domain.lifecycle import Goal, State
from posthouse.domain.offer import Price
from posthouse.domain.rollout import Phase, Rollout
from posthouse.domain.worker import Worker
from posthouse.errors import BadRequest, NotFound, Refused, StaleVersion, Unavailable
from posthouse.keys import KeyRecord, KeyUse
from posthouse.ports import Account, FleetRecord, JournalEntry, PeriodRecord, Store
from posthouse.recording.segment import Segment
from posthouse.store import open_store
from posthouse.store.fleets import LEARN_FROM, SHOW, TRIM_EVERY
from posthouse.store.recordings import ROW_BYTES
from posthouse.store.schema import metadata, schema_version
from posthouse.store.sql import create
from posthouse.template import Template, TemplateId, Workergroup
from posthouse.users import UserRecord
from posthouse.wire.rows import Alias, AliasFallback, AliasTarget
from tests.kit.marks import long
from tests.kit.postgres import control, database_url, stored_url
from tests.kit.rows import NO_ID, add_group, entry, sqlite_url, worker

ALIAS = Alias(name="chat", targets=[AliasTarget(model="large")], created_at=5.0)

E1 = EndpointId(1)
GROUP = WorkergroupId(1)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if request.param == "postgresql":
        return stored_url()
    if request.param == "new postgresql":
        return database_url()
    return sqlite_url(tmp_path / "posthouse.db")


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = await open_store(url)
    yield store
    await store.close()


def segment(number: int, size: int = 10) -> Segment:
    return Segment(float(number), number + 1.0, number, bytes(size), b"\x00\xff", {"number": number})


# Every field of every record

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
times = st.floats(min_value=0, max_value=1e11)
amounts = st.floats(min_value=0, allow_nan=False)
ids = st.integers(min_value=1, max_value=2**31 - 1)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(words, json_values, max_size=4)

some_endpoints = st.builds(
    Endpoint,
    id=st.just(NO_ID),
    name=words,
    scaling=st.builds(
        Scaling,
        inactivity_timeout=st.none() | st.floats(allow_nan=False),
        **dict.fromkeys(("max_usd_h", "max_usd_day", "max_usd_month"), st.none() | amounts),
        **dict.fromkeys(("min_load", "target_util", "cold_mult", "min_cold_load"), amounts),
        **dict.fromkeys(("cold_workers", "max_workers"), ids),
        **dict.fromkeys(("max_queue_time", "target_queue_time"), amounts),
    ),
    state=st.sampled_from(EndpointState),
    key_version=ids,
    created_at=times,
)
some_templates = st.builds(
    Template,
    id=st.just(NO_ID),
    disk_gb=amounts,
    extra_filters=json_objects,
    private=st.booleans(),
    created_at=times,
    **dict.fromkeys(("hash_id", "name", "image", "tag", "env", "onstart", "desc", "readme"), words),
)
some_groups = st.builds(
    Workergroup,
    id=st.just(NO_ID),
    endpoint_id=st.just(E1),
    template_id=st.just(TemplateId(1)),
    gpu_ram=amounts,
    created_at=times,
    **dict.fromkeys(("search_params", "launch_args", "provider", "signature_scheme"), words),
)
some_keys = st.builds(
    KeyRecord,
    **dict.fromkeys(("id", "name", "scope", "digest"), words),
    **dict.fromkeys(("created_at", "last_used_at", "revoked_at"), times),
)
some_workers = st.builds(
    Worker,
    id=ids,
    endpoint_id=st.just(E1),
    group_id=ids,
    num_gpus=ids,
    price=st.builds(Price, ready_usd_h=amounts, loading_usd_h=amounts, stopped_usd_h=amounts),
    state=st.sampled_from([state for state in State if state is not State.DESTROYED]),
    goal=st.sampled_from(Goal),
    addresses=st.frozensets(words, max_size=3),
    **dict.fromkeys(("created_at", "since", "progressed_at", "loaded_at", "outdated_at"), times),
    **dict.fromkeys(("perf", "load_s", "spent_usd"), amounts),
    **dict.fromkeys(
        ("label", "provider", "offer_id", "machine", "gpu_name", "instance_id", "url", "version", "scheme", "message"),
        words,
    ),
)


@given(
    some_endpoints,
    some_templates,
    some_groups,
    some_keys,
    st.lists(some_workers, max_size=4, unique_by=lambda worker: worker.id),
    st.builds(JournalEntry, endpoint_id=st.just(E1), at=times, body=json_objects),
)
@settings(max_examples=20, deadline=None)
def test_every_field_of_every_record_survives_a_restart(
    endpoint: Endpoint,
    template: Template,
    group: Workergroup,
    key: KeyRecord,
    fleet: list[Worker],
    entry: JournalEntry,
) -> None:
    async def scenario(url: str) -> None:
        store = await open_store(url)
        installation = await store.installation()
        plain = await add_group(store)
        written = (
            [replace(endpoint, id=plain.endpoint_id)],
            [replace(template, id=plain.template_id)],
            [replace(group, id=plain.id)],
            [key],
        )
        await store.put_endpoint(*written[0])
        await store.put_template(*written[1])
        await store.put_workergroup(*written[2])
        await store.add_key(key)
        assert await store.commit(E1, 0, 1, fleet, entry) == 1
        await store.close()

        store = await open_store(url)
        assert await store.installation() == installation
        read = (await store.endpoints(), await store.templates(), await store.workergroups(), await store.keys())
        assert read == (*([replace(row, revision=1) for row in rows] for rows in written[:3]), written[3])
        assert await store.open_fleet(E1, 1) == FleetRecord(1, tuple(sorted(fleet, key=lambda worker: worker.id)))
        assert await store.journal(E1, 10) == [entry]
        await store.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(scenario(sqlite_url(Path(directory) / "posthouse.db")))


async def test_an_added_record_comes_back_as_it_is_stored(store: Store) -> None:
    group = await add_group(store, "sprache-模型-🐎")
    assert await store.workergroups() == [group]
    assert [endpoint.name for endpoint in await store.endpoints()] == ["sprache-模型-🐎"]
    key = KeyRecord("0a", "ключ", "read", "d", 1.0)
    await store.add_key(key)
    used = replace(key, last_used_at=2.0)
    await store.note_key_use("0a", 2.0)
    assert await store.keys() == [used]


# Ids and names


async def test_an_id_is_never_given_twice(url: str) -> None:
    store = await open_store(url)
    first = await add_group(store)
    await store.drop_workergroup(first.id)
    await store.drop_endpoint(first.endpoint_id)
    await store.drop_template(first.template_id)
    await store.close()
    store = await open_store(url)
    second = await add_group(store)
    await store.close()
    assert second.id > first.id
    assert second.endpoint_id > first.endpoint_id
    assert second.template_id > first.template_id


async def test_a_taken_name_is_refused_and_named(store: Store) -> None:
    await store.add_endpoint(Endpoint(NO_ID, "llm"))
    other = await store.add_endpoint(Endpoint(NO_ID, "ocr"))
    with pytest.raises(BadRequest, match="name 'llm' is taken"):
        await store.add_endpoint(Endpoint(NO_ID, "llm"))
    with pytest.raises(BadRequest, match="name 'llm' is taken"):
        await store.put_endpoint(replace(other, name="llm"))
    assert [endpoint.name for endpoint in await store.endpoints()] == ["llm", "ocr"]

    await store.add_template(Template(NO_ID, "h1", "same name"))
    await store.add_template(Template(NO_ID, "h2", "same name"))
    with pytest.raises(BadRequest, match="hash_id 'h1' is taken"):
        await store.add_template(Template(NO_ID, "h1", "another name"))

    await store.add_key(KeyRecord("0a", "one", "read", "d", 1.0))
    with pytest.raises(BadRequest, match="id '0a' is taken"):
        await store.add_key(KeyRecord("0a", "two", "read", "d", 1.0))


async def test_an_id_that_is_not_there_is_not_found(store: Store) -> None:
    calls = [
        store.put_endpoint(Endpoint(EndpointId(7), "x")),
        store.drop_endpoint(EndpointId(7)),
        store.put_workergroup(Workergroup(WorkergroupId(7), EndpointId(7), TemplateId(7))),
        store.drop_workergroup(WorkergroupId(7)),
        store.put_template(Template(TemplateId(7), "x", "x")),
        store.drop_template(TemplateId(7)),
        store.revoke_key("7", 1.0),
        store.note_key_use("7", 1.0),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="7"):
            await call
    with pytest.raises(NotFound, match="endpoint_id 7"):
        await store.add_workergroup(Workergroup(NO_ID, EndpointId(7), TemplateId(7)))


async def test_a_template_in_use_is_not_dropped(store: Store) -> None:
    group = await add_group(store)
    with pytest.raises(BadRequest, match=f"template_id {group.template_id} is used"):
        await store.drop_template(group.template_id)
    assert len(await store.templates()) == 1


async def test_a_revocation_is_not_undone_by_a_late_note_of_use(store: Store) -> None:
    key = KeyRecord("0a", "one", "read", "d", 1.0)
    await store.add_key(key)
    await store.revoke_key("0a", 5.0)
    await store.note_key_use("0a", 4.0)
    await store.revoke_key("0a", 9.0)
    await store.note_key_use("0a", 3.0)
    assert await store.keys() == [replace(key, last_used_at=4.0, revoked_at=5.0)]


async def test_users_are_added_changed_and_dropped(store: Store) -> None:
    anna = await store.add_user(UserRecord(0, "anna", "read", "$argon2id$1", 1.0))
    with pytest.raises(BadRequest, match="name 'anna' is taken"):
        await store.add_user(UserRecord(0, "anna", "admin", "$argon2id$2", 2.0))
    changed = replace(anna, password="$argon2id$3", scope="operate")
    await store.change_user(changed)
    assert await store.users() == [changed]
    await store.drop_user(anna.id)
    assert await store.users() == []
    for gone in (store.change_user(anna), store.drop_user(anna.id)):
        with pytest.raises(NotFound):
            await gone


async def test_a_key_has_other_limits_and_what_it_used_is_added_up(store: Store) -> None:
    key = KeyRecord("0a", "one", "read", "d", 1.0)
    await store.add_key(key)
    await store.note_key_use("0a", 4.0, KeyUse(2, 20.5, 1))
    await store.note_key_use("0a", 3.0, KeyUse(-1, -0.5))
    await store.change_key(replace(key, name="two", work_per_minute=2**40, scope="admin", used_requests=99))
    used: dict[str, Any] = {"last_used_at": 4.0, "used_requests": 1, "used_work": 20.0, "refused_requests": 1}
    assert await store.keys() == [replace(key, name="two", work_per_minute=2**40, **used)]
    with pytest.raises(NotFound, match="7"):
        await store.change_key(replace(key, id="7"))


async def test_a_dropped_endpoint_takes_its_workergroups_and_leaves_its_workers(store: Store) -> None:
    group = await add_group(store)
    kept = await add_group(store, "other")
    alive = worker(1, group.endpoint_id)
    await store.commit(group.endpoint_id, 0, 1, [alive], entry(1, group.endpoint_id))
    await store.drop_endpoint(group.endpoint_id)
    assert await store.workergroups() == [kept]
    assert await store.fleet_ids() == [group.endpoint_id]
    assert await store.open_fleet(group.endpoint_id, 1) == FleetRecord(1, (alive,))


async def test_what_a_dropped_endpoint_left_is_swept_once_its_workers_are_gone(store: Store) -> None:
    first, second, third = [(await add_group(store, name)).endpoint_id for name in ("a", "b", "c")]
    for endpoint_id in (first, second, third):
        await store.commit(endpoint_id, 0, 1, [worker(endpoint_id, endpoint_id, perf=1.0)], entry(1, endpoint_id))
    await store.add_segment(first, segment(1), 10_000)
    await store.add_segment(second, segment(2), 10_000)
    await store.drop_endpoint(first)
    await store.drop_endpoint(second)
    destroyed = worker(first, first, perf=1.0, state=State.DESTROYED)
    await store.commit(first, 1, 1, [destroyed], entry(2, first))
    assert (await store.open_fleet(first, 1)).workers == (destroyed,)

    await store.drop_endpoint(third)
    assert await store.open_fleet(first, 1) == FleetRecord(2, ())
    assert await store.journal(first, 10) == []
    assert (await store.segments(first), await store.segments(second)) == ([], [segment(2)])
    assert len((await store.open_fleet(second, 1)).workers) == 1
    assert await store.journal(second, 10) == [entry(1, second)]


# Fleets


async def test_a_fleet_never_committed_is_empty_at_version_0(store: Store) -> None:
    assert await store.open_fleet(E1, 1) == FleetRecord(0, ())
    assert await store.fleet_ids() == []
    assert await store.journal(E1, 10) == []


async def test_a_commit_inserts_replaces_and_leaves_the_rest(store: Store) -> None:
    assert await store.commit(E1, 0, 1, [worker(1), worker(2)], None) == 1
    changed = worker(2, state=State.IDLE, addresses=frozenset({"b:1", "a:2"}))
    assert await store.commit(E1, 1, 1, [changed, worker(3)], None) == 2
    assert await store.commit(E1, 2, 1, [], None) == 3
    assert await store.open_fleet(E1, 1) == FleetRecord(3, (worker(1), changed, worker(3)))


async def test_updates_are_kept_with_their_fleet_and_what_they_may_go_back_to(store: Store) -> None:
    rollout = Rollout(GROUP, "a1", "b2", Phase.ROLLED_BACK, 5.0, "it errs", canary=3, failed=1, failed_at=4.0)
    other, one = EndpointId(9), worker(1, 9, build="a1")
    await store.commit(other, 0, 1, [one], None, [rollout])
    await store.commit(other, 1, 1, [replace(one, message="more")], None)
    assert await store.open_fleet(other, 1) == FleetRecord(2, (replace(one, message="more"),), rollouts=(rollout,))

    endpoint = await store.add_endpoint(Endpoint(EndpointId(0), "llm"))
    template = await store.add_template(Template(NO_ID, "h", "t", image="i", tag="1", env="-e A=1", onstart="run"))
    versions = [template]
    for number in (2, 3, 4):
        versions.append(await store.put_template(replace(versions[-1], tag=str(number))))
        stable = Rollout(GROUP, template.build(), versions[-1].build())
        await store.commit(endpoint.id, number - 2, 1, [], None, [stable])
    assert await store.version(template.build()) == ("i", "1", "-e A=1", "run")
    assert await store.version(versions[2].build()) == ("i", "3", "-e A=1", "run")
    assert await store.version(versions[1].build()) is None  # nobody may want it any more
    await store.drop_template(template.id)
    assert await store.version(versions[3].build()) == versions[3].runs()


async def test_fleets_are_apart(store: Store) -> None:
    await store.commit(E1, 0, 1, [worker(1)], entry(1))
    await store.commit(EndpointId(2), 0, 1, [worker(2, 2)], entry(2, 2))
    assert (await store.open_fleet(E1, 1)).workers == (worker(1),)
    assert await store.journal(EndpointId(2), 10) == [entry(2, 2)]
    assert await store.fleet_ids() == [1, 2]


async def test_a_stale_version_writes_nothing(url: str) -> None:
    one, other = await open_store(url), await open_store(url)
    await one.commit(E1, 0, 1, [worker(1)], entry(1))
    seen = await other.open_fleet(E1, 1)
    await one.commit(E1, 1, 1, [worker(1, message="newer")], entry(2))
    for expected in (0, seen.version, 3):
        with pytest.raises(StaleVersion):
            await other.commit(E1, expected, 1, [worker(1, message="stale"), worker(9)], entry(9))
    assert await other.open_fleet(E1, 1) == FleetRecord(2, (worker(1, message="newer"),))
    assert await other.journal(E1, 10) == [entry(2), entry(1)]
    await one.close()
    await other.close()


async def test_of_many_commits_at_one_version_one_wins(url: str) -> None:
    stores = [await open_store(url), await open_store(url)]
    for version in range(5):
        results = await asyncio.gather(
            *(stores[i % 2].commit(E1, version, 1, [worker(i)], entry(i)) for i in range(1, 7)), return_exceptions=True
        )
        assert sorted(map(str, map(type, results))) == sorted(map(str, [int] + [StaleVersion] * 5))
    assert len(await stores[0].journal(E1, 100)) == 5
    for store in stores:
        await store.close()


async def test_a_commit_that_fails_half_way_writes_nothing(store: Store) -> None:
    with pytest.raises(Exception, match="not JSON serializable"):
        await store.commit(E1, 0, 1, [worker(1)], JournalEntry(E1, 1.0, {"broken": object()}))
    assert await store.open_fleet(E1, 1) == FleetRecord(0, ())
    assert await store.commit(E1, 0, 1, [worker(1)], None) == 1


async def test_the_journal_is_read_newest_first_and_never_more_than_asked(store: Store) -> None:
    for number in range(5):
        await store.commit(E1, number, 1, [], entry(number))
    assert await store.journal(E1, 2) == [entry(4), entry(3)]
    assert await store.journal(E1, 0) == []
    assert await store.journal(E1, -1) == []


async def test_the_journal_and_the_destroyed_workers_are_bounded(url: str) -> None:
    store = await open_store(url, journal_keep=3, destroyed_keep=2)
    await store.commit(EndpointId(2), 0, 1, [worker(500, 2, state=State.DESTROYED, perf=1.0)], entry(0, 2))
    destroyed = [worker(i, state=State.DESTROYED, perf=1.0, since=float(100 - i)) for i in range(1, 6)]
    await store.commit(E1, 0, 1, [*destroyed, worker(6)], entry(1))
    for version in range(1, TRIM_EVERY):
        await store.commit(E1, version, 1, [], entry(version + 1))
    assert await store.journal(E1, 100) == [entry(TRIM_EVERY - i) for i in range(3)]
    assert (await store.open_fleet(E1, 1)).workers == (*destroyed[:2], worker(6))
    assert len(await store.journal(EndpointId(2), 100)) == 1
    assert len((await store.open_fleet(EndpointId(2), 1)).workers) == 1
    await store.close()


async def test_a_fleet_comes_with_the_latest_destroyed_workers_and_the_latest_that_had_measured_themselves(
    store: Store,
) -> None:
    measured = [worker(i, state=State.DESTROYED, perf=2.0, since=float(i)) for i in range(1, LEARN_FROM + 11)]
    failed = [worker(i, state=State.DESTROYED, since=float(i)) for i in range(200, 200 + SHOW)]
    await store.commit(E1, 0, 1, [*measured, *failed, worker(900)], None)
    assert (await store.open_fleet(E1, 1)).workers == (*measured[10:], *failed, worker(900))
    later = [worker(i, state=State.DESTROYED, since=float(i)) for i in (400, 401)]
    await store.commit(E1, 1, 1, later, None)
    assert (await store.open_fleet(E1, 1)).workers == (*measured[10:], *failed[2:], *later, worker(900))


async def test_ids_for_workers_are_given_once_whoever_takes_them_and_over_restarts(url: str) -> None:
    stores = [await open_store(url), await open_store(url)]
    taken = await asyncio.gather(*(stores[i % 2].take_worker_ids(3, 0) for i in range(8)))
    assert sorted(taken) == [1, 4, 7, 10, 13, 16, 19, 22]
    for store in stores:
        await store.close()
    store = await open_store(url)
    assert await store.take_worker_ids(1, 0) == 25
    assert await store.take_worker_ids(2, 900) == 901  # an instance has 900, which a backup did not know
    assert await store.take_worker_ids(1, 0) == 903
    await store.close()


# Several servers


async def test_a_fleet_takes_no_commit_of_an_earlier_epoch_than_it_was_opened_under(url: str) -> None:
    old, new = await open_store(url), await open_store(url)
    await old.open_fleet(E1, 1)
    assert await old.commit(E1, 0, 1, [worker(1)], None) == 1
    assert await new.open_fleet(E1, 2) == FleetRecord(1, (worker(1),))
    with pytest.raises(StaleVersion):
        await old.commit(E1, 1, 1, [worker(2)], None)  # the version is the right one
    with pytest.raises(StaleVersion):
        await old.open_fleet(E1, 1)
    assert await new.commit(E1, 1, 2, [worker(3)], None) == 2
    assert await new.commit(EndpointId(2), 0, 2, [worker(4, 2)], None) == 1  # never opened: it is new
    with pytest.raises(StaleVersion):
        await old.commit(EndpointId(2), 1, 1, [], None)
    found = await new.open_fleets({EndpointId(2): 2, E1: 3, EndpointId(9): 1})
    assert {endpoint_id: fleet.workers for endpoint_id, fleet in found.items()} == {
        E1: (worker(1), worker(3)),
        EndpointId(2): (worker(4, 2),),
        EndpointId(9): (),
    }
    with pytest.raises(StaleVersion):
        await new.open_fleets({EndpointId(2): 3, E1: 2})
    assert await old.commit(EndpointId(2), 1, 2, [], None) == 2  # all or none
    await old.close()
    await new.close()


async def test_an_epoch_is_above_every_one_before(url: str) -> None:
    for expected in (1, 2):
        store = await open_store(url)
        assert await store.next_epoch() == 2 * expected - 1
        assert await store.next_epoch() == 2 * expected
        await store.close()


async def test_a_label_leads_to_the_endpoint_of_a_worker_that_is_not_destroyed(store: Store) -> None:
    await store.commit(E1, 0, 1, [worker(1), worker(2, state=State.DESTROYED)], None)
    await store.commit(EndpointId(2), 0, 1, [worker(3, 2)], None)
    labels = [f"posthouse-x-{number}" for number in (1, 2, 3, 4)]
    assert await store.workers_labelled(labels) == {"posthouse-x-1": 1, "posthouse-x-3": 2}
    assert await store.workers_labelled([]) == {}


async def test_a_row_that_was_changed_since_it_was_read_is_not_overwritten(store: Store) -> None:
    group = await add_group(store)
    [endpoint], [template] = await store.endpoints(), await store.templates()
    assert await store.put_endpoint(replace(endpoint, name="newer")) == replace(endpoint, name="newer", revision=1)
    assert await store.put_template(replace(template, name="newer")) == replace(template, name="newer", revision=1)
    assert await store.put_workergroup(replace(group, gpu_ram=7.0)) == replace(group, gpu_ram=7.0, revision=1)
    for put in (store.put_endpoint(endpoint), store.put_template(template), store.put_workergroup(group)):
        with pytest.raises(StaleVersion, match=r"1 has been changed meanwhile: try again"):
            await put
    assert [e.name for e in await store.endpoints()] == [t.name for t in await store.templates()] == ["newer"]


async def test_every_change_of_what_servers_keep_in_memory_raises_the_revision_of_its_kind_alone(store: Store) -> None:
    group = await add_group(store)
    [endpoint], [template] = await store.endpoints(), await store.templates()
    changes = [
        (lambda: store.add_account(Account(NO_ID, "b")), {"accounts"}),
        (lambda: store.put_endpoint(endpoint), {"endpoints"}),
        (lambda: store.put_template(template), {"templates"}),
        (lambda: store.put_workergroup(group), {"workergroups"}),
        (lambda: store.add_key(KeyRecord("0a", "one", "read", "d", 1.0)), {"keys"}),
        (lambda: store.change_key(KeyRecord("0a", "two", "read", "d", 1.0, at_once=1)), {"keys"}),
        (lambda: store.revoke_key("0a", 2.0), {"keys"}),
        (lambda: store.note_key_use("0a", 2.0), set()),
        (lambda: store.put_secret(DEFAULT_ACCOUNT, "A", "sealed"), {"secrets"}),
        (lambda: store.drop_secret(DEFAULT_ACCOUNT, "A"), {"secrets"}),
        (lambda: store.put_alias(DEFAULT_ACCOUNT, ALIAS), {"aliases"}),
        (lambda: store.drop_alias(DEFAULT_ACCOUNT, "chat"), {"aliases"}),
        (lambda: store.put_manifest(endpoint.id, {"endpoint": "x"}, 2.0), set()),
        (lambda: store.commit(endpoint.id, 0, 1, [worker(1, endpoint.id)], None), set()),
        (lambda: store.drop_workergroup(group.id), {"workergroups"}),
        (lambda: store.drop_endpoint(endpoint.id), {"endpoints", "workergroups"}),
        (lambda: store.drop_template(template.id), {"templates"}),
        (lambda: store.add_template(template), {"templates"}),
        (lambda: store.add_endpoint(endpoint), {"endpoints"}),
    ]
    for change, kinds in changes:
        before = await store.revisions()
        await change()  # type: ignore[no-untyped-call]
        after = await store.revisions()
        assert {kind for kind in after if after[kind] != before[kind]} == kinds


# Accounts


async def test_the_installation_has_an_account_of_its_own_and_others_get_ids_after_it(store: Store) -> None:
    assert await store.accounts() == [Account(DEFAULT_ACCOUNT, "default")]
    added = await store.add_account(Account(NO_ID, "acme", 5.0))
    assert await store.accounts() == [Account(DEFAULT_ACCOUNT, "default"), Account(AccountId(2), "acme", 5.0)]
    assert added == Account(AccountId(2), "acme", 5.0)
    with pytest.raises(BadRequest, match="name 'acme' is taken"):
        await store.add_account(Account(NO_ID, "acme"))


async def test_names_hashes_and_secrets_are_an_owner_s_own(store: Store) -> None:
    acme = (await store.add_account(Account(NO_ID, "acme"))).id
    for owner in (DEFAULT_ACCOUNT, acme):
        await store.add_endpoint(Endpoint(NO_ID, "llm", account_id=owner))
        await store.add_template(Template(NO_ID, "h", "t", account_id=owner))
        await store.put_secret(owner, "A", f"sealed for {owner}")
        with pytest.raises(BadRequest, match="name 'llm' is taken"):
            await store.add_endpoint(Endpoint(NO_ID, "llm", account_id=owner))
        with pytest.raises(BadRequest, match="hash_id 'h' is taken"):
            await store.add_template(Template(NO_ID, "h", "t", account_id=owner))
    assert await store.secrets() == {owner: {"A": f"sealed for {owner}"} for owner in (DEFAULT_ACCOUNT, acme)}
    await store.drop_secret(acme, "A")
    assert await store.secrets() == {DEFAULT_ACCOUNT: {"A": f"sealed for {DEFAULT_ACCOUNT}"}}
    with pytest.raises(NotFound, match="account_id 7"):
        await store.add_endpoint(Endpoint(NO_ID, "x", account_id=AccountId(7)))


async def test_aliases_are_kept_replaced_and_dropped(store: Store) -> None:
    acme = (await store.add_account(Account(NO_ID, "acme"))).id
    await store.put_alias(acme, ALIAS)
    changed = replace(ALIAS, fallbacks=[AliasFallback(model="small", faults=["failed"])], wait_s=2.5)
    for alias in (ALIAS, changed):
        await store.put_alias(DEFAULT_ACCOUNT, alias)
        assert await store.aliases() == {DEFAULT_ACCOUNT: {"chat": alias}, acme: {"chat": ALIAS}}
    await store.drop_alias(DEFAULT_ACCOUNT, "chat")
    assert await store.aliases() == {acme: {"chat": ALIAS}}
    with pytest.raises(NotFound, match="there is no alias chat"):
        await store.drop_alias(DEFAULT_ACCOUNT, "chat")


async def test_a_manifest_is_kept_replaced_and_goes_with_its_endpoint(store: Store) -> None:
    endpoint = await store.add_endpoint(Endpoint(NO_ID, "llm"))
    assert await store.manifest(endpoint.id) is None
    for body in ({"endpoint": "llm", "scaling": {"max_usd_h": None}}, {"endpoint": "llm", "recipe": "demo-llm"}):
        await store.put_manifest(endpoint.id, body, 7.0)
        assert await store.manifest(endpoint.id) == (body, 7.0)
    [act, *_] = await store.acts(ActFilter(action="manifest"))
    assert (act.action, act.name, act.endpoint_id, act.before, act.after) == ("manifest.apply", "llm", 1, "{}", "{}")
    await store.drop_endpoint(endpoint.id)
    assert await store.manifest(endpoint.id) is None
    with pytest.raises(NotFound, match="there is no endpoint 1"):
        await store.put_manifest(endpoint.id, {}, 8.0)


async def test_a_fleet_knows_who_pays_after_its_endpoint_was_deleted(store: Store) -> None:
    acme = (await store.add_account(Account(NO_ID, "acme"))).id
    endpoint = await store.add_endpoint(Endpoint(NO_ID, "llm", account_id=acme))
    await store.commit(endpoint.id, 0, 1, [worker(1, endpoint.id)], None)
    await store.drop_endpoint(endpoint.id)
    assert await store.open_fleet(endpoint.id, 1) == FleetRecord(1, (worker(1, endpoint.id),), 0.0, acme)


# Segments


async def test_reels_come_back_as_they_were_in_their_order_and_apart(url: str) -> None:
    store = await open_store(url)
    for number in (1, 2, 3):
        await store.add_segment(E1, segment(number), 10_000)
    await store.add_segment(EndpointId(2), segment(9), 10_000)
    await store.close()
    store = await open_store(url)
    assert await store.segments(E1) == [segment(1), segment(2), segment(3)]
    assert await store.segments(E1, after=3.0) == [segment(3)]
    assert await store.segments(EndpointId(2)) == [segment(9)]
    assert await store.segments(EndpointId(3)) == []
    await store.close()


async def test_the_oldest_reels_of_an_endpoint_go_when_there_is_too_much_of_it(store: Store) -> None:
    await store.add_segment(EndpointId(2), segment(1, 5000), 10_000)
    for number in range(10):
        await store.add_segment(E1, segment(number, 900), 3000 + 3 * ROW_BYTES)
    assert await store.segments(E1) == [segment(number, 900) for number in (7, 8, 9)]
    assert await store.segments(EndpointId(2)) == [segment(1, 5000)]


# Durability

COMMITS_FOR_EVER = """
import asyncio, sys
from posthouse.store import open_store
from tests.kit.rows import entry, worker

async def main(url):
    store = await open_store(url)
    version = 0
    while True:
        version = await store.commit(1, version, 1, [worker(version + 1)], entry(version))
        print(version, flush=True)

asyncio.run(main(sys.argv[1]))
"""

SAYS_INSTALLATION = """
import asyncio, sys
from posthouse.store import open_store

async def main(url):
    store = await open_store(url)
    print(await store.installation(), flush=True)
    await store.close()

asyncio.run(main(sys.argv[1]))
"""


async def start(program: str, url: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],  # from where `tests` can be imported
    )


async def test_what_was_committed_survives_kill_9(url: str) -> None:
    process = await start(COMMITS_FOR_EVER, url)
    assert process.stdout
    first = await process.stdout.readline()
    assert first, await process.communicate()
    process.send_signal(signal.SIGKILL)
    rest, _ = await process.communicate()
    acknowledged = int((first + rest).split(b"\n")[-2])
    store = await open_store(url)
    fleet = await store.open_fleet(E1, 1)
    await store.close()
    assert fleet.version in (acknowledged, acknowledged + 1)
    assert len(fleet.workers) == fleet.version


@pytest.mark.parametrize("url", ["sqlite", long("new postgresql")], indirect=True)
async def test_processes_that_open_a_new_store_at_once_agree(url: str) -> None:
    processes = [await start(SAYS_INSTALLATION, url) for _ in range(3)]
    outputs = [await process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert len({stdout for stdout, _ in outputs}) == 1


# The file


async def test_the_file_is_its_owners_alone_and_every_commit_is_synced(tmp_path: Path) -> None:
    path = tmp_path / "posthouse.db"
    store = await open_store(sqlite_url(path))
    await store.commit(E1, 0, 1, [worker(1)], None)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {"posthouse.db": 0o600, "posthouse.db-shm": 0o600, "posthouse.db-wal": 0o600}
    async with store._backend.engine.connect() as db:
        found = {
            name: (await db.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in ("synchronous", "foreign_keys")
        }
    assert found == {"synchronous": 2, "foreign_keys": 1}
    await store.close()


async def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "posthouse.db"
    path.touch()
    store = await open_store(sqlite_url(path))
    await add_group(store)
    await store.close()


async def test_secrets_are_kept_replaced_and_dropped(store: Store) -> None:
    assert await store.secrets() == {}
    for name, sealed in (("B", "1"), ("A", "2"), ("B", "3")):
        await store.put_secret(DEFAULT_ACCOUNT, name, sealed)
    assert list((await store.secrets())[DEFAULT_ACCOUNT].items()) == [("A", "2"), ("B", "3")]
    await store.drop_secret(DEFAULT_ACCOUNT, "A")
    assert await store.secrets() == {DEFAULT_ACCOUNT: {"B": "3"}}
    with pytest.raises(NotFound, match="there is no secret A"):
        await store.drop_secret(DEFAULT_ACCOUNT, "A")


def test_the_migrations_lead_to_what_a_new_database_has(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from posthouse.store.migrate import migrate

    found: list[dict[str, list[str]]] = []
    for way in (create, lambda connection: migrate(connection, None)):
        engine = create_engine(f"sqlite:///{tmp_path / str(len(found))}")
        with engine.begin() as connection:
            way(connection)
            options = {"compare_server_default": True}
            assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []
            tables = (schema_version, *metadata.sorted_tables)
            found.append({table.name: sorted(map(str, connection.execute(select(table)))) for table in tables})
        engine.dispose()
    new, migrated = found
    assert new == migrated
    assert new["accounts"]


async def test_a_newer_schema_is_left_alone_and_refused_where_it_is_for_newer_servers(tmp_path: Path) -> None:
    path = tmp_path / "posthouse.db"
    await (await open_store(sqlite_url(path))).close()
    connection = sqlite3.connect(path)
    connection.execute("update alembic_version set version_num = '9999_future'")
    connection.commit()
    before = list(connection.iterdump())
    await (await open_store(sqlite_url(path))).close()  # a newer server has added to it, and can go back
    assert list(connection.iterdump()) == before
    connection.execute("update installation set oldest = '9998_future'")
    connection.commit()
    before = list(connection.iterdump())
    with pytest.raises(Refused, match=r"schema 9999_future.*upgrade Posthouse"):
        await open_store(sqlite_url(path))
    assert list(connection.iterdump()) == before
    connection.close()


async def test_what_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "posthouse.db"
    path.write_text(string.printable * 100)
    with pytest.raises(Refused, match=r"posthouse.db: file is not a database"):
        await open_store(sqlite_url(path))
    with pytest.raises(Refused, match="No such file or directory"):
        await open_store(sqlite_url(tmp_path / "no" / "such" / "directory.db"))


@pytest.mark.parametrize(
    "url", ["", "posthouse.db", "sqlite:///x.db", "sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "mysql://h/x"]
)
async def test_an_unknown_kind_of_store_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match=r"sqlite\+aiosqlite:///"):
        await open_store(url)


async def test_what_destroyed_workers_spent_is_kept_though_their_rows_are_not(url: str) -> None:
    store = await open_store(url, journal_keep=3, destroyed_keep=1)
    try:
        for number in range(1, TRIM_EVERY + 1):
            await store.commit(
                EndpointId(1), number - 1, 1, [worker(number, state=State.DESTROYED, spent_usd=0.5)], None
            )
        assert (await store.open_fleet(EndpointId(1), 1)).spent_usd == 0.5 * TRIM_EVERY
    finally:
        await store.close()


async def test_what_was_spent_when_a_day_began_is_kept(store: Store) -> None:
    day, other = PeriodRecord(E1, "day", 86_400.0, 1.5), PeriodRecord(EndpointId(-1), "month", 0.0, 7.0)
    await store.put_periods([day, other])
    following = replace(day, began_at=172_800.0, before_usd=2.5)
    await store.put_periods([following])
    assert sorted(await store.periods(), key=lambda p: p.kind) == [following, other]


async def test_what_destroyed_workers_spent_is_known_for_every_endpoint(store: Store) -> None:
    gone = replace(worker(1, E1), state=State.DESTROYED, spent_usd=1.25)
    await store.commit(E1, 0, 1, [gone], None)
    assert await store.spent_usd() == {E1: 1.25}


async def test_of_two_that_change_a_row_at_the_same_time_one_is_told(store: Store, url: str) -> None:
    added = await store.add_endpoint(Endpoint(NO_ID, "llm"))
    other = await open_store(url)
    changes = [one.put_endpoint(replace(added, key_version=n)) for n, one in ((2, store), (3, other)) for _ in range(5)]
    done = await asyncio.gather(*changes, return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["Endpoint"] + ["StaleVersion"] * 9
    await other.close()


async def test_a_nul_is_no_reason_to_store_nothing(store: Store) -> None:
    hostile = replace(worker(1), message="CUDA\0 error", version="\0")
    await store.commit(E1, 0, 1, [hostile], None)
    [stored] = (await store.open_fleet(E1, 1)).workers
    assert (stored.message, stored.version) == ("CUDA\ufffd error", "\ufffd")
    with pytest.raises((NotFound, BadRequest)):
        await store.drop_secret(DEFAULT_ACCOUNT, "a\0b")
    assert store.troubles() == []


async def test_a_database_that_was_away_is_used_again_as_soon_as_it_is_back() -> None:
    store = await open_store(database_url())
    version = await store.commit(E1, 0, 1, [worker(1)], None)
    await asyncio.to_thread(control, "stop", "-m", "immediate")
    try:
        with pytest.raises(Unavailable, match="the database cannot be used now, so nothing was changed"):
            await store.commit(E1, version, 1, [worker(2)], None)
        assert "database: it could not be used" in store.troubles()[0]
    finally:
        await asyncio.to_thread(control, "start")
    version = await store.commit(E1, version, 1, [worker(2)], None)
    await asyncio.to_thread(control, "restart", "-m", "fast")
    await store.commit(E1, version, 1, [worker(3)], None)
    assert store.troubles() == []
    assert len((await store.open_fleet(E1, 1)).workers) == 3
    await store.close()

"""An installation moves from its file to PostgreSQL, whole."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from posthouse.domain.endpoint import EndpointId
from posthouse.errors import Refused
from posthouse.keys import KeyRecord
from posthouse.ports import Account, PeriodRecord
from posthouse.store import SqlStore, open_store
from posthouse.store.move import move_store
from posthouse.template import TemplateId
from tests.kit.postgres import database_url
from tests.kit.rows import NO_ID, add_group, entry, sqlite_url, worker
from tests.kit.site import Site

E1 = EndpointId(1)


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A file with an installation that has a past: rows of each kind, and ids that were given and are free again."""
    path = tmp_path / "posthouse.db"
    store = await open_store(sqlite_url(path))
    await add_group(store)
    acme = await store.add_account(Account(NO_ID, "acme"))
    await store.add_key(KeyRecord("k1", "first", "admin", "digest", 1.0, account_id=acme.id))
    await store.put_secret(acme.id, "Ünïcode ☃", "sealed")
    await store.put_secret(acme.id, "a_b", "sealed")
    await store.put_periods([PeriodRecord(E1, "day", 5.0, 0.25)])
    version = 0
    for number in range(3):
        rows = [worker(n, message="x\U0001f6f0" * n) for n in range(1 + 500 * number, 501 + 500 * number)]
        version = await store.commit(E1, version, 1, rows, entry(number))
    gone = await store.add_template(replace((await store.templates())[0], id=NO_ID, hash_id="gone"))
    await store.drop_template(gone.id)
    await store.close()
    return path


async def everything(store: SqlStore) -> list[object]:
    return [
        await store.installation(),
        await store.accounts(),
        await store.endpoints(),
        await store.templates(),
        await store.workergroups(),
        await store.keys(),
        await store.secrets(),
        await store.periods(),
        await store.revisions(),
        await store.journal(E1, 10),
        await store.open_fleet(E1, 7),
    ]


async def test_everything_is_there_and_no_id_is_given_twice(path: Path) -> None:
    url = database_url()
    moved = await move_store(path, url)
    assert (moved["workers"], moved["secrets"], moved["journal"]) == (1500, 2, 3)
    old, new = await open_store(sqlite_url(path)), await open_store(url)
    assert await everything(old) == await everything(new)
    template = (await new.templates())[0]
    assert (await new.add_template(replace(template, id=NO_ID, hash_id="next"))).id == TemplateId(template.id + 2)
    assert await new.take_worker_ids(1, 0) == 1501
    await old.close()
    await new.close()


async def test_a_database_that_is_in_use_is_left_alone(path: Path) -> None:
    url = database_url()
    store = await open_store(url)
    await store.add_key(KeyRecord("theirs", "first", "admin", "digest", 1.0))
    with pytest.raises(Refused, match="has keys already: name an empty one"):
        await move_store(path, url)
    assert [key.id for key in await store.keys()] == ["theirs"]
    await store.close()


@pytest.mark.long
def test_a_server_goes_on_where_its_file_ended(tmp_path: Path) -> None:
    site, url = Site(tmp_path), database_url()
    site.environ.pop("POSTHOUSE_DATABASE__URL", None)
    try:
        site.start()
        assert site.run("endpoint", "create", "llm", "--max-workers", "3").returncode == 0
        file = tmp_path / "posthouse-data" / "posthouse.db"
        busy = site.run("migrate-store", str(file), url)
        assert (busy.returncode, "stop it first" in busy.stderr) == (1, True)
        assert site.stop(signal.SIGTERM)[0] == 0
        early = site.run("serve", "--port", "0", POSTHOUSE_DATABASE__URL=url)
        assert "`posthouse migrate-store` moves it to that one" in early.stderr.replace("\n", " ")
        done = site.run("migrate-store", str(file), url)
        assert done.returncode == 0, done.stderr
        assert "1 endpoints" in done.stdout
        site.environ["POSTHOUSE_DATABASE__URL"] = url
        site.start()
        assert [row["endpoint_name"] for row in site.json("endpoint", "list")] == ["llm"]
    finally:
        site.clear()

"""A backup is the whole installation, whichever database it is on, and is restored to either."""

import json
import signal
from pathlib import Path

import pytest

from posthouse.errors import BadRequest, Refused
from posthouse.keys import KeyRecord
from posthouse.sharing import KEY_FILES
from posthouse.store import SqlStore, open_store
from posthouse.store.backup import DATABASE, restore, save
from tests.kit.marks import long
from tests.kit.postgres import database_url
from tests.kit.rows import add_group, entry, needs_file, sqlite_url, worker
from tests.kit.site import Site


async def fill(url: str) -> None:
    """Rows of several kinds, and an id that was given and is free again."""
    store = await open_store(url)
    group = await add_group(store)
    await store.add_key(KeyRecord("k1", "first", "admin", "digest", 1.0))
    await store.put_secret((await store.accounts())[0].id, "name", "sealed")
    await store.commit(group.endpoint_id, 0, 1, [worker(n, endpoint_id=group.endpoint_id) for n in range(1, 9)], None)
    gone = await add_group(store, "gone")
    await store.drop_endpoint(gone.endpoint_id)
    await store.commit(group.endpoint_id, 1, 1, [], entry(1, group.endpoint_id))
    await store.close()


async def everything(store: SqlStore) -> list[object]:
    endpoint_id = (await store.endpoints())[0].id
    return [
        await store.installation(),
        await store.endpoints(),
        await store.templates(),
        await store.workergroups(),
        await store.keys(),
        await store.secrets(),
        await store.revisions(),
        await store.journal(endpoint_id, 10),
        await store.open_fleet(endpoint_id, 9),
    ]


@pytest.mark.parametrize(
    ("source", "target"),
    [("sqlite", "postgresql"), ("postgresql", "sqlite"), long("sqlite", "sqlite"), long("postgresql", "postgresql")],
)
async def test_what_was_saved_is_restored(tmp_path: Path, source: str, target: str) -> None:
    old, new, file = tmp_path / "old", tmp_path / "new", tmp_path / "backup.tar"
    for folder in (old, new):
        folder.mkdir()
    bodies = {name: f"body of {name}".encode() for name in KEY_FILES}
    old_url, new_url = (database_url() if kind == "postgresql" else "" for kind in (source, target))
    at = old_url or sqlite_url(old / DATABASE)
    await fill(at)
    store = await open_store(at)
    if (servers := store.servers(20.0)) is not None:
        for name, body in bodies.items():
            await servers.put_shared_file(name, body)
        await servers.register("a-1", "http://a", 1000.0)
    else:
        for name, body in bodies.items():
            (old / name).write_bytes(body)
    assert await save(old, old_url, file) == file.stat().st_size  # while it is in use
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadRequest, match="exists already"):
        await save(old, old_url, file)
    await restore(file, new, new_url)
    assert {name: (new / name).read_bytes() for name in KEY_FILES} == bodies
    assert sorted(path.name for path in new.iterdir()) == sorted([*KEY_FILES, *([] if new_url else [DATABASE])])
    restored = await open_store(new_url or sqlite_url(new / DATABASE))
    assert await everything(restored) == await everything(store)
    next_ids = [(await add_group(one, "next")).endpoint_id for one in (store, restored)]
    assert next_ids == [3, 3]
    if (servers := restored.servers(20.0)) is not None:
        assert await servers.renew("a-1", 1.0) is None  # no server of before lives
    await store.close()
    await restored.close()
    with pytest.raises(Refused, match="is there already"):
        await restore(file, new, new_url)


async def test_what_is_no_backup_or_no_installation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(BadRequest, match="is no backup of Posthouse"):
        await restore(tmp_path / "text", tmp_path / "new", "")
    with pytest.raises(BadRequest, match="name the directory of an installation"):
        await save(tmp_path / "new", "", tmp_path / "backup.tar")
    assert list((tmp_path / "new").iterdir()) == []
    assert not (tmp_path / "backup.tar").exists()


@pytest.mark.long
@needs_file
def test_a_server_goes_on_from_a_backup_of_it_while_it_ran(tmp_path: Path) -> None:
    site = Site(tmp_path)
    try:
        key = Path(site.start()["admin_key_file"]).read_text().strip()
        assert site.run("endpoint", "create", "llm", "--max-workers", "3", POSTHOUSE_API_KEY=key).returncode == 0
        done = site.run("backup", "saved.tar", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["file"] == "saved.tar"
        busy = site.run("restore", "saved.tar")
        assert (busy.returncode, "stop it first" in busy.stderr) == (1, True)
        assert site.stop(signal.SIGTERM)[0] == 0
        (tmp_path / "posthouse-data").rename(tmp_path / "lost")
        assert site.run("restore", "saved.tar").returncode == 0
        site.start()
        site.environ["POSTHOUSE_API_KEY"] = key
        assert [row["endpoint_name"] for row in site.json("endpoint", "list")] == ["llm"]
    finally:
        site.clear()

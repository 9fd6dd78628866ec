"""Secrets: by the unmodified command line, by HTTP, in the database, and in the environment of workers."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.client import AsyncClient
from posthouse.domain.endpoint import DEFAULT_ACCOUNT
from posthouse.engine.management.secrets import MAX_NAME, MAX_SECRETS, MAX_TOTAL_BYTES
from posthouse.errors import Refused
from posthouse.server.auth import SECRET_BYTES, Keyring
from tests.kit.commandline import Commandline
from tests.kit.live import live_server, until
from tests.kit.rows import needs_file
from tests.kit.web import Web, served

PATH = "/api/v0/secrets/"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        yield web


async def put(web: Web, name: object, value: object, method: str = "POST") -> tuple[int, str]:
    answer = await web.call(method, PATH, {"key": name, "value": value}, key="operate")
    return answer.status, answer.body["msg"]


async def values(web: Web) -> object:
    return (await web.call("GET", PATH, key="operate")).body["secrets"]


@pytest.mark.peer("GET /api/v0/secrets/", "K2", does="`show env-vars`")
@pytest.mark.peer("POST /api/v0/secrets/", "K2", does="`create env-var`")
@pytest.mark.peer("PUT /api/v0/secrets/", "K2", does="`update env-var`")
@pytest.mark.peer("DELETE /api/v0/secrets/", "K2", does="`delete env-var`")
async def test_the_command_line_keeps_variables(web: Web, tmp_path: Path) -> None:
    cli = Commandline(web.url, web.keys["operate"], tmp_path / "home")
    assert "No environment variables found." in await cli("show", "env-vars")
    created = await cli("create", "env-var", "HF_TOKEN", "hf_ä 1")
    assert created == "HF_TOKEN was created; instances made from now on have it\n"
    again = await cli("create", "env-var", "HF_TOKEN", "hf_2")
    assert again == "Failed with error 400: key: there is already a secret HF_TOKEN; update or delete it\n"
    hidden = await cli("show", "env-vars")
    assert hidden.startswith("Name: HF_TOKEN\nValue: *****\n---\n")
    assert await cli("show", "env-vars", "--show-values") == "Name: HF_TOKEN\nValue: hf_ä 1\n---\n"
    assert "HF_TOKEN was updated" in await cli("update", "env-var", "HF_TOKEN", "hf_2")
    assert await values(web) == {"HF_TOKEN": "hf_2"}
    assert "HF_TOKEN was deleted" in await cli("delete", "env-var", "HF_TOKEN")
    for words in (("update", "env-var", "HF_TOKEN", "x"), ("delete", "env-var", "HF_TOKEN")):
        assert await cli(*words) == "Failed with error 404: there is no secret HF_TOKEN\n"


async def test_only_who_may_make_templates_may_see_or_change_secrets(web: Web) -> None:
    await web.make_endpoint("llama")
    for method in ("GET", "POST", "PUT", "DELETE"):
        for key in ("route", "read", web.endpoint_key(next(iter(web.hub.endpoints)))):
            assert (await web.call(method, PATH, {"key": "A", "value": "b"}, key=key)).status == 403


@needs_file
async def test_the_database_has_no_value_in_clear(web: Web, tmp_path: Path) -> None:
    await put(web, "TOKEN", "a-value-to-look-for")
    with sqlite3.connect(tmp_path / "posthouse.db") as database:
        [(name, sealed)] = database.execute("select name, sealed from secrets").fetchall()
    assert name == "TOKEN"
    for file in tmp_path.glob("posthouse.db*"):
        assert b"a-value-to-look-for" not in file.read_bytes()
    assert web.keyring.unseal(name, sealed) == "a-value-to-look-for"


async def test_the_same_value_is_sealed_differently_each_time(web: Web) -> None:
    assert web.keyring.seal("x") != web.keyring.seal("x")


async def test_secrets_survive_a_restart(web: Web) -> None:
    await put(web, "B", "two")
    await put(web, "A", "one")
    await put(web, "B", "three", "PUT")
    before, web.hub.secrets = web.hub.secrets, {}
    await web.hub.load()
    assert web.hub.secrets == before
    assert await values(web) == {"A": "one", "B": "three"}


async def test_another_installations_secret_reads_nothing_and_what_it_cannot_read_can_be_deleted(web: Web) -> None:
    await put(web, "A", "one")
    web.hub.secrets[DEFAULT_ACCOUNT]["A"] = Keyring(b"x" * SECRET_BYTES, [], web.hub.endpoint).seal("one")
    with pytest.raises(Refused, match="the secret A cannot be read"):
        web.keyring.unseal("A", web.hub.secrets[DEFAULT_ACCOUNT]["A"])
    told = await web.call("GET", PATH)
    assert (told.status, told.body["error"]) == (409, "conflict")
    assert (await web.call("DELETE", PATH, {"key": "A"})).status == 200
    assert await put(web, "A", "two") == (200, "A was created; instances made from now on have it")


@pytest.mark.parametrize(
    "name",
    [
        *("", "1A", "A B", "A=B", "A\n", "Ä", "A" * (MAX_NAME + 1), None, 7),
        *("MASTER_TOKEN", "report_addr", "USE_SSL", "CONTAINER_ID", "VAST_TCP_PORT_3000", "WORKER_PORT"),
        *("POSTHOUSE_ROOT", "MODEL_LOG"),
    ],
)
async def test_a_name_that_cannot_be_is_refused(web: Web, name: object) -> None:
    status, text = await put(web, name, "a-value-to-look-for")
    assert (status, text[:5]) == (400, "key: ")
    assert "a-value-to-look-for" not in text


@pytest.mark.parametrize("value", [None, 7, ["x"], "a-value\0", "ä" * MAX_TOTAL_BYTES])
async def test_a_value_that_cannot_be_is_refused_and_not_repeated(web: Web, value: object) -> None:
    status, text = await put(web, "A", value)
    assert (status, text[:7]) == (400, "value: ")
    assert "a-value" not in text
    assert await values(web) == {}


async def test_values_are_kept_to_the_letter(web: Web) -> None:
    for value in ("", " two  words ", "line\nline\n", "$HOME `id` 'quoted' \\", "\N{SNOWMAN}" * 100):
        await put(web, "A", value)
        assert await values(web) == {"A": value}
        await web.call("DELETE", PATH, {"key": "A"})


async def test_secrets_have_a_bound_in_number_and_in_size(web: Web) -> None:
    for number in range(MAX_SECRETS):
        assert (await put(web, f"A{number}", ""))[0] == 200
    status, text = await put(web, "ONE_MORE", "")
    assert (status, f"there are {MAX_SECRETS} secrets" in text) == (400, True)
    names = sum(len(f"A{number}") for number in range(MAX_SECRETS))
    assert (await put(web, "A0", "x" * (MAX_TOTAL_BYTES - names), "PUT"))[0] == 200
    status, text = await put(web, "A1", "x", "PUT")
    assert (status, f"{MAX_TOTAL_BYTES + 1} bytes" in text) == (400, True)
    assert (await put(web, "A0", "x", "PUT"))[0] == 200


async def test_workers_made_afterwards_have_the_secrets_and_the_template_wins(tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as owner:
        cli = Commandline(server.url, server.admin_key, tmp_path / "home")
        for name, value in (("HF_TOKEN", "hf_a b"), ("MODEL", "from the secret")):
            assert "was created" in await cli("create", "env-var", name, value)
        template = await owner.create_template(
            name="t",
            env="-p 3000:3000 -e MODEL=llama",
            onstart="env -0 > seen.part; mv seen.part seen; sleep 300",
            loading_timeout_s=5400,
        )
        endpoint_id = await owner.create_endpoint("llama", min_load=1, cold_workers=0, max_workers=1)
        await owner.create_workergroup(endpoint_id=endpoint_id, template_hash=template.hash_id)
        workers = tmp_path / "data" / "workers"
        await until(lambda: any(workers.glob("*/home/seen")), "a worker that shows its environment")
        [seen] = workers.glob("*/home/seen")
        found = dict(pair.split("=", 1) for pair in seen.read_text().split("\0") if pair)
        assert (found["HF_TOKEN"], found["MODEL"]) == ("hf_a b", "llama")
        assert found["POSTHOUSE_LOADING_TIMEOUT_S"] == "5400"
        host, token = server.url.removeprefix("http://"), found["MASTER_TOKEN"]
        assert found["REPORT_ADDR"] == f"http://worker:{token}@{host}/w/{token}"

"""The unmodified command line and client of the protocol, against the management API."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web as aiohttp_web
from aiohttp.test_utils import TestServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from vastai import CoroutineServerless
from vastai.data.endpoint import EndpointConfig
from vastai.data.workergroup import WorkergroupConfig

from posthouse.domain.endpoint import EndpointId, EndpointState, Scaling
from posthouse.domain.workergroup import WorkergroupId
from tests.contract.commandline import Commandline
from tests.contract.web import Web, served, worker


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        yield web


async def test_the_command_line_does_its_whole_round(web: Web, tmp_path: Path) -> None:
    cli = Commandline(web.url, web.keys["admin"], tmp_path / "home")

    # fmt: off
    template = await cli.told(
        "create", "template", "--name", "tgi", "--image", "ghcr.io/x/tgi", "--env", "-p 3000:3000 -e A='b c'",
        "--onstart-cmd", "echo 'hello'", "--disk_space", "16", "--search_params", "gpu_ram>=23 num_gpus=1",
    )
    # fmt: on
    assert json.loads(template["extra_filters"])["gpu_ram"] == {"gte": 23000.0}
    assert (template["env"], template["recommended_disk_space"]) == ("-p 3000:3000 -e A='b c'", 16.0)

    created = await cli.told("create", "endpoint", "--endpoint_name", "LLama", "--min_load", "10")
    assert created == {"success": True, "result": 1}
    endpoint_id = EndpointId(1)
    said = Scaling(min_load=10.0, cold_mult=2.5, max_workers=20)  # the command line has defaults of its own
    assert web.hub.stall(endpoint_id).fleet.endpoint.scaling == said

    group = ["--endpoint_name", "LLama", "--template_hash", template["hash_id"]]
    assert await cli.told("create", "workergroup", *group) == {"success": True, "id": 1}
    assert web.hub.workergroups[WorkergroupId(1)].search_params == ""
    assert "400" in await cli("create", "workergroup", "--template_hash", template["hash_id"])

    [row] = json.loads(await cli("show", "endpoints"))
    assert (row["endpoint_name"], row["endpoint_state"], "api_key" in row) == ("LLama", "active", False)
    [row] = json.loads(await cli("show", "workergroups"))
    assert (row["endpoint_id"], row["template_hash"]) == (1, template["hash_id"])

    web.staff(worker(1))
    listed = await cli("get", "endpt-workers", "1")
    assert listed == "id=1 status=idle gpu_name=RTX 4090 measured_perf=100.0\n"

    updated = await cli.told("update", "endpoint", "1", "--endpoint_state", "stopped", "--max_workers", "3")
    assert updated == {"success": True}
    endpoint = web.hub.stall(endpoint_id).fleet.endpoint
    assert (endpoint.name, endpoint.state) == ("LLama", EndpointState.STOPPED)
    assert endpoint.scaling == Scaling(min_load=10.0, cold_mult=2.5, max_workers=3)

    assert await cli.told("update", "workergroup", "1", "--gpu_ram", "32", "--search_params", "gpu_ram>=40")
    assert web.hub.workergroups[WorkergroupId(1)].search_params.startswith("gpu_ram>=40 verified=True")

    # fmt: off
    updated = await cli("update", "template", template["hash_id"], "--name", "tgi", "--image", "ghcr.io/x/other")
    # fmt: on
    assert updated.startswith("updated template: ")
    changed = web.hub.templates[template["id"]]
    assert (changed.image, changed.env, changed.hash_id != template["hash_id"]) == (
        "ghcr.io/x/other",
        "-p 3000:3000 -e A='b c'",
        True,
    )

    assert (await cli("delete", "template", "--hash-id", changed.hash_id)).startswith("Error: 400")  # it is in use
    deleted = await cli.told("delete", "workergroup", "1")
    assert (deleted["success"], deleted["deleted_workers"]) == (True, 1)
    assert "was deleted" in await cli("delete", "template", "--hash-id", changed.hash_id)
    deleted = await cli.told("delete", "endpoint", "1")
    assert (deleted["success"], deleted["failed_workers"]) == (True, 0)
    assert "Failed with error 404: endpoint 1 does not exist" in await cli("update", "endpoint", "1")
    assert (web.hub.ids_by_name, web.hub.workergroups, web.hub.templates) == ({}, {}, {})


def root_certificate() -> bytes:
    """The client fetches one before its first call, also where it then speaks plain HTTP."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a root of no consequence")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
async def certificate_url(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Where the client, told so by its own attribute, fetches its root certificate."""
    pem = root_certificate()

    async def give(_: aiohttp_web.Request) -> aiohttp_web.Response:
        return aiohttp_web.Response(body=pem)

    application = aiohttp_web.Application()
    application.router.add_get("/root.cer", give)
    async with TestServer(application) as server:
        url = str(server.make_url("/root.cer"))
        monkeypatch.setattr(CoroutineServerless, "SSL_CERT_URL", url)
        yield url


@pytest.mark.usefixtures("certificate_url")
async def test_the_client_makes_and_finds_endpoints_and_workergroups(web: Web) -> None:
    template = await web.make_template()
    async with CoroutineServerless(web.keys["admin"], webserver_url=web.url, autoscaler_url=web.url) as client:
        managed = await client.create_endpoint(EndpointConfig(endpoint_name="llama", max_workers=4))
        assert web.hub.stall(managed.id).fleet.endpoint.scaling == Scaling(max_workers=4)

        first = await managed.add_workergroup(template["hash_id"])
        second = await managed.add_workergroup(WorkergroupConfig(template_id=template["id"], gpu_ram=8))
        third = await managed.add_workergroup(template_hash=template["hash_id"], search_params={"num_gpus": {"eq": 2}})
        kept = {g.id: g.search_params for g in web.hub.workergroups.values()}
        assert kept == {first: "", second: "", third: '{"num_gpus":{"eq":2}}'}
        assert await client.find_workergroup_for_endpoint(managed.id) == first

        web.staff(worker(7, endpoint_id=managed.id))
        endpoint = await client.get_endpoint("llama")
        assert (endpoint.id, endpoint.api_key) == (managed.id, web.endpoint_key(EndpointId(managed.id)))
        [seen] = await endpoint.get_workers()
        assert (seen.id, seen.status, seen.measured_perf) == (7, "idle", 100.0)
        assert (await client.fetch_endpoint(managed.id)).config.max_workers == 4

        await client.delete_workergroup(third)
        await managed.delete()
        assert await client.get_endpoints() == []
        with pytest.raises(Exception, match="HTTP 404"):
            await client.fetch_endpoint(managed.id)


@pytest.mark.usefixtures("certificate_url")
async def test_the_client_gives_up_at_once_on_a_wrong_key(web: Web) -> None:
    async with CoroutineServerless("wrong", webserver_url=web.url, autoscaler_url=web.url) as client:
        with pytest.raises(Exception, match="HTTP 401"):
            await client.get_endpoints()

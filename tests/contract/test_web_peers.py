"""The unmodified command line and client of the protocol, against the management API."""

import json
import re
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
from vastai import AsyncClient, CoroutineServerless
from vastai.data.deployment import DeploymentConfig
from vastai.data.endpoint import EndpointConfig
from vastai.data.workergroup import WorkergroupConfig

from posthouse.domain.endpoint import EndpointId, EndpointState, Scaling, WorkergroupId
from posthouse.domain.lifecycle import State
from posthouse.domain.offer import Offer, Price
from tests.kit.commandline import Commandline
from tests.kit.web import Web, served, worker

peer = pytest.mark.peer


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        yield web


@pytest.fixture
def cli(web: Web, tmp_path: Path) -> Commandline:
    return Commandline(web.url, web.keys["admin"], tmp_path / "home")


@peer("POST /api/v0/template", "K2", does="`create template`")
@peer("PUT /api/v1/template", "K2", does="`update template`")
@peer("DELETE /api/v0/template", "K2", does="`delete template`")
@peer("GET /api/v0/template", "K2", does="`update template`, which looks it up")
@peer("POST /api/v0/endptjobs", "K2", does="`create endpoint`")
@peer("GET /api/v0/endptjobs", "K2", does="`show endpoints`")
@peer("PUT /api/v0/endptjobs/{id}", "K2", does="`update endpoint`")
@peer("DELETE /api/v0/endptjobs/{id}", "K2", does="`delete endpoint`")
@peer("POST /api/v0/autojobs", "K2", does="`create workergroup`")
@peer("GET /api/v0/autojobs", "K2", does="`show workergroups`")
@peer("PUT /api/v0/autojobs/{id}", "K2", does="`update workergroup`")
@peer("DELETE /api/v0/autojobs/{id}", "K2", does="`delete workergroup`")
@peer("POST /get_endpoint_workers", "K2", does="`get endpt-workers`")
async def test_the_command_line_does_its_whole_round(web: Web, cli: Commandline) -> None:
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
    assert web.hub.managed(endpoint_id).fleet.endpoint.scaling == said

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
    endpoint = web.hub.managed(endpoint_id).fleet.endpoint
    assert (endpoint.name, endpoint.state) == ("LLama", EndpointState.STOPPED)
    assert endpoint.scaling == Scaling(min_load=10.0, cold_mult=2.5, max_workers=3)

    assert await cli.told("update", "workergroup", "1", "--gpu_ram", "32", "--search_params", "gpu_ram>=40")
    searched = web.hub.workergroups[WorkergroupId(1)].search_params
    assert searched == "gpu_ram>=40 verified=True rentable=True rented=False"
    assert await cli.told("update", "workergroup", "1", "--gpu_ram", "16")
    changed_group = web.hub.workergroups[WorkergroupId(1)]
    assert (changed_group.gpu_ram, changed_group.search_params) == (16.0, searched)

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
    assert ([*web.hub.directory], web.hub.workergroups, web.hub.templates) == ([], {}, {})


@peer("GET /api/v0/users/current", "K2", does="`show user`")
@peer("GET /api/v0/template", "K2", does="`search templates`")
@peer("POST /api/v0/bundles", "K2", does="`search offers`")
@peer("PUT /api/v0/search/asks", "K2", does="`search offers --new`")
@peer("GET /api/v0/benchmarks", "K2", does="`search benchmarks`: none are kept")
@peer("GET /api/v0/instances/{id}", "K2", does="`show instance`, of a worker")
@peer("GET /api/v1/instances", "K2", does="`show instances`: the workers, filtered, in any order, in pages")
async def test_the_command_line_looks_around(web: Web, cli: Commandline) -> None:
    assert json.loads(await cli("show", "user", "--raw"))["username"] == web.hub.installation
    for name in ("one", "two"):
        await web.make_template(name, extra_filters={"gpu_ram": {"gte": 24000}})
    [found] = json.loads(await cli("search", "templates", "name=two"))
    assert (found["name"], json.loads(found["extra_filters"])) == ("two", {"gpu_ram": {"gte": 24000}})
    web.shelf.stock = [
        Offer(f"o{i}", "shelf", "m", Price(usd_h, 0.4, 0.1), "RTX 4090", 1, gpu_ram_mb=24_564, zone="DE")
        for i, usd_h in enumerate([0.5, 2.0, 0.5, 0.5])
    ]
    await web.hub.offers.refresh(web.shelf)
    row = {"machine_id": "m", "gpu_name": "RTX 4090", "num_gpus": 1, "dph_total": 0.5, "dph_base": 0.4}
    row |= {"gpu_ram": 24_564, "geolocation": "DE", "reliability": 1.0}
    for words in (["--limit", "2"], ["--limit", "2", "--new"]):
        offers = json.loads(await cli("search", "offers", "gpu_name=RTX_4090 dph<1", *words, "--raw"))
        assert offers == [{"id": i, **row} for i in ("o0", "o2")]
    assert "type: must be one of on-demand" in await cli("search", "offers", "--type", "bid")
    assert json.loads(await cli("search", "benchmarks", "--raw")) == []
    await web.make_endpoint()
    web.staff(worker(1))
    shown = json.loads(await cli("show", "instance", "1", "--raw"))
    assert (shown["id"], shown["gpu_name"], shown["dph_total"]) == (1, "RTX 4090", 0.5)
    assert "Failed with error 404: worker 2 does not exist" in await cli("show", "instance", "2")
    web.staff(*(worker(n, state=State.STOPPED if n % 2 else State.IDLE) for n in range(1, 31)))
    listed = json.loads(await cli("show", "instances", "--raw"))
    assert [row["id"] for row in listed] == [*range(1, 31)]  # two pages
    assert [row["actual_status"] for row in listed[:2]] == ["stopped", "running"]
    told = json.loads(
        await cli(*["show", "instances", "--raw", "--limit", "2", "--status", "running", "--order-by"], "id desc")
    )
    assert ([row["id"] for row in told["instances"]], told["total_instances"]) == ([30, 28], 15)
    assert "order_by: unknown field 'x'" in await cli("show", "instances", "--raw", "--order-by", "x")
    assert "30" in await cli("show", "instances")
    every = (await web.call("GET", "/api/v0/instances/?owner=me")).body  # as programs of before 2026 ask
    assert (len(every["instances"]), every["next_token"]) == (30, None)


@peer("POST /api/v0/endptjobs", "K2", does="`create endpoint`: a taken name, a number out of bounds")
@peer("PUT /api/v0/endptjobs/{id}", "K2", does="`update endpoint`: an unknown state")
@peer("PUT /api/v0/autojobs/{id}", "K2", does="`update workergroup`: a search that is none")
async def test_the_command_line_says_what_was_wrong(web: Web, cli: Commandline) -> None:
    endpoint_id = await web.make_endpoint("llama")
    template = await web.make_template()
    await web.call("POST", "/api/v0/autojobs/", {"endpoint_id": endpoint_id, "template_id": template["id"]})
    for words, told in (
        ("create endpoint --endpoint_name llama", "endpoint_name: 'llama' is taken"),
        ("create endpoint --endpoint_name other --target_util 7", "target_util: must be a number from 0.01 to 1"),
        (f"update endpoint {endpoint_id} --endpoint_state paused", "endpoint_state: must be one of active, suspended"),
        (
            "update workergroup 1 -n --search_params gpu_ram",
            "search_params: search: expected an operator after",
        ),
        ("delete workergroup 2", "workergroup 2 does not exist"),
    ):
        assert re.search(rf"^Failed with error 4\d\d: {re.escape(told)}", await cli(*words.split()), re.M), words


NOT_BUILT = {
    "show deployments": "GET /api/v0/deployments",
    "show deployment 1": "GET /api/v0/deployment/1",
    "delete deployment 1": "DELETE /api/v0/deployment/1",
    "show scheduled-jobs": "GET /api/v0/commands/schedule_job",
    "show gpu-metrics": "GET /api/v0/metrics/gpu/current",
    "create instance 1 --image x": "PUT /api/v0/asks/1",
    "stop instance 1": "PUT /api/v0/instances/1",
    "logs 1": "PUT /api/v0/instances/request_logs/1",
    "show api-keys": "GET /api/v0/auth/apikeys",
}
"""Commands for which there is no call here, with the call they make."""


@pytest.mark.parametrize(
    ("words", "call"),
    [
        pytest.param(words, call, marks=peer(re.sub(r"/1\b", "/{id}", call), "K2", does=f"`{words}`", works=False))
        for words, call in NOT_BUILT.items()
    ],
)
async def test_the_command_line_is_told_of_a_call_that_is_not_there(cli: Commandline, words: str, call: str) -> None:
    printed = await cli(*words.split())
    assert re.search(rf"Failed with error 40[45]: there is no call {call}/? here", printed), printed


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
        for client in (CoroutineServerless, AsyncClient):
            monkeypatch.setattr(client, "SSL_CERT_URL", url)
        yield url


@peer("POST /api/v0/endptjobs", "C1", does="`create_endpoint`")
@peer("GET /api/v0/endptjobs", "C1", does="`get_endpoints`, `get_endpoint`")
@peer("GET /api/v0/endptjobs/{id}", "C1", does="`fetch_endpoint`")
@peer("DELETE /api/v0/endptjobs/{id}", "C1", does="`ManagedEndpoint.delete`")
@peer("POST /api/v0/workergroups", "C1", does="`add_workergroup`: by hash, by its own object, by words")
@peer("GET /api/v0/workergroups", "C1", does="`find_workergroup_for_endpoint`")
@peer("DELETE /api/v0/workergroups/{id}", "C1", does="`delete_workergroup`")
@peer("POST /get_endpoint_workers", "C1", does="`Endpoint.get_workers`")
@pytest.mark.usefixtures("certificate_url")
async def test_the_client_makes_and_finds_endpoints_and_workergroups(web: Web) -> None:
    template = await web.make_template()
    async with CoroutineServerless(web.keys["admin"], webserver_url=web.url, autoscaler_url=web.url) as client:
        managed = await client.create_endpoint(EndpointConfig(endpoint_name="llama", max_workers=4))
        assert web.hub.managed(managed.id).fleet.endpoint.scaling == Scaling(max_workers=4)

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


@peer("GET /api/v0/endptjobs", "C1", does="`get_endpoints` with a wrong key: an error at once")
@pytest.mark.usefixtures("certificate_url")
async def test_the_client_gives_up_at_once_on_a_wrong_key(web: Web) -> None:
    async with CoroutineServerless("wrong", webserver_url=web.url, autoscaler_url=web.url) as client:
        with pytest.raises(Exception, match="HTTP 401"):
            await client.get_endpoints()


@peer("GET /api/v0/endptjobs", "C1", does="`AsyncClient.serverless`")
@peer("PUT /api/v0/deployments", "C1", "D", does="`put_deployment`", works=False)
@pytest.mark.usefixtures("certificate_url")
async def test_the_client_below_deployments_finds_endpoints_and_is_told_that_there_are_no_deployments(web: Web) -> None:
    await web.make_endpoint("llama")
    async with AsyncClient(web.keys["admin"], vast_server=web.url) as below:
        client = below.serverless(autoscaler_url=web.url)
        assert (await client.get_endpoint("llama")).name == "llama"
        with pytest.raises(Exception, match=r"HTTP 404 .*there is no call PUT /api/v0/deployments here"):
            await client.put_deployment(DeploymentConfig("square", "python:3.12", "0" * 64, 1))

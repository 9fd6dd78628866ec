"""What the Kubernetes provider does at a real API server: the contract of every provider, and more."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes.aio.config import incluster_config

from posthouse.domain.lifecycle import Observation
from posthouse.errors import Busy, NotFound, Refused
from posthouse.ports import Provider, RegistryLogin
from posthouse.providers.kubernetes import api as api_module
from posthouse.providers.kubernetes import making as making_module
from posthouse.providers.kubernetes import provider as provider_module
from posthouse.providers.kubernetes import workers as workers_module
from tests.kit.kubelet import Kubelet
from tests.kit.kubernetes_cluster import LEAST, NAMESPACE, RBAC, TIMEOUT_S, Cluster
from tests.kit.provider_contract import (
    ProviderContract,
    eventually,
    listed,
    opened_provider,
    printed,
    rent,
    seen_as,
    spec,
)

pytest_plugins = "tests.kit.cluster"

USUAL: dict[str, object] = {
    "type": "kubernetes",
    "image": "demo",
    "agent": "image",
    "gpus_per_worker": 0,
    "cpus": 2,
    "max_workers": 4,
    "ready_usd_h": 0.1,
    "grace_s": 1,
}


def provider_at(
    cluster: Cluster, bell: Callable[[], None] = lambda: None, **table: object
) -> AbstractAsyncContextManager[Provider]:
    """With the roles of the example."""
    return opened_provider("kube", USUAL | {"kubeconfig": str(cluster.kubeconfig(LEAST))} | table, bell=bell)


@pytest.fixture
async def kube(cluster: Cluster, node: Kubelet) -> AsyncIterator[Provider]:
    async with provider_at(cluster) as provider:
        yield provider
        for instance in await provider.instances():
            await provider.destroy(instance.id)
    assert not cluster.everything()


@pytest.fixture(scope="module")
def gateway_api(cluster: Cluster) -> None:
    """The cluster knows routes of Gateways; nothing makes traffic of them."""
    route = yaml.safe_load(Path("tests/kit/httproute.yaml").read_text(encoding="utf-8"))
    made = cluster.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", route)
    assert made["kind"] == "CustomResourceDefinition", made
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        with suppress(ValueError):  # until it knows them it answers in plain text
            if cluster.ask("GET", ROUTES)["kind"] == "HTTPRouteList":
                return
        time.sleep(0.1)
    pytest.fail("the cluster does not learn of routes")


class TestKubernetesProvider(ProviderContract):
    @pytest.fixture
    def provider(self, kube: Provider) -> Provider:
        return kube


HERE = f"/api/v1/namespaces/{NAMESPACE}"
ROUTES = f"/apis/gateway.networking.k8s.io/v1/namespaces/{NAMESPACE}/httproutes"
GATEWAY: dict[str, Any] = {"address": "gateway", "gateway": "infra/public"}
FOREVER = "echo up; exec sleep 600"


@contextmanager
def object_of(cluster: Cluster, kind: str, body: dict[str, Any]) -> Iterator[None]:
    """An object of an operator's, while the context lasts."""
    made = cluster.ask("POST", f"{HERE}/{kind}", body)
    assert made["kind"] == body["kind"], made
    try:
        yield
    finally:
        cluster.ask("DELETE", f"{HERE}/{kind}/{body['metadata']['name']}")


# -- rights ----------------------------------------------------------------------------------------------------------


async def test_every_right_of_the_example_is_needed_and_no_other_is(
    cluster: Cluster, node: Kubelet, gateway_api: None
) -> None:
    bell = asyncio.Event()
    async with provider_at(cluster, bell.set) as kube:
        async with asyncio.timeout(60):
            await bell.wait()  # the watch has begun
        login = RegistryLogin("ghcr.io", "ali", "sesame")
        made = await rent(kube, replace(spec(1, FOREVER), registry=login))
        await printed(kube, made.id, "up")
        await kube.update(made.id, replace(spec(1, FOREVER), ports=(3000, 8000), registry=login))
        await kube.stop(made.id)
        await kube.start(made.id)
        await kube.destroy(made.id)
    async with provider_at(cluster, gateway_url="https://{worker}.llm.example.com", **GATEWAY) as kube:
        made = await rent(kube, spec(1, FOREVER))
        await kube.update(made.id, replace(spec(1, FOREVER), ports=(8000,)))
        await kube.destroy(made.id)
    granted = set()
    for body in yaml.safe_load_all(RBAC.read_text(encoding="utf-8")):
        for rule in body.get("rules", ()):
            granted |= {(kind, verb) for kind in rule["resources"] for verb in rule["verbs"]}
    used = {(kind, verb) for kind, verb in cluster.rights_used(LEAST) if kind}
    assert used == granted
    for path in (f"{HERE}/secrets", "/api/v1/secrets", "/api/v1/namespaces/default/configmaps"):
        assert cluster.ask("GET", path, user=LEAST)["code"] == 403


async def test_inside_the_cluster_it_has_its_service_account_and_needs_no_kubeconfig(
    cluster: Cluster, node: Kubelet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    asked["spec"] = {"audiences": ["https://test"], "expirationSeconds": 3600}
    given = cluster.ask("POST", f"{HERE}/serviceaccounts/posthouse/token", asked)
    (tmp_path / "token").write_text(given["status"]["token"])  # as the kubelet puts it into the server's Pod
    place = urlsplit(cluster.url)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(place.hostname))
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(place.port))
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(cluster.folder / "certs" / "apiserver.crt"))
    async with opened_provider("kube", USUAL) as kube:
        made = await rent(kube, spec(1, FOREVER))
        await seen_as(kube, made.id, Observation.RUNNING)
        await kube.destroy(made.id)


async def test_the_example_s_server_is_taken_by_the_cluster(cluster: Cluster) -> None:
    for body in yaml.safe_load_all((RBAC.parent / "server.yaml").read_text(encoding="utf-8")):
        group = "/apis/apps/v1" if body["apiVersion"] == "apps/v1" else "/api/v1"
        path = f"{group}/namespaces/{NAMESPACE}/{body['kind'].lower()}s?dryRun=All"
        assert cluster.ask("POST", path, body)["kind"] == body["kind"]


async def test_without_rights_the_provider_names_what_is_missing(cluster: Cluster, node: Kubelet) -> None:
    async with provider_at(cluster, namespace="default") as kube:
        with pytest.raises(Refused, match=r"cannot list resource .configmaps.*rbac\.yaml"):
            await kube.instances()
        assert "configmaps" in kube.troubles()[0]


# -- what a worker is --------------------------------------------------------------------------------------------------


async def test_a_worker_takes_all_with_it_but_what_is_shared_and_shows_no_secret(
    cluster: Cluster, kube: Provider
) -> None:
    made = await rent(kube, spec(1, FOREVER, TOKEN="hush"))
    await seen_as(kube, made.id, Observation.RUNNING)
    name = "posthouse-test-1"
    kinds = ("configmaps", "pods", "persistentvolumeclaims", "services")
    assert cluster.everything() == {f"{kind}/{name}" for kind in kinds} | {f"secrets/{name}-env0"}
    assert "hush" not in str([cluster.ask("GET", f"{HERE}/{kind}") for kind in kinds])
    [record] = cluster.ask("GET", f"{HERE}/configmaps?labelSelector=posthouse.installation")["items"]
    for kind in ("pods", "persistentvolumeclaims", "services"):
        [owner] = cluster.ask("GET", f"{HERE}/{kind}/{name}")["metadata"]["ownerReferences"]
        assert owner["uid"] == record["metadata"]["uid"]
    await kube.stop(made.id)
    assert cluster.everything() == {f"{kind}/{name}" for kind in kinds if kind != "pods"} | {f"secrets/{name}-env0"}
    await kube.destroy(made.id)
    assert not cluster.everything()


@pytest.mark.parametrize(
    ("address", "host"), [("pod", ""), ("host_port", ""), ("cluster_ip", ""), ("node_port", "box")]
)
async def test_a_worker_is_reached_as_the_settings_say(
    cluster: Cluster, node: Kubelet, address: str, host: str
) -> None:
    async with provider_at(cluster, address=address, host=host) as kube:
        made = await rent(kube, replace(spec(1, "env; exec sleep 600"), ports=(3000, 8000)))
        runs = await seen_as(kube, made.id, Observation.RUNNING)
        log = await printed(kube, made.id, "PUBLIC_IPADDR")
        env = dict(line.split("=", 1) for line in log.splitlines() if "=" in line)
        where = {f"{env['PUBLIC_IPADDR']}:{env[f'VAST_TCP_PORT_{port}']}" for port in (3000, 8000)}
        assert runs.addresses == where
        service = cluster.ask("GET", f"{HERE}/services/{made.id}")
        match address:
            case "pod":
                assert where == {"127.0.0.1:3000", "127.0.0.1:8000"}
            case "host_port":
                [worker] = cluster.pod(made.id)["spec"]["containers"]
                assert {f"127.0.0.1:{port['hostPort']}" for port in worker["ports"]} == where
            case "cluster_ip":
                assert {f"{service['spec']['clusterIP']}:{port}" for port in (3000, 8000)} == where
            case _:
                assert {f"box:{port['nodePort']}" for port in service["spec"]["ports"]} == where
        assert (service["kind"] == "Service") == (address in ("cluster_ip", "node_port"))
        await kube.destroy(made.id)
    assert not cluster.everything()


@pytest.mark.parametrize(
    ("url", "host", "path", "outside"),
    [
        ("https://{worker}.llm.example.com", "posthouse-test-1.llm.example.com", "/", "443"),
        ("http://llm.example.com:8080/w/{worker}", "llm.example.com", "/w/posthouse-test-1", "8080"),
    ],
)
async def test_a_worker_is_reached_by_a_route_of_a_gateway(
    cluster: Cluster, node: Kubelet, gateway_api: None, url: str, host: str, path: str, outside: str
) -> None:
    whole = url.replace("{worker}", "posthouse-test-1")
    async with provider_at(cluster, gateway_url=url, **GATEWAY) as kube:
        made = await rent(kube, spec(1, "env; exec sleep 600"))
        runs = await seen_as(kube, made.id, Observation.RUNNING)
        assert runs.addresses == {whole}
        log = await printed(kube, made.id, "POSTHOUSE_WORKER_URL")
        assert {f"POSTHOUSE_WORKER_URL={whole}", f"PUBLIC_IPADDR={host}", f"VAST_TCP_PORT_3000={outside}"} <= set(
            log.splitlines()
        )
        route = cluster.ask("GET", f"{ROUTES}/{made.id}")
        [parent], [rule] = route["spec"]["parentRefs"], route["spec"]["rules"]
        assert (parent["kind"], parent["namespace"], parent["name"]) == ("Gateway", "infra", "public")
        assert route["spec"]["hostnames"] == [host]
        assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": path}}]
        rewritten = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
        assert [one["urlRewrite"]["path"] for one in rule.get("filters", ())] == ([rewritten] if path != "/" else [])
        assert [(one["kind"], one["name"], one["port"]) for one in rule["backendRefs"]] == [("Service", made.id, 3000)]
        assert route["metadata"]["ownerReferences"][0]["name"] == made.id
        await kube.stop(made.id)
        assert cluster.ask("GET", f"{ROUTES}/{made.id}")["spec"] == route["spec"], "its address is kept"
        await kube.update(made.id, replace(spec(1, FOREVER), ports=(8000,)))
        [rule] = cluster.ask("GET", f"{ROUTES}/{made.id}")["spec"]["rules"]
        assert rule["backendRefs"][0]["port"] == 8000
        assert (await seen_as(kube, made.id, Observation.RUNNING)).addresses == {whole}
        await kube.destroy(made.id)
        assert cluster.ask("GET", ROUTES)["items"] == []
    assert not cluster.everything()


async def test_a_worker_waits_for_its_load_balancer(
    cluster: Cluster, node: Kubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making_module, "ADDRESS_LOOK_S", 0.1)
    async with provider_at(cluster, address="load_balancer") as kube:
        made = await rent(kube, spec(1, FOREVER))
        assert (made.seen, made.addresses) == (Observation.PROVISIONING, frozenset())
        assert "load balancer" in made.message
        path = f"{HERE}/services/{made.id}"
        while cluster.ask("GET", path)["kind"] != "Service":
            await asyncio.sleep(0.1)
        cluster.ask("PATCH", f"{path}/status", {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}})
        runs = await seen_as(kube, made.id, Observation.RUNNING)
        assert runs.addresses == {"203.0.113.5:3000"}
        second = await rent(kube, spec(2, FOREVER))
        await kube.destroy(second.id)  # while it waits
        await kube.destroy(made.id)
    assert not cluster.everything()


async def test_without_a_volume_there_are_no_cold_workers(cluster: Cluster, node: Kubelet) -> None:
    async with provider_at(cluster, workspace="ephemeral") as kube:
        assert not kube.capabilities.stop
        made = await rent(kube, spec(1, FOREVER))
        await seen_as(kube, made.id, Observation.RUNNING)
        assert not cluster.names("persistentvolumeclaims")
        cluster.end(made.id)
        assert "evicted" in (await seen_as(kube, made.id, Observation.EXITED)).message
        await kube.destroy(made.id)
    assert not cluster.everything()


# -- interruptions and limits ------------------------------------------------------------------------------------------


async def test_an_evicted_worker_rests_on_its_volume_and_is_started_again(cluster: Cluster, kube: Provider) -> None:
    made = await rent(kube, spec(1, "echo 1 >>runs; echo runs $(wc -l <runs).; exec sleep 600"))
    await printed(kube, made.id, "runs 1.")
    cluster.end(made.id)
    gone = await seen_as(kube, made.id, Observation.HALTED)
    assert "evicted" in gone.message
    await kube.start(made.id)
    await printed(kube, made.id, "runs 2.")
    status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    cluster.ask("PATCH", f"{HERE}/pods/{made.id}/status", {"status": status})
    evicted = await seen_as(kube, made.id, Observation.HALTED)
    assert "low on resource: memory" in evicted.message
    await kube.start(made.id)
    await printed(kube, made.id, "runs 3.")


async def test_a_worker_that_finds_no_node_says_why(node: Kubelet, kube: Provider) -> None:
    node.full = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    try:
        made = await rent(kube, spec(1, FOREVER))

        async def told() -> bool:
            found = await listed(kube, made.id)
            return bool(found and "Insufficient nvidia.com/gpu" in found.message)

        await eventually(told)
        assert await seen_as(kube, made.id, Observation.PROVISIONING)
    finally:
        node.full = ""
    node.look_again()
    assert await seen_as(kube, made.id, Observation.RUNNING)


async def test_an_image_that_cannot_be_pulled_is_told(cluster: Cluster, node: Kubelet, kube: Provider) -> None:
    node.hold.add("posthouse-test-1")
    try:
        made = await rent(kube, spec(1, FOREVER))
        assert await seen_as(kube, made.id, Observation.PULLING)
        for reason, message in (("ErrImagePull", "manifest unknown"), ("ImagePullBackOff", "Back-off pulling image")):
            one = {"name": "worker", "image": "demo", "imageID": "", "restartCount": 0, "ready": False}
            waiting = one | {"state": {"waiting": {"reason": reason, "message": message}}}
            cluster.ask("PATCH", f"{HERE}/pods/{made.id}/status", {"status": {"containerStatuses": [waiting]}})
            await kube.instances()
        assert "there is no such image" in (await seen_as(kube, made.id, Observation.EXITED)).message
    finally:
        node.hold.clear()
    await kube.destroy(made.id)


async def test_a_full_namespace_is_busy_and_nothing_is_left(cluster: Cluster, kube: Provider) -> None:
    hard = {"hard": {"pods": "0"}}
    with object_of(
        cluster,
        "resourcequotas",
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": hard},
    ):
        cluster.ask("PATCH", f"{HERE}/resourcequotas/q/status", {"status": hard | {"used": {"pods": "0"}}})
        with pytest.raises(Busy, match="exceeded quota"):
            await rent(kube, spec(1, FOREVER))
        assert not cluster.everything()


async def test_what_is_not_admitted_is_refused_and_changes_nothing(cluster: Cluster, kube: Provider) -> None:
    made = await rent(kube, spec(1, FOREVER))
    await seen_as(kube, made.id, Observation.RUNNING)
    uid = cluster.pod(made.id)["metadata"]["uid"]
    limits = {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}
    body = {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": limits}
    with object_of(cluster, "limitranges", body):
        with pytest.raises(Refused, match="cpu limit"):
            await rent(kube, spec(2, FOREVER))
        with pytest.raises(Refused, match="cpu limit"):
            await kube.update(made.id, spec(1, "echo new"))
    assert cluster.pod(made.id)["metadata"]["uid"] == uid
    assert [one.id for one in await kube.instances()] == [made.id]


async def test_a_node_that_does_not_answer_keeps_its_worker_listed(
    cluster: Cluster, node: Kubelet, kube: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "GONE_S", 0.5)
    made = await rent(kube, spec(1, FOREVER))
    await seen_as(kube, made.id, Observation.RUNNING)
    node.hold.add(made.id)
    try:
        with pytest.raises(Busy, match="has not confirmed"):
            await kube.destroy(made.id)
        assert [one.id for one in await kube.instances()] == [made.id]
        assert f"persistentvolumeclaims/{made.id}" in cluster.everything()
    finally:
        node.hold.clear()
    node.look_again()
    monkeypatch.undo()
    await kube.destroy(made.id)
    assert not cluster.everything()


# -- others ------------------------------------------------------------------------------------------------------------


async def test_nothing_of_others_is_touched(cluster: Cluster, kube: Provider) -> None:
    others = {"posthouse.installation": "other"}
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "posthouse-other-1", "labels": others}}
    taken = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "posthouse-test-2"}}
    with object_of(cluster, "configmaps", theirs), object_of(cluster, "configmaps", taken):
        made = await rent(kube, spec(1, FOREVER))
        assert [one.id for one in await kube.instances()] == [made.id]
        for name in ("posthouse-other-1", "posthouse-test-2"):
            await kube.destroy(name)
            await kube.stop(name)
        with pytest.raises(NotFound):
            await kube.start("posthouse-test-2")
        with pytest.raises(Refused, match="somebody else"):
            await rent(kube, spec(2, FOREVER))
        await kube.destroy(made.id)
        assert cluster.everything() == {"configmaps/posthouse-other-1", "configmaps/posthouse-test-2"}


async def test_two_servers_that_make_the_same_worker_make_one(cluster: Cluster, kube: Provider) -> None:
    async with provider_at(cluster) as other:
        await asyncio.gather(*(rent(one, spec(1, FOREVER)) for one in (kube, other, kube, other)))
        assert await seen_as(other, "posthouse-test-1", Observation.RUNNING)
    assert len(cluster.everything()) == 5


async def test_a_claim_s_name_that_somebody_has_is_refused_and_their_claim_stays(
    cluster: Cluster, kube: Provider
) -> None:
    wanted = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    body = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "posthouse-test-1"},
        "spec": wanted,
    }
    with object_of(cluster, "persistentvolumeclaims", body):
        with pytest.raises(Refused, match="somebody else"):
            await rent(kube, spec(1, FOREVER))
        assert cluster.everything() == {"persistentvolumeclaims/posthouse-test-1"}


async def test_the_bell_rings_when_a_worker_ends(cluster: Cluster, node: Kubelet) -> None:
    bell = asyncio.Event()
    async with provider_at(cluster, bell.set) as kube:
        async with asyncio.timeout(60):
            await bell.wait()
            made = await rent(kube, spec(1, FOREVER))
            await seen_as(kube, made.id, Observation.RUNNING)
            await asyncio.sleep(0.5)
            bell.clear()
            cluster.end(made.id)
            await bell.wait()
        await kube.destroy(made.id)


async def test_a_watch_of_what_the_cluster_has_forgotten_ends(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = api_module.Cluster("kube", cluster.kubeconfig(LEAST), "", 20.0)
    old = cluster.ask("GET", f"{HERE}/pods")["metadata"]

    async def list_of_before(*_: object, **__: object) -> dict[str, Any]:
        return {"metadata": old}

    async def begun() -> bool:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
        with object_of(cluster, "configmaps", body), suppress(TimeoutError):
            async with asyncio.timeout(1):
                async for _ in client.changes(f"{HERE}/pods", {}):
                    pass
        return False

    monkeypatch.setattr(client, "call", list_of_before)
    with pytest.raises(api_module.Expired, match="too old"):
        await eventually(begun)
    await client.close()


async def test_a_cluster_that_is_away_is_no_empty_list(cluster: Cluster) -> None:
    away = str(cluster.kubeconfig(url="https://127.0.0.1:1"))
    async with provider_at(cluster, kubeconfig=away) as kube:
        with pytest.raises(ConnectionError):
            await kube.instances()
        assert "https://127.0.0.1:1" in kube.troubles()[0]


# -- cut short at every call of the cluster ----------------------------------------------------------------------------


class Cut(BaseException):
    """The server dies here."""


class Calls:
    """Counts the calls that change a cluster, and breaks off right after one: it was made, and nobody hears of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 10**6
        self.error: type[BaseException] = Cut
        ask = api_module.Cluster._bytes

        async def cut(cluster: Any, method: str, *given: Any) -> bytes:
            answer = await ask(cluster, method, *given)
            if method != "GET":
                self.left -= 1
                if self.left == 0:
                    raise self.error
            return answer

        monkeypatch.setattr(api_module.Cluster, "_bytes", cut)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        *(("create", error) for error in (Cut, ConnectionError, TimeoutError, asyncio.CancelledError)),
        ("update", Cut),
    ],
)
async def test_whatever_call_is_the_last_one_nothing_is_lost_or_made_twice(
    cluster: Cluster,
    node: Kubelet,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    error: type[BaseException],
) -> None:
    calls = Calls(monkeypatch)
    calls.error = error
    old, new, last, over = spec(1, "echo old; exec sleep 600"), spec(1, "echo new; exec sleep 600"), 0, False
    while not over:
        last, calls.left = last + 1, 10**6
        async with provider_at(cluster) as kube:
            offer = (await kube.catalog())[0]
            if call == "update":
                await kube.create(offer.id, old, 1.0)
            calls.left = last
            with suppress(error):
                await (kube.create(offer.id, new, 1.0) if call == "create" else kube.update("posthouse-test-1", new))
            over, calls.left = calls.left > 0, 10**6
            if error is Cut:
                assert len(await kube.instances()) == 1
        async with provider_at(cluster) as kube:
            assert [one.id for one in await kube.instances()] == ["posthouse-test-1"]
            made = await kube.create(offer.id, new, 1.0)
            if call == "update" and last % 2:
                made = await kube.update(made.id, new)
            elif made.seen is Observation.HALTED:  # as the engine goes on: from what is listed
                await kube.start(made.id)
            elif call == "update":
                await kube.update(made.id, new)
            await printed(kube, made.id, "new")
            assert len(cluster.names("pods")) == 1
            await kube.destroy(made.id)
            assert not cluster.everything()
    assert last > 5


@pytest.mark.parametrize("call", ["stop", "start", "destroy"])
async def test_a_command_that_was_cut_short_is_given_again(
    cluster: Cluster, node: Kubelet, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    calls, last, over = Calls(monkeypatch), 0, False
    while not over:
        last += 1
        async with provider_at(cluster) as kube:
            made = await rent(kube, spec(1, FOREVER))
            await seen_as(kube, made.id, Observation.RUNNING)
            if call == "start":
                await kube.stop(made.id)
            calls.left = last
            with suppress(Cut):
                await getattr(kube, call)(made.id)
            over, calls.left = calls.left > 0, 10**6
        async with provider_at(cluster) as kube:
            await getattr(kube, call)(made.id)
            ended = {"stop": Observation.HALTED, "start": Observation.RUNNING}.get(call)
            if ended:
                assert await seen_as(kube, made.id, ended)
            await kube.destroy(made.id)
        assert not cluster.everything()
    assert last > 1


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider_module, "LOOK_S", 0.05)
    monkeypatch.setattr(provider_module, "EVENTS_AGAIN_S", 0.2)

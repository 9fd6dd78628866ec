"""The Kubernetes provider without a cluster: pools of nodes, objects that are made, and what is read of a Pod."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from posthouse.config import load_settings
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Capabilities
from posthouse.errors import BadRequest, Busy, NotFound, Refused
from posthouse.ports import InstanceSpec, RegistryLogin
from posthouse.providers.answers import NoAnswer
from posthouse.providers.kubernetes import KubernetesPlugin, listing, objects
from posthouse.providers.kubernetes.api import AlreadyThere, Expired, meaning
from posthouse.providers.kubernetes.listing import Found, Record
from posthouse.providers.kubernetes.objects import Way
from posthouse.providers.kubernetes.pools import Market, kind_of, quantity
from posthouse.providers.kubernetes.settings import KubernetesSettings
from posthouse.providers.plugin import Context

Json = dict[str, Any]
PRODUCT, ZONE = "nvidia.com/gpu.product", "topology.kubernetes.io/zone"
SPEC = InstanceSpec(
    "posthouse-test-1", 1, "team/model:1", "echo $HOME $(date) $$", 20.0, {"TOKEN": "hush"}, (3000, 8000)
)


# -- nodes -----------------------------------------------------------------------------------------------------------


def node(name: str, gpus: int = 0, labels: Json | None = None, **spec: Any) -> Json:
    """One that is ready."""
    room = {"cpu": "15920m", "memory": "64Gi", "pods": "110"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": spec,
        "status": {"allocatable": room, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def foreign(at: str, **requests: str) -> Json:
    return {"spec": {"nodeName": at, "containers": [{"resources": {"requests": requests}}]}}


@pytest.mark.parametrize(
    ("text", "number"),
    [("4", 4), ("3920m", 3.92), ("16Gi", 16 * 2**30), ("1.5M", 1.5e6), ("1e3", 1000), ("12x", 0), ("", 0), (None, 0)],
)
def test_quantities_are_read_as_clusters_write_them(text: object, number: float) -> None:
    assert quantity(text) == pytest.approx(number)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA-GeForce-RTX-4090", "RTX 4090"),
        ("NVIDIA-A100-SXM4-80GB", "A100 SXM4"),
        ("nvidia-l4", "l4"),
        ("Tesla-T4", "T4"),
    ],
)
def test_gpus_are_named_as_filters_have_them(label: str, name: str) -> None:
    assert kind_of({PRODUCT: label}) == name


def test_nodes_that_are_alike_are_one_offer_at_the_price_of_the_settings() -> None:
    l4 = {PRODUCT: "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}
    spot = l4 | {"karpenter.sh/capacity-type": "spot"}
    market = Market(
        KubernetesSettings(
            gpus_per_worker=2,
            prices=["karpenter.sh/capacity-type=spot=0.25", "NVIDIA-L4=0.70"],
            ready_usd_h=3.0,
        )
    )
    nodes = [
        node("a", 8, l4 | {ZONE: "eu-1"}),
        node("b", 4, l4 | {ZONE: "eu-1"}),
        node("c", 4, spot),
        node("d", 2, {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}),
        node("cpu"),
    ]
    pools = market.pools(
        nodes, [foreign("a", **{"nvidia.com/gpu": "3"}), foreign("b", cpu="15"), foreign("x", cpu="1")]
    )
    assert set(pools) == {"NVIDIA-L4/zone=eu-1", "NVIDIA-L4/capacity-type=spot/spot", "nvidia-h100-80gb"}
    on_demand, spot_pool, h100 = pools.values()
    assert [pool.slots for pool in pools.values()] == [2, 2, 1]  # of "b" others have the processors
    offer = market.offer(on_demand, "kube", 1, Capabilities())
    assert (offer.gpu_name, offer.num_gpus, offer.available, offer.zone) == ("L4", 2, 1, "eu-1")
    assert offer.gpu_ram_mb == pytest.approx(24_153, abs=1)
    assert [market.price(pool).ready_usd_h for pool in (on_demand, spot_pool, h100)] == [1.4, 0.5, 3.0]
    assert {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]} in spot_pool.affinity
    assert {"key": ZONE, "operator": "DoesNotExist"} in spot_pool.affinity
    assert {"key": "karpenter.sh/capacity-type", "operator": "NotIn", "values": ["spot"]} in on_demand.affinity


def test_only_nodes_count_that_a_worker_may_use() -> None:
    market = Market(KubernetesSettings(gpus_per_worker=0, cpus=4, node_selector=["pool=a"], tolerations=["ours=yes"]))
    mine = {"pool": "a"}

    def taint(key: str, effect: str = "NoSchedule", value: str = "") -> list[Json]:
        return [{"key": key, "effect": effect, "value": value}]

    away = node("g", labels=mine)
    away["status"]["conditions"][0]["status"] = "Unknown"
    nodes = [
        node("a", labels=mine),
        node("b", labels=mine, unschedulable=True),
        node("c", labels={"pool": "b"}),
        node("d", labels=mine, taints=taint("theirs")),
        node("e", labels=mine, taints=taint("ours", value="yes")),
        node("f", labels=mine, taints=taint("ours", value="no")),
        away,
        node("h", labels=mine, taints=taint("theirs", "PreferNoSchedule")),
    ]
    [pool] = market.pools(nodes, []).values()
    assert (pool.id, pool.slots) == ("cpu", 3 * 3)
    assert market.offer(pool, "kube", 0, Capabilities()).gpu_name == "CPU"


@pytest.mark.parametrize("caches", [[], ["models:/root/.cache"]])
def test_a_cluster_with_a_cache_of_all_workers_keeps_what_they_download(caches: list[str]) -> None:
    market = Market(KubernetesSettings(gpus_per_worker=0, caches=caches))
    [pool] = market.pools([node("a")], []).values()
    assert market.offer(pool, "kube", 0, Capabilities()).keeps_files is bool(caches)


# -- what is made ----------------------------------------------------------------------------------------------------


def manifests(**table: Any) -> list[Json]:
    """Every object of a worker."""
    settings = KubernetesSettings(**{"agent_image": "posthouse:1", "gpus_per_worker": 1} | table)
    record = {"metadata": {"uid": "0123"}}
    way = Way(objects.NODE, ((3000, 30_001), (8000, 30_002)))
    login = RegistryLogin("ghcr.io", "ali", "sesame")
    given = replace(SPEC, registry=login)
    notes = objects.notes("gpu") | {objects.HOST: way.host, objects.PORTS: "3000:30001,8000:30002"}

    def meta(told: Json, name: str = "") -> Json:
        return objects.metadata("test", SPEC.label, told, record, name) | {"namespace": "posthouse"}

    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(objects.notes("gpu"))},
        objects.claim(meta({}), 20.0, "fast"),
        objects.service(meta({}), SPEC.label, settings.address, SPEC.ports),
        objects.secret(meta({}, "a"), objects.environment(given, way, True)),
        objects.login(meta({}, "b"), login),
        objects.pod(settings, meta(notes), given, way, [{"key": ZONE, "operator": "DoesNotExist"}]),
    ]


FULL: Json = {
    "address": "host_port",
    "user": "1000:1000",
    "caches": ["models:/models"],
    "image_pull_secrets": ["login"],
    "node_selector": ["pool=gpu"],
    "tolerations": ["a", "b=c:NoExecute"],
    "memory_gb": 16,
    "runtime_class": "nvidia",
    "priority_class": "low",
}


@pytest.mark.parametrize("table", [{}, FULL, {"user": "", "workspace": "ephemeral", "agent": "image", "cpus": 0}])
@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_every_object_is_valid_by_the_cluster_s_own_schemas(table: Json, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for body in manifests(**table):
        validate.validate(body, version, strict=True)


def test_a_pod_shows_no_secret_and_runs_onstart_as_it_is() -> None:
    *_, secret, login, pod = manifests()
    assert "hush" not in str(pod)
    assert "sesame" not in str(pod)
    assert login["type"] == "kubernetes.io/dockerconfigjson"
    assert secret["stringData"]["TOKEN"] == "hush"
    assert secret["stringData"][objects.ONSTART] == SPEC.onstart
    assert "PUBLIC_IPADDR" not in secret["stringData"]
    [worker] = pod["spec"]["containers"]
    assert worker["args"][0].replace("$$", "$") == objects.START
    assert worker["env"][0]["valueFrom"]["fieldRef"]["fieldPath"] == "status.hostIP"
    assert objects.ports_of(pod) == {3000: 30_001, 8000: 30_002}
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize("name", ["rbac.yaml", "server.yaml"])
@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_the_examples_are_valid(name: str, version: str) -> None:
    validate, yaml = pytest.importorskip("kubernetes_validate"), pytest.importorskip("yaml")
    for body in yaml.safe_load_all(Path("examples/kubernetes", name).read_text(encoding="utf-8")):
        validate.validate(body, version, strict=True)


# -- what is read ----------------------------------------------------------------------------------------------------


def pod(phase: str, halted: str = "no", **status: Any) -> Json:
    notes = objects.notes("gpu", halted=halted == "yes") | {objects.HOST: "node", objects.PORTS: "3000:30001"}
    meta = {"name": SPEC.label, "annotations": notes}
    return {"metadata": meta, "spec": {}, "status": {"phase": phase, "hostIP": "10.0.0.7", **status}}


def waits(reason: str, message: str = "", **more: Any) -> Json:
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "worker", "image": "team/model:1", "state": state, **more}]} | PLACED


PLACED: Json = {"conditions": [{"type": "PodScheduled", "status": "True"}]}


def done(code: int, reason: str = "Error", message: str = "") -> Json:
    state = {"terminated": {"exitCode": code, "reason": reason, "message": message}}
    return {"containerStatuses": [{"name": "worker", "state": state}]}


FULL_CLUSTER = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
PREEMPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "by p"}
NO_SHELL = 'exec: "/bin/sh": stat /bin/sh: no such file or directory'
BACK_OFF = "Back-off pulling image"
MADE, PULLS, RUNS = Observation.PROVISIONING, Observation.PULLING, Observation.RUNNING
RESTS, ENDED = Observation.HALTED, Observation.EXITED


@pytest.mark.parametrize(
    ("shown", "seen", "words"),
    [
        (pod("Pending"), MADE, ""),
        (pod("Pending", conditions=[FULL_CLUSTER]), MADE, "no node has room for it: 0/3 nodes"),
        (pod("Pending", **PLACED), PULLS, ""),
        (pod("Pending", **waits("ContainerCreating")), PULLS, ""),
        (pod("Pending", **waits("ErrImagePull", "dial tcp: timeout")), PULLS, "dial tcp: timeout"),
        (pod("Pending", **waits("ImagePullBackOff", f"{BACK_OFF}: manifest unknown")), ENDED, "there is no such image"),
        (pod("Pending", **waits("ImagePullBackOff", f"{BACK_OFF}: 401 Unauthorized")), ENDED, "REGISTRY_LOGIN"),
        (pod("Pending", **waits("InvalidImageName", "bad")), ENDED, "image team/model:1: bad"),
        (pod("Pending", **waits("CreateContainerConfigError", 'secret "x" not found')), ENDED, 'secret "x" not found'),
        (
            pod("Running", **waits("CrashLoopBackOff", "", lastState={"terminated": {"exitCode": 9}})),
            ENDED,
            "again and again, with exit code 9",
        ),
        (pod("Running"), RUNS, ""),
        (pod("Unknown"), ENDED, "its node does not answer"),
        (pod("Succeeded", **done(0, "Completed")), ENDED, "exit code 0, without any output"),
        (pod("Failed", **done(3, message="no\nweights")), ENDED, "exit code 3; the last output: no | weights"),
        (pod("Failed", **done(137, "OOMKilled")), ENDED, "out of memory"),
        (pod("Failed", **done(128, "StartError", NO_SHELL)), ENDED, "the image has no /bin/sh"),
        (pod("Failed", reason="Evicted", message="low on memory"), RESTS, "evicted by its node: low on memory"),
        (pod("Failed", reason="UnexpectedAdmissionError", message="no GPU"), ENDED, "UnexpectedAdmissionError: no GPU"),
        (pod("Running", conditions=[PREEMPTED]), RESTS, "interrupted: preempted by a Pod of higher priority"),
        ({"metadata": {"name": SPEC.label}}, ENDED, "its node does not answer"),
    ],
)  # fmt: skip
def test_what_a_pod_says_is_told_in_words(shown: Json, seen: Observation, words: str) -> None:
    told = listing.instance(Found(listing.record_of(shown), shown), "", True, "")
    assert told.seen is seen
    assert words in told.message
    assert bool(told.message) == bool(words)


def test_an_interrupted_worker_without_a_volume_has_ended() -> None:
    for shown in (pod("Failed", reason="Evicted"), None):
        assert listing.instance(Found(Record(SPEC.label), shown), "", False, "").seen is ENDED
        assert listing.instance(Found(Record(SPEC.label), shown), "", True, "").seen is RESTS


def test_what_a_worker_was_not_pulled_for_is_remembered_between_two_tries() -> None:
    tried = pod("Pending", **waits("ErrImagePull", "rpc error: denied"))
    cause = listing.pull_error(tried)
    assert "REGISTRY_LOGIN" in cause
    between = pod("Pending", **waits("ImagePullBackOff", BACK_OFF))
    assert listing.pull_error(between) == ""
    assert listing.instance(Found(Record(SPEC.label), between), "", True, cause).message == cause


@pytest.mark.parametrize(
    ("host", "address"),
    [("node", "10.0.0.7:30001"), ("203.0.113.9", "203.0.113.9:30001"), ("2001:db8::1", "[2001:db8::1]:30001")],
)
def test_a_worker_is_reached_where_its_pod_says(host: str, address: str) -> None:
    shown = pod("Running")
    shown["metadata"]["annotations"][objects.HOST] = host
    assert listing.addresses(shown) == {address}
    shown["metadata"]["annotations"][objects.HOST] = ""  # its own address is not known yet
    assert listing.addresses(shown) == set()


@pytest.mark.parametrize(
    ("status", "reply", "kind", "words"),
    [
        (401, {}, Refused, "credentials"),
        (403, {"message": 'User "x" cannot list resource "pods"'}, Refused, "rbac.yaml"),
        (403, {"message": "exceeded quota: gpus"}, Busy, "exceeded quota"),
        (403, {"message": 'violates PodSecurity "restricted"'}, Refused, "PodSecurity"),
        (400, {"message": 'admission webhook "w" denied the request: no'}, Refused, "denied the request: no"),
        (404, {"message": 'pods "x" not found'}, NotFound, "not found"),
        (404, {"message": 'namespaces "posthouse" not found'}, Refused, "not found"),
        (409, {"reason": "AlreadyExists"}, AlreadyThere, ""),
        (409, {"reason": "Conflict"}, Busy, "Conflict"),
        (410, {"message": "too old"}, Expired, "too old"),
        (422, {"message": "spec.x: Invalid"}, Refused, "spec.x"),
        (429, {}, Busy, "429"),
        (500, {"message": "etcdserver: request timed out"}, NoAnswer, "etcdserver"),
        (503, {}, NoAnswer, "503"),
    ],
)
def test_every_error_of_a_cluster_means_something(status: int, reply: Json, kind: type[Exception], words: str) -> None:
    error = meaning("POST /x", status, reply, "7")
    assert type(error) is kind
    assert words in str(error)
    if status == 429:
        assert isinstance(error, Busy)
        assert error.retry_after_s == 7


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("namespace", "Team A"),
        ("caches", "models"),
        ("caches", "models:/workspace"),
        ("node_selector", "pool"),
        ("tolerations", "a=b:Never"),
        ("prices", "NVIDIA-L4"),
        ("prices", "a b=c=1"),
        ("user", "root"),
        ("ports", "9-3"),
        ("image_pull_secrets", "A"),
        ("pool_labels", "a=b"),
        ("gateway", "Team/public"),
        ("gateway_url", "https://llm.example.com"),
        ("gateway_url", "{worker}.llm.example.com"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=f"providers.kubernetes.{name}"):
        load_settings({f"providers.kubernetes.{name}": value}, None, {})


@pytest.mark.parametrize(
    ("given", "installation", "report_url", "words"),
    [
        ({}, "test", "", r"providers\.k8s\.agent_image"),
        ({"agent": "image"}, "test", "http://127.0.0.1:8080", r"providers\.k8s\.public_url"),
        ({"agent": "image", "address": "gateway", "gateway": "public"}, "test", "", "k8s: address.* gateway_url"),
        ({"agent": "image"}, "Test", "", "installation"),
        ({"agent": "image"}, "t" * 40, "", "installation"),
        ({"agent": "image", "kubeconfig": "/none"}, "test", "", r"providers\.k8s\.kubeconfig /none"),
    ],
)
async def test_what_cannot_work_is_said_at_the_start(
    given: Json, installation: str, report_url: str, words: str
) -> None:
    with pytest.raises(Refused, match=words):
        await KubernetesPlugin.open(
            KubernetesSettings(**given), Context("k8s", installation, Path(), report_url=report_url)
        )


async def test_without_its_extra_the_provider_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("posthouse.providers.kubernetes.")]:
        if not name.endswith("settings"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kubernetes.aio", None)
    with pytest.raises(Refused, match=r"pip install 'posthouse\[kubernetes\]'"):
        await KubernetesPlugin.open(KubernetesSettings(agent="image"), Context("k8s", "test", Path()))

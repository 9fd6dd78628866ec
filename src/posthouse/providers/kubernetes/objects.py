"""The objects that a worker is, as the cluster is asked for them."""

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from posthouse import bootstrap
from posthouse.ports import InstanceSpec, RegistryLogin
from posthouse.providers.kubernetes.pools import tolerations
from posthouse.providers.kubernetes.settings import KubernetesSettings

Json = dict[str, Any]

WORKSPACE: Final = "/workspace"
MODEL_LOG: Final = f"{WORKSPACE}/model.log"
AGENT_DIR: Final = "/opt/posthouse"
INNER_PORTS: Final = range(18_288, 18_320)
"""For what stays inside a Pod."""
MIN_DISK_GB: Final = 1.0

INSTALLATION: Final = "posthouse.installation"
WORKER: Final = "posthouse.worker"
OFFER: Final = "posthouse.offer"
HALTED: Final = "posthouse.halted"
"""Of a record: `yes` if its worker is meant to be stopped."""
GENERATION: Final = "posthouse.generation"
"""Of a record and of a Pod: how often the worker was updated."""
HOST: Final = "posthouse.host"
"""Of a Pod: where it is reached; empty: at its own address; `node`: at its node's; with a Gateway a whole URL."""
PORTS: Final = "posthouse.ports"
"""Of a Pod: `INSIDE:OUTSIDE,...`."""
NODE: Final = "node"
POD: Final = "pod"
"""Key of a record's data: the Pod, as it is made again after a stop."""
PRINTED: Final = "printed"
"""Likewise: what the worker printed before its last stop or update."""

REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
ONSTART: Final = "POSTHOUSE_ONSTART"
START: Final = f"""\
: >>model.log; tail -n 0 -F model.log 2>/dev/null &
onstart=${ONSTART}; unset {ONSTART}
if command -v bash >/dev/null; then exec bash -c "$onstart"; fi; exec sh -c "$onstart"
"""
"""Runs onstart in the best shell that the image has, and puts what the model logs among what it prints."""
UNPACK: Final = "from posthouse.providers.bundle import unpack; unpack({root!r}, '/agent')"


@dataclass(frozen=True, slots=True)
class Way:
    """How a worker is reached."""

    host: str
    """An address, `node` for that of its node, or empty for its own; with a Gateway a whole URL."""
    ports: tuple[tuple[int, int], ...]
    """Port inside, and outside."""


def metadata(installation: str, label: str, told: Mapping[str, str], owner: Json | None = None, name: str = "") -> Json:
    """Of an object of a worker. `told`: its annotations. `owner`: its record, as the cluster has it."""
    found: Json = {
        "name": name or label,
        "labels": {"app.kubernetes.io/managed-by": "posthouse", INSTALLATION: installation, WORKER: label},
    }
    if told:
        found["annotations"] = dict(told)
    if owner is not None:
        owned = {"apiVersion": "v1", "kind": "ConfigMap", "name": label, "uid": owner["metadata"]["uid"]}
        found["ownerReferences"] = [owned]
    return found


def notes(offer_id: str, generation: int = 0, halted: bool = False) -> dict[str, str]:
    """What a record says of its worker."""
    return {OFFER: offer_id, GENERATION: str(generation), HALTED: "yes" if halted else "no"}


def claim(meta: Json, disk_gb: float, storage_class: str) -> Json:
    """The worker's own volume."""
    size = f"{int(max(MIN_DISK_GB, disk_gb) * 1e9)}"
    spec: Json = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


def service(meta: Json, label: str, address: str, ports: Iterable[int]) -> Json:
    kind = {"node_port": "NodePort", "load_balancer": "LoadBalancer"}.get(address, "ClusterIP")
    spec = {"type": kind, "selector": {WORKER: label}, "ports": [service_port(port) for port in ports]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


def service_port(port: int) -> Json:
    return {"name": f"p{port}", "port": port, "targetPort": port, "protocol": "TCP"}


def route(meta: Json, settings: KubernetesSettings, url: str, port: int) -> Json:
    """What has a Gateway pass on to a worker's Service what comes for its URL."""
    namespace, _, name = settings.gateway.rpartition("/")
    place = urlsplit(url)
    rule: Json = {"backendRefs": [{"name": meta["name"], "port": port}]}
    if place.path:
        rule["matches"] = [{"path": {"type": "PathPrefix", "value": place.path}}]
        path = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}
        rule["filters"] = [{"type": "URLRewrite", "urlRewrite": {"path": path}}]
    parent = {"name": name} | ({"namespace": namespace} if namespace else {})
    spec = {"parentRefs": [parent], "hostnames": [place.hostname], "rules": [rule]}
    return {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": meta, "spec": spec}


def secret(meta: Json, values: Mapping[str, str]) -> Json:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque", "stringData": dict(values)}


def login(meta: Json, given: RegistryLogin) -> Json:
    """The login of a registry, as kubelets take it."""
    host = "https://index.docker.io/v1/" if given.host == "docker.io" else given.host
    joined = base64.b64encode(f"{given.user}:{given.password}".encode()).decode()
    text = json.dumps({"auths": {host: {"username": given.user, "password": given.password, "auth": joined}}})
    kind = "kubernetes.io/dockerconfigjson"
    return secret(meta, {".dockerconfigjson": text}) | {"type": kind}


def secret_names(label: str) -> tuple[str, str, str]:
    """Of a worker's Secrets: with the environment of even and of odd generations, and with a registry's login."""
    return f"{label}-env0", f"{label}-env1", f"{label}-login"


def ports_of(pod: Mapping[str, Any]) -> dict[int, int]:
    """The ports of a Pod, inside and outside."""
    told = (pod.get("metadata") or {}).get("annotations") or {}
    pairs = [pair.partition(":")[::2] for pair in str(told.get(PORTS) or "").split(",")]
    return {int(inside): int(outside) for inside, outside in pairs if inside.isdecimal() and outside.isdecimal()}


def affinity_of(pod: Mapping[str, Any]) -> list[Json]:
    """What a node must have for a Pod of ours."""
    terms = pod["spec"]["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"]
    return list(terms[0]["matchExpressions"])


def balancer_of(service: Mapping[str, Any]) -> str:
    """The address of a Service's load balancer; empty while it has none."""
    given = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [{}]
    return str(given[0].get("ip") or given[0].get("hostname") or "")


def environment(spec: InstanceSpec, way: Way, agent: bool) -> dict[str, str]:
    """What a worker's Secret holds: the environment but for its address, and onstart."""
    free = [port for port in INNER_PORTS if port not in spec.ports]
    url = way.host if "://" in way.host else ""
    own = bootstrap.variables(
        spec.worker_id,
        urlsplit(url).hostname or way.host,
        dict(way.ports),
        spec.ports[0],
        (free[0], free[1]),
        MODEL_LOG,
        url=url,
        listen_host="0.0.0.0",  # noqa: S104 - within the Pod
    )
    if way.host in ("", NODE):
        del own["PUBLIC_IPADDR"]  # the Pod finds it, as it is known once it has a node
    python = {"PYTHON": f"{AGENT_DIR}/bin/python3"} if agent else {}
    return {**spec.env, **own, **python, ONSTART: spec.onstart}


def pod(settings: KubernetesSettings, meta: Json, spec: InstanceSpec, way: Way, affinity: list[Json]) -> Json:
    """The Pod. Its metadata has its notes; `affinity`: what a node must have."""
    names = secret_names(spec.label)
    env_secret = names[int(meta["annotations"][GENERATION]) % 2]
    logins = [names[2]] if spec.registry else []
    field = {"": "status.podIP", NODE: "status.hostIP"}.get(way.host)
    address = [{"name": "PUBLIC_IPADDR", "valueFrom": {"fieldRef": {"fieldPath": field}}}] if field else []
    host_ports = dict(way.ports) if settings.address == "host_port" else {}
    mounts, volumes = _volumes(settings, spec.label)
    agent = settings.agent == "init"
    worker: Json = {
        "name": "worker",
        "image": spec.image,
        "command": ["/bin/sh", "-c"],
        "args": [START.replace("$", "$$")],  # or the cluster would look for names to put in
        "workingDir": WORKSPACE,
        "ports": [
            {"containerPort": port} | ({"hostPort": host_ports[port]} if port in host_ports else {})
            for port in spec.ports
        ],
        "env": address,
        "envFrom": [{"secretRef": {"name": env_secret}}],
        "resources": _resources(settings),
        "volumeMounts": mounts,
        "securityContext": _walls(settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    found: Json = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": settings.grace_s,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "shareProcessNamespace": True,  # so that the worker is not process 1, which signals do not end
        "securityContext": _identity(settings),
        "imagePullSecrets": [{"name": name} for name in (*logins, *settings.image_pull_secrets)],
        "nodeSelector": dict(text.split("=", 1) for text in settings.node_selector),
        "tolerations": tolerations(settings.tolerations),
        "affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": affinity}]}}},
        "initContainers": [_agent(settings)] if agent else [],
        "containers": [worker],
        "volumes": volumes,
    }
    if settings.runtime_class:
        found["runtimeClassName"] = settings.runtime_class
    if settings.priority_class:
        found["priorityClassName"] = settings.priority_class
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": found}


def _volumes(settings: KubernetesSettings, label: str) -> tuple[list[Json], list[Json]]:
    """Where a worker has which volume, and the volumes."""
    own: Json = {"persistentVolumeClaim": {"claimName": label}} if settings.workspace == "claim" else {"emptyDir": {}}
    shm = {"medium": "Memory", "sizeLimit": str(int(settings.shm_gb * 1e9))}
    volumes: list[Json] = [{"name": "workspace", **own}, {"name": "shm", "emptyDir": shm}]
    mounts: list[Json] = [
        {"name": "workspace", "mountPath": WORKSPACE},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - the Pod's
    ]
    for number, text in enumerate(settings.caches):
        name, _, path = text.partition(":")
        volumes.append({"name": f"cache-{number}", "persistentVolumeClaim": {"claimName": name}})
        mounts.append({"name": f"cache-{number}", "mountPath": path})
    if settings.agent == "init":
        volumes.append({"name": "agent", "emptyDir": {}})
        mounts.append({"name": "agent", "mountPath": AGENT_DIR, "readOnly": True})
    return mounts, volumes


def _agent(settings: KubernetesSettings) -> Json:
    """Puts the agent beside the image, before that starts."""
    return {
        "name": "agent",
        "image": settings.agent_image,
        "command": ["python3", "-c", UNPACK.format(root=AGENT_DIR)],
        "volumeMounts": [{"name": "agent", "mountPath": "/agent"}],
        "securityContext": _walls(settings),
    }


def _resources(settings: KubernetesSettings) -> Json:
    requests: Json = {"cpu": f"{round(settings.cpus * 1000)}m"} if settings.cpus else {}
    limits: Json = {}
    if settings.memory_gb:
        requests["memory"] = limits["memory"] = str(int(settings.memory_gb * 1e9))
    if settings.gpus_per_worker:
        requests[settings.gpu_resource] = limits[settings.gpu_resource] = str(settings.gpus_per_worker)
    return {"requests": requests, "limits": limits}


def _identity(settings: KubernetesSettings) -> Json:
    """Whom the Pod's processes run as."""
    found: Json = {"seccompProfile": {"type": "RuntimeDefault"}}
    if settings.user:
        user, group = map(int, settings.user.split(":"))
        found |= {"runAsUser": user, "runAsGroup": group, "fsGroup": group, "runAsNonRoot": user != 0}
        # A volume with many files is not gone through at every start.
        found["fsGroupChangePolicy"] = "OnRootMismatch"
    return found


def _walls(settings: KubernetesSettings) -> Json:
    found: Json = {"allowPrivilegeEscalation": False}
    if settings.user and not settings.user.startswith("0:"):
        found["capabilities"] = {"drop": ["ALL"]}  # of root's, images need some
    return found

"""How a worker looks at an engine: its volume, its container, their names and labels."""

import io
import re
import tarfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from posthouse import bootstrap
from posthouse.hosts import is_loopback
from posthouse.ports import InstanceSpec
from posthouse.providers.docker.settings import DockerSettings

WORKSPACE: Final = "/workspace"
"""Where the worker's own volume is: its working directory, kept by a stop and by an update."""
MODEL_LOG: Final = f"{WORKSPACE}/model.log"
BEFORE: Final = f"{WORKSPACE}/.before-update.log"
"""What the worker printed before its last update."""
AGENT_DIR: Final = "/opt/posthouse"
INNER_PORTS: Final = range(18_288, 18_320)
"""For what stays inside a container, where it has a network of its own."""
LOG_MB: Final = 8
"""Most that an engine keeps of a container's output, twice that with what came before."""

INSTALLATION: Final = "posthouse.installation"
LABEL: Final = "posthouse.label"
OFFER: Final = "posthouse.offer"
PORTS: Final = "posthouse.ports"
"""`INSIDE:OUTSIDE,...`; then, in the network of the host, the two that stay inside."""
GPUS: Final = "posthouse.gpus"
GENERATION: Final = "posthouse.generation"
"""How often the worker was updated."""

HALTED: Final = ".halted"
UNBEGUN: Final = frozenset({"created", "configured", "initialized"})
"""States of a container that never ran, in Docker's words and podman's."""
RUNNING: Final = frozenset({"running", "paused", "restarting", "stopping"})

SCRIPT: Final = 'if command -v bash >/dev/null; then exec bash -c "$0"; fi; exec sh -c "$0"'
"""Runs onstart, its argument, in the best shell that the image has."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a worker has of its engine's host."""

    label: str
    offer_id: str
    ports: tuple[tuple[int, int], ...]
    """Port inside, and on the host."""
    gpus: tuple[str, ...] = ()

    def labels(self, installation: str, generation: int = 0) -> dict[str, str]:
        return {
            INSTALLATION: installation,
            LABEL: self.label,
            OFFER: self.offer_id,
            PORTS: ",".join(f"{inside}:{outside}" for inside, outside in self.ports),
            GPUS: ",".join(self.gpus),
            GENERATION: str(generation),
        }

    @property
    def held(self) -> set[int]:
        return {outside for _, outside in self.ports}


def place_of(labels: Mapping[str, str]) -> Place:
    pairs = [pair.split(":") for pair in labels[PORTS].split(",")]
    return Place(
        labels[LABEL],
        labels[OFFER],
        tuple((int(inside), int(outside)) for inside, outside in pairs),
        tuple(filter(None, labels[GPUS].split(","))),
    )


@dataclass(frozen=True, slots=True)
class Found:
    """A worker as its engine lists it."""

    place: Place
    container: str = ""
    """Id of its container; empty while there is none."""
    state: str = ""
    halted: bool = False
    """Whether it is meant to be stopped."""
    generation: int = 0
    others: tuple[str, ...] = ()
    """Ids of containers that updates left behind when they were cut short."""

    @property
    def active(self) -> bool:
        """Whether it holds its slot and its GPUs."""
        return not self.halted or self.state in RUNNING


def found(
    volumes: Iterable[Mapping[str, Any]], containers: Iterable[Mapping[str, Any]], label: re.Pattern[str]
) -> dict[str, Found]:
    """Every worker by its label. Of several containers the newest counts that ever ran, else the first."""
    workers: dict[str, Found] = {}
    for volume in volumes:
        labels = volume.get("Labels") or {}
        if label.fullmatch(labels.get(LABEL, "")):
            workers[labels[LABEL]] = Found(place_of(labels))
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for container in containers:
        name = (container.get("Labels") or {}).get(LABEL, "")
        if label.fullmatch(name):
            groups[name].append(container)
    for name, group in groups.items():
        group.sort(key=lambda c: int(c["Labels"][GENERATION]))
        begun = [c for c in group if c["State"] not in UNBEGUN]
        chosen = begun[-1] if begun else group[0]
        workers[name] = Found(
            place_of(chosen["Labels"]),
            chosen["Id"],
            chosen["State"],
            any(n.endswith(HALTED) for n in chosen["Names"]),
            int(chosen["Labels"][GENERATION]),
            tuple(c["Id"] for c in group if c is not chosen),
        )
    return workers


def name_of(label: str, generation: int, halted: bool = False) -> str:
    """A container's name. The same worker cannot be made twice, as the engine has each name once."""
    return label + (f".{generation}" if generation else "") + (HALTED if halted else "")


def container(
    settings: DockerSettings,
    installation: str,
    host: str,
    spec: InstanceSpec,
    place: Place,
    generation: int = 0,
    agent: str = "",
    carried: Collection[str] = (),
) -> dict[str, Any]:
    """The body of the call that makes the container. `agent`: volume with the agent. `carried`: further binds."""
    published = dict(place.ports[: len(spec.ports)])
    own_net = settings.network != "host"
    listen_port = None if own_net else place.ports[0][1]
    free = [port for port in INNER_PORTS if port not in spec.ports]
    inner = (free[0], free[1]) if own_net else (place.ports[-2][1], place.ports[-1][1])
    env = {
        **spec.env,
        **bootstrap.variables(
            spec.worker_id,
            host,
            published,
            listen_port,
            inner,
            MODEL_LOG,
            listen_host="0.0.0.0" if own_net else "",  # noqa: S104 - within the container, whose engine publishes it
        ),
        **({"PYTHON": f"{AGENT_DIR}/bin/python3"} if agent else {}),
    }
    binds = [f"{place.label}:{WORKSPACE}", *settings.caches, *carried]
    limits: dict[str, Any] = {}
    if settings.memory_gb:
        limits["Memory"] = limits["MemorySwap"] = int(settings.memory_gb * 1e9)
    if settings.cpus:
        limits["NanoCpus"] = int(settings.cpus * 1e9)
    if settings.max_processes:
        limits["PidsLimit"] = settings.max_processes
    if settings.limit_disk:
        limits["StorageOpt"] = {"size": f"{int(spec.disk_gb * 1e9)}"}
    if place.gpus:
        limits["DeviceRequests"] = [
            {"Driver": "nvidia", "DeviceIDs": list(place.gpus), "Capabilities": [["gpu"]]},
        ]
    if own_net:
        at = host if is_loopback(host) else ""  # else at every address of the engine's host
        limits["PortBindings"] = {f"{i}/tcp": [{"HostIp": at, "HostPort": str(o)}] for i, o in published.items()}
        limits["ExtraHosts"] = ["host.docker.internal:host-gateway"]
    return {
        "Image": spec.image or settings.image,
        "Entrypoint": ["/bin/sh", "-c", SCRIPT],
        "Cmd": [spec.onstart],
        "Env": [f"{name}={value}" for name, value in env.items()],
        "User": settings.user,
        "WorkingDir": WORKSPACE,
        "Labels": place.labels(installation, generation),
        "ExposedPorts": {f"{inside}/tcp": {} for inside in published} if own_net else {},
        "HostConfig": {
            "NetworkMode": settings.network,
            "Binds": binds + ([f"{agent}:{AGENT_DIR}:ro"] if agent else []),
            "Init": True,
            "ShmSize": int(settings.shm_gb * 1e9),
            "SecurityOpt": ["no-new-privileges"],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": f"{LOG_MB}m", "max-file": "2"}},
            **limits,
        },
    }


def own_volumes(inspected: Mapping[str, Any], label: str) -> dict[str, str]:
    """The volumes that go with the worker, by where they are mounted: its own, and those that have no given name."""
    return {
        mount["Destination"]: mount["Name"]
        for mount in inspected.get("Mounts") or ()
        if mount.get("Type") == "volume" and (mount["Name"] == label or re.fullmatch("[0-9a-f]{64}", mount["Name"]))
    }


def progress(layers: Mapping[str, Sequence[int]]) -> str:
    """How far a pull is, of what is known of it. `layers`: bytes so far and in all, by layer."""
    done, total = (sum(amounts[i] for amounts in layers.values()) / 1e9 for i in (0, 1))
    return f"{done:.2f} of {total:.2f} GB in {len(layers)} layers" if total else "asked its registry"


def archive(path: str, text: bytes) -> BinaryIO:
    """One file, to be unpacked in the folder that it is in."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        member = tarfile.TarInfo(path.rpartition("/")[2])
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    out.seek(0)
    return out

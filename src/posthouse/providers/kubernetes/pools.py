"""What a cluster's nodes offer: nodes that are alike are one pool, and each pool is one offer."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from posthouse.domain.offer import Capabilities, Offer, Price
from posthouse.providers.kubernetes.settings import KubernetesSettings

Json = Mapping[str, Any]

GPU_KINDS: Final = (
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
    "amd.com/gpu.product-name",
)
"""Labels that name a node's GPUs, as discovery daemons and clouds set them."""
GPU_MEMORY: Final = ("nvidia.com/gpu.memory", "karpenter.k8s.aws/instance-gpu-memory")
"""Labels with the memory of each of its GPUs, in MiB."""
SPOT: Final = {
    "karpenter.sh/capacity-type": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""Labels of nodes that may be taken away, with their values."""
ZONE: Final = "topology.kubernetes.io/zone"
SUFFIXES: Final = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "": 1.0,
    **{name: 1000.0**power for power, name in enumerate("kMGTPE", 1)},
    **{f"{name}i": 1024.0**power for power, name in enumerate("KMGTPE", 1)},
}


def quantity(text: object) -> float:
    """A number as clusters write it, such as `3920m` or `16Gi`; 0 for what is none."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?)([a-zA-Z]{0,2})", str(text))
    return float(found[1]) * SUFFIXES.get(found[2], 0.0) if found else 0.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Nodes that are alike."""

    id: str
    """Of its offer."""
    labels: tuple[tuple[str, str], ...]
    """What tells its nodes from others; an empty value: they do not have the label."""
    spot: str = ""
    """The label by which they may be taken away; empty if they stay."""
    slots: int = 0
    """Workers for which they have room, beside what is not of this installation."""
    cores: float = 0.0
    memory_mb: float = 0.0
    """Of its smallest node."""
    gpu_ram_mb: float = 0.0

    @property
    def affinity(self) -> list[dict[str, Any]]:
        """What a node must have to be of the pool."""
        spot = [
            {"key": key, "operator": "In" if self.spot else "NotIn", "values": [SPOT[key]]}
            for key in ([self.spot] if self.spot else SPOT)
        ]
        return spot + [
            {"key": key, "operator": "In", "values": [value]} if value else {"key": key, "operator": "DoesNotExist"}
            for key, value in self.labels
        ]


class Market:
    """The pools of a cluster, as settings see them."""

    def __init__(self, settings: KubernetesSettings) -> None:
        self._settings = settings
        self._prices = [text.rpartition("=")[::2] for text in settings.prices]
        priced = [what.partition("=")[0] for what, _ in self._prices if "=" in what]
        kinds = GPU_KINDS if settings.gpus_per_worker else ()
        self._telling = tuple(dict.fromkeys((*kinds, *settings.pool_labels, *priced)))
        self._needs = {"cpu": settings.cpus, "memory": settings.memory_gb * 1e9}
        self._needs[settings.gpu_resource] = float(settings.gpus_per_worker)

    def pools(self, nodes: Iterable[Json], foreign: Iterable[Json]) -> dict[str, Pool]:
        """Every pool by its id. `foreign`: Pods of others, which take room."""
        taken: defaultdict[str, list[Json]] = defaultdict(list)
        for pod in foreign:
            taken[str(pod.get("spec", {}).get("nodeName") or "")].append(pod)
        groups: defaultdict[tuple[tuple[tuple[str, str], ...], str], list[Json]] = defaultdict(list)
        for node in nodes:
            if self._usable(node):
                labels = _labels(node)
                spot = next((key for key, value in SPOT.items() if labels.get(key) == value), "")
                groups[tuple((key, labels.get(key, "")) for key in self._telling), spot].append(node)
        found = [self._pool(*key, group, taken) for key, group in groups.items()]
        return {pool.id: pool for pool in found}

    def offer(self, pool: Pool, provider: str, active: int, capabilities: Capabilities) -> Offer:
        """A pool as it is rented, of which `active` workers have theirs."""
        own = self._settings
        labels = dict(pool.labels)
        gpus = own.gpus_per_worker
        return Offer(
            id=pool.id,
            provider=provider,
            machine=f"{provider}/{pool.id}",
            price=self.price(pool),
            gpu_name=(kind_of(labels) or own.gpu_name or "GPU") if gpus else "CPU",
            num_gpus=gpus,
            available=max(0, pool.slots - active),
            capabilities=capabilities,
            keeps_files=bool(own.caches),
            gpu_ram_mb=pool.gpu_ram_mb if gpus else 0.0,
            zone=labels.get(ZONE, ""),
            attributes={"cpu_cores": pool.cores, "cpu_ram": pool.memory_mb},
        )

    def price(self, pool: Pool) -> Price:
        """What a worker costs there: its GPUs, from when it is made."""
        labels = dict(pool.labels)
        kinds = {kind_of(labels), *(labels.get(key, "") for key in GPU_KINDS)} - {""}
        usd_h = self._settings.ready_usd_h
        for what, each in self._prices:
            key, _, value = what.partition("=")
            if what in kinds or (value and labels.get(key) == value):
                usd_h = float(each) * max(1, self._settings.gpus_per_worker)
                break
        return Price(usd_h, usd_h, self._settings.stopped_usd_h)

    def _usable(self, node: Json) -> bool:
        """Whether a Pod of ours may run there at all."""
        spec, status = node.get("spec") or {}, node.get("status") or {}
        wanted = dict(text.split("=", 1) for text in self._settings.node_selector)
        ready = {c.get("type"): c.get("status") for c in status.get("conditions") or ()}.get("Ready") == "True"
        gpus = quantity((status.get("allocatable") or {}).get(self._settings.gpu_resource, 0))
        return (
            ready
            and not spec.get("unschedulable")
            and wanted.items() <= _labels(node).items()
            and gpus >= self._settings.gpus_per_worker
            and all(self._tolerated(taint) for taint in spec.get("taints") or ())
        )

    def _tolerated(self, taint: Json) -> bool:
        if taint.get("effect") == "PreferNoSchedule":
            return True
        return any(
            one["key"] == taint.get("key")
            and one.get("value", taint.get("value")) == taint.get("value")
            and one.get("effect", taint.get("effect")) == taint.get("effect")
            for one in tolerations(self._settings.tolerations)
        )

    def _pool(
        self, labels: tuple[tuple[str, str], ...], spot: str, nodes: Sequence[Json], taken: Mapping[str, Sequence[Json]]
    ) -> Pool:
        named = [value if key in GPU_KINDS else f"{key.rpartition('/')[2]}={value}" for key, value in labels if value]
        allocatable = [node["status"].get("allocatable") or {} for node in nodes]
        memories = [quantity(_labels(node).get(name, 0)) for node in nodes for name in GPU_MEMORY]
        return Pool(
            id="/".join(named + ["spot"] * bool(spot)) or ("gpu" if self._settings.gpus_per_worker else "cpu"),
            labels=labels,
            spot=spot,
            slots=sum(self._room(node, taken[_name(node)]) for node in nodes),
            cores=min(quantity(one.get("cpu", 0)) for one in allocatable),
            memory_mb=min(quantity(one.get("memory", 0)) for one in allocatable) / 1e6,
            gpu_ram_mb=max(memories) * 1.048576 or self._settings.gpu_ram_gb * 1000,
        )

    def _room(self, node: Json, taken: Sequence[Json]) -> int:
        """Workers that fit on a node beside these Pods."""
        allocatable = node["status"].get("allocatable") or {}
        free = [
            int((quantity(allocatable.get(name, 0)) - sum(asked(pod, name) for pod in taken)) / need + 1e-9)
            for name, need in self._needs.items()
            if need
        ]
        return max(0, min([*free, int(quantity(allocatable.get("pods", 0))) - len(taken)]))


def asked(pod: Json, resource: str) -> float:
    """What a Pod holds of a resource: of its containers together, or of the largest that runs before them."""
    spec = pod.get("spec") or {}

    def each(name: str) -> list[float]:
        wanted = [(one.get("resources") or {}).get("requests") or {} for one in spec.get(name) or ()]
        return [quantity(one.get(resource, 0)) for one in wanted]

    return max(sum(each("containers")), max(each("initContainers"), default=0.0))


def tolerations(texts: Iterable[str]) -> list[dict[str, str]]:
    """Tolerations as Pods have them, of the settings' `KEY=VALUE:EFFECT`."""
    found = []
    for text in texts:
        what, _, effect = text.partition(":")
        key, equals, value = what.partition("=")
        one = {"key": key, "operator": "Equal" if equals else "Exists"}
        found.append(one | ({"value": value} if equals else {}) | ({"effect": effect} if effect else {}))
    return found


def kind_of(labels: Mapping[str, str]) -> str:
    """The GPU as filters have it, such as `RTX 4090`, of a label such as `NVIDIA-GeForce-RTX-4090`; empty without."""
    text = next((labels[key] for key in GPU_KINDS if labels.get(key)), "")
    words = [word for word in re.split(r"[-_ ]+", text) if word.lower() not in ("nvidia", "geforce", "tesla")]
    return re.sub(r" \d+GB$", "", " ".join(words))


def _labels(node: Json) -> dict[str, str]:
    return (node.get("metadata") or {}).get("labels") or {}


def _name(node: Json) -> str:
    return str((node.get("metadata") or {}).get("name") or "")

"""What the table of a provider of type `kubernetes` may say."""

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from posthouse.config import ProviderSettings

RESERVED = ("/workspace", "/opt/posthouse", "/dev/shm")  # noqa: S108 - where things are mounted, not files of ours
"""Where the worker's own volume, the agent and the shared memory are mounted."""
NAME = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
LABEL = r"([A-Za-z0-9.-]{1,253}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
VALUE = r"[A-Za-z0-9_.-]{0,63}"
MARK = "{worker}"
URL = r"https?://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~-]+)*/?"
EFFECTS = "NoSchedule|PreferNoSchedule|NoExecute"


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text):
        raise ValueError("should have lower-case letters, digits, - and . alone")
    return text


def _names(texts: list[str]) -> list[str]:
    return [_name(text) for text in texts if text]


def _selector(texts: list[str]) -> list[str]:
    for text in filter(None, texts):
        if not re.fullmatch(f"{LABEL}={VALUE}", text):
            raise ValueError("should be LABEL=VALUE each, such as pool=gpu")
    return [text for text in texts if text]


def _labels(texts: list[str]) -> list[str]:
    for text in filter(None, texts):
        if not re.fullmatch(LABEL, text):
            raise ValueError("should be names of labels, such as topology.kubernetes.io/zone")
    return [text for text in texts if text]


def _tolerations(texts: list[str]) -> list[str]:
    for text in filter(None, texts):
        if not re.fullmatch(f"{LABEL}(={VALUE})?(:({EFFECTS}))?", text):
            raise ValueError("should be KEY, KEY=VALUE or KEY=VALUE:EFFECT each, such as nvidia.com/gpu:NoSchedule")
    return [text for text in texts if text]


def _caches(texts: list[str]) -> list[str]:
    for text in filter(None, texts):
        claim, _, path = text.partition(":")
        if not re.fullmatch(NAME, claim) or not re.fullmatch("/[^:,]+", path) or path.rstrip("/") in RESERVED:
            raise ValueError("should be CLAIM:/PATH each, with a path other than " + ", ".join(RESERVED))
    return [text for text in texts if text]


def _prices(texts: list[str]) -> list[str]:
    for text in filter(None, texts):
        what, _, usd_h = text.rpartition("=")
        if not what or not re.fullmatch(r"\d{1,4}(\.\d{1,6})?", usd_h):
            raise ValueError("should be KIND=USD_H or LABEL=VALUE=USD_H each, such as NVIDIA-L4=0.70")
        if "=" in what and not re.fullmatch(f"{LABEL}={VALUE}", what):
            raise ValueError(f"{what!r} is no LABEL=VALUE")
    return [text for text in texts if text]


def _ports(text: str) -> str:
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if not found or not 0 < int(found[1]) < int(found[2]) < 65_536:
        raise ValueError("should be the first and the last port, such as 12000-19999")
    return text


def _gateway(text: str) -> str:
    if text and not re.fullmatch(f"({NAME}/)?{NAME}", text):
        raise ValueError("should be NAME or NAMESPACE/NAME, in lower-case letters, digits, - and .")
    return text


def _gateway_url(text: str) -> str:
    if text and (text.count(MARK) != 1 or not re.fullmatch(URL, text.replace(MARK, "w"))):
        raise ValueError(
            f"should be an http:// or https:// URL with one {MARK}, such as https://{MARK}.llm.example.com"
        )
    return text.rstrip("/")


def _user(text: str) -> str:
    if text and not re.fullmatch(r"\d{1,9}:\d{1,9}", text):
        raise ValueError("should be UID:GID, such as 1000:1000")
    return text


class KubernetesSettings(ProviderSettings):
    """Workers as Pods of a Kubernetes cluster."""

    poll_s: float = Field(5.0, ge=0.05, le=600, description="Time between two lists of its workers, in seconds.")
    catalog_s: float = Field(30.0, ge=0.05, le=86_400, description="Time between two looks at its nodes, in seconds.")
    call_s: float = Field(30.0, gt=0, le=600, description="How long the cluster may take for a call, in seconds.")
    kubeconfig: Path | None = Field(
        None,
        description="File with the cluster's address and credentials; default: the Pod's own service account where the "
        "server runs in a Pod, else `~/.kube/config`.",
    )
    context: str = Field("", description="Context of that file; default: its current one.")
    namespace: Annotated[str, AfterValidator(_name)] = Field(
        "posthouse", description="Namespace of the workers; it must be there."
    )
    address: Literal["node_port", "cluster_ip", "load_balancer", "gateway", "host_port", "pod"] = Field(
        "node_port",
        description="How clients reach a worker. `node_port`: a port of every node. `host_port`: a port of its own "
        "node. `load_balancer`: an address from outside the cluster. `gateway`: a route of a Gateway. `cluster_ip` and "
        "`pod`: from within it; that of a Pod is another after each start.",
    )
    host: str = Field(
        "",
        description="Address of the nodes for `node_port` and `host_port`; default: the one that the cluster gives for "
        "the worker's node, which only its own network may reach.",
    )
    gateway: Annotated[str, AfterValidator(_gateway)] = Field(
        "", description="The Gateway for `gateway`, as `NAME` or `NAMESPACE/NAME`. It must take routes of `namespace`."
    )
    gateway_url: Annotated[str, AfterValidator(_gateway_url)] = Field(
        "",
        description="Where clients reach a worker through it, with `{worker}` in the host or in the path: "
        "`https://{worker}.llm.example.com`, `https://llm.example.com/{worker}`.",
    )
    ports: Annotated[str, AfterValidator(_ports)] = Field(
        "12000-19999", description="Ports of nodes that workers are given with `host_port`, first and last."
    )
    image: str = Field("", description="Image of the workers whose template names none.")
    image_pull_secrets: Annotated[list[str], AfterValidator(_names)] = Field(
        [], description="Secrets of the namespace with logins of registries, for every worker."
    )
    agent: Literal["init", "image"] = Field(
        "init",
        description="`init`: a Python with Posthouse is copied from `agent_image` beside every image, as `PYTHON`. "
        "`image`: images bring their own.",
    )
    agent_image: str = Field("", description="Image with Posthouse, as its Dockerfile makes it.")
    workspace: Literal["claim", "ephemeral"] = Field(
        "claim",
        description="`claim`: each worker has a volume at /workspace, which is kept while it is stopped. `ephemeral`: "
        "it has none, and there are no cold workers.",
    )
    storage_class: str = Field("", description="Storage class of these volumes; default: the cluster's default.")
    caches: Annotated[list[str], AfterValidator(_caches)] = Field(
        [],
        description="Volume claims of the namespace that all workers share, each as `CLAIM:/PATH`: for models that "
        "they download. They are never removed.",
    )
    node_selector: Annotated[list[str], AfterValidator(_selector)] = Field(
        [], description="Labels of the nodes that are used, each as `LABEL=VALUE`; default: every node."
    )
    tolerations: Annotated[list[str], AfterValidator(_tolerations)] = Field(
        ["nvidia.com/gpu"], description="Taints of nodes that do not keep workers away, as `KEY=VALUE:EFFECT`."
    )
    pool_labels: Annotated[list[str], AfterValidator(_labels)] = Field(
        ["topology.kubernetes.io/zone"],
        description="Labels that tell nodes apart, beside the kind of GPU and whether they are spot: nodes that are "
        "alike in them are one offer.",
    )
    gpus_per_worker: int = Field(1, ge=0, le=64, description="GPUs of each worker; 0: workers without GPUs.")
    gpu_resource: str = Field("nvidia.com/gpu", min_length=3, description="The cluster's name for a GPU.")
    gpu_name: str = Field("", description="Name of the GPUs of nodes without a label that says it.")
    gpu_ram_gb: float = Field(0.0, ge=0, le=10_000, description="Memory of each GPU in GB, where no label says it.")
    max_workers: int = Field(0, ge=0, le=10_000, description="Most workers at once; 0: as many as nodes have room for.")
    cpus: float = Field(1.0, ge=0, le=10_000, description="CPU cores that each worker asks for.")
    memory_gb: float = Field(0.0, ge=0, le=1e6, description="Memory that each worker gets, in GB; 0: no limit.")
    shm_gb: float = Field(1.0, gt=0, le=1e6, description="Size of /dev/shm, in GB.")
    user: Annotated[str, AfterValidator(_user)] = Field(
        "0:0", description="User and group whom workers run as, as `UID:GID`; empty: the image's."
    )
    runtime_class: str = Field("", description="Runtime class of the Pods, such as `nvidia` on k3s.")
    priority_class: str = Field("", description="Priority class of the Pods.")
    grace_s: int = Field(10, ge=0, le=60, description="Time to end by itself before a worker is killed, in seconds.")
    prices: Annotated[list[str], AfterValidator(_prices)] = Field(
        [],
        description="What a GPU costs per hour in US dollars, by its kind or by a label of the node, the first that "
        "fits: `NVIDIA-L4=0.70`, `karpenter.sh/capacity-type=spot=0.25`. Without GPUs: what a worker costs.",
    )
    ready_usd_h: float = Field(
        0.0, ge=0, le=1e4, description="What it costs where `prices` say nothing, in US dollars per hour."
    )
    stopped_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a stopped worker, in US dollars per hour.")

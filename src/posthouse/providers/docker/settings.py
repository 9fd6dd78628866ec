"""What the table of a provider of type `docker` may say."""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from posthouse.config import ProviderSettings

RESERVED = ("/workspace", "/opt/posthouse")
"""Where the worker's own volume and the agent are mounted."""


def _url(text: str) -> str:
    found = urlsplit(text)
    if not (found.path.startswith("/") if found.scheme == "unix" else found.scheme == "tcp" and found.hostname):
        raise ValueError("should be unix:///PATH or tcp://HOST:PORT")
    return text


def _ports(text: str) -> str:
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text)
    if not found or not 0 < int(found[1]) < int(found[2]) < 65_536:
        raise ValueError("should be the first and the last port, such as 12000-19999")
    return text


def _caches(texts: list[str]) -> list[str]:
    for text in filter(None, texts):
        found = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{1,100}:(/[^:,]+)", text)
        if not found or found[1].rstrip("/") in RESERVED:
            raise ValueError("should be VOLUME:/PATH each, with a path other than " + " and ".join(RESERVED))
    return [text for text in texts if text]


class DockerSettings(ProviderSettings):
    """Workers as containers of a Docker or podman engine."""

    poll_s: float = Field(5.0, ge=0.05, le=600, description="Time between two lists of its workers, in seconds.")
    catalog_s: float = Field(5.0, ge=0.05, le=86_400, description="Time between two looks for free slots, in seconds.")
    url: Annotated[str, AfterValidator(_url)] = Field(
        "unix:///var/run/docker.sock", description="The engine: `unix:///PATH` or `tcp://HOST:PORT`."
    )
    tls_dir: Path | None = Field(
        None, description="Directory with `ca.pem`, `cert.pem` and `key.pem`, for an engine behind TLS."
    )
    host: str = Field(
        "", description="Address at which clients reach its workers; default: the host of `url`, 127.0.0.1 of a socket."
    )
    network: str = Field(
        "bridge",
        min_length=1,
        description="Network of the containers. With `host` there are no published ports: workers take the engine's.",
    )
    ports: Annotated[str, AfterValidator(_ports)] = Field(
        "12000-19999", description="Ports of the engine's host that workers are given, first and last."
    )
    image: str = Field("", description="Image of the workers whose template names none.")
    agent: Literal["mount", "image"] = Field(
        "mount",
        description="`mount`: a Python with this version of Posthouse is put beside every image, as `PYTHON`. `image`: "
        "images bring their own.",
    )
    user: str = Field("0:0", description="User whom workers run as; empty: the image's. /workspace is root's.")
    slots: int = Field(
        0, ge=0, le=10_000, description="Most workers at once; 0: one per `gpus_per_worker`, or four per CPU core."
    )
    gpus: int = Field(0, ge=0, le=64, description="GPUs of the engine's host that workers are given.")
    gpus_per_worker: int = Field(1, ge=1, le=64, description="GPUs of each worker, where there are some.")
    gpu_name: str = Field("GPU", min_length=1, description="Their name, as filters have it, such as `RTX 4090`.")
    gpu_ram_gb: float = Field(0.0, ge=0, le=10_000, description="Memory of each GPU, in GB.")
    caches: Annotated[list[str], AfterValidator(_caches)] = Field(
        [],
        description="Volumes that all workers of the engine share, each as `VOLUME:/PATH`: for models that they "
        "download. They are never removed.",
    )
    memory_gb: float = Field(0.0, ge=0, le=1e6, description="Most memory per worker, in GB; 0: no limit.")
    shm_gb: float = Field(1.0, gt=0, le=1e6, description="Size of /dev/shm, in GB.")
    cpus: float = Field(0.0, ge=0, le=10_000, description="Most CPU cores per worker; 0: no limit.")
    max_processes: int = Field(
        32_768, ge=0, le=4_194_304, description="Most processes and threads per worker; 0: no limit."
    )
    limit_disk: bool = Field(
        False,
        description="Whether a template's disk size bounds what a container writes outside of volumes: for storage "
        "drivers that can.",
    )
    grace_s: int = Field(10, ge=0, le=600, description="Time to end by itself before a worker is killed, in seconds.")
    ready_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a ready worker, in US dollars per hour.")
    loading_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a loading worker, in US dollars per hour.")
    stopped_usd_h: float = Field(0.0, ge=0, le=1e4, description="Cost of a stopped worker, in US dollars per hour.")

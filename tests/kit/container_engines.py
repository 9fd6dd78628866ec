"""Real Docker and podman engines for tests, each with a data directory, a socket and a bridge of its own.

They need root, and their programs: on Debian the packages `docker.io`, and `podman` with `runc`, `slirp4netns` and
`catatonit`. Nothing is fetched: the one image is made of this machine's bash and busybox (`busybox-static`).
"""

import asyncio
import hashlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiodocker
import pytest

from tests.kit.ports import free_port

IMAGE = "localhost/posthouse-test:1"
TIMEOUT_S = 120.0
AGAIN: dict[Path, subprocess.Popen[bytes]] = {}
"""Engines that were started again, by their folder."""
BRIDGES = 10
"""Most Docker engines at a time."""
PODMAN = {
    "containers.conf": """
        [containers]
        default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
        [engine]
        runtime = "runc"
        cgroup_manager = "cgroupfs"
        events_logger = "file"
    """,
    "storage.conf": '[storage]\ndriver = "overlay"\ngraphroot = "{0}/root"\nrunroot = "{0}/run"\n',
    "registries.conf": '[[registry]]\nlocation = "{1}"\ninsecure = true\n',
}
PODMAN_READS = {
    "containers.conf": "CONTAINERS_CONF",
    "storage.conf": "CONTAINERS_STORAGE_CONF",
    "registries.conf": "CONTAINERS_REGISTRIES_CONF",
}
REGISTRY = "127.0.0.1:15055"
USER, PASSWORD = "ali", "opensesame"
REGISTRY_CONFIG = """
    version: 0.1
    storage: { filesystem: { rootdirectory: ROOT/images } }
    http: { addr: ADDRESS }
    auth: { htpasswd: { realm: test, path: ROOT/htpasswd } }
"""


@dataclass(frozen=True, slots=True)
class ContainerEngine:
    """An engine that runs, and how its containers are reached."""

    url: str
    network: str
    gateway: str
    """Where its containers reach this machine."""
    tls_url: str = ""
    """Where it answers whoever has a certificate of `tls_dir`; only Docker does."""
    tls_dir: str = ""


def missing(kind: str) -> str:
    """Why there can be no engine of a kind here; empty if there can."""
    programs = ["dockerd", "docker-init"] if kind == "docker" else ["podman", "runc", "slirp4netns", "catatonit"]
    absent = [name for name in [*programs, "ip", "busybox", "bash", "openssl"] if shutil.which(name) is None]
    if os.geteuid():
        return f"a {kind} engine of our own needs root"
    return f"a {kind} engine needs {', '.join(absent)}" if absent else ""


@contextmanager
def container_engine(kind: str, folder: Path) -> Iterator[ContainerEngine]:
    """A running engine, `docker` or `podman`, with `IMAGE`; the test is skipped where there can be none. At its end
    nothing of it is left.

    It takes `REGISTRY` at its word without TLS.
    """
    if why := missing(kind):
        pytest.skip(why)
    folder.mkdir(exist_ok=True)
    with (docker if kind == "docker" else podman)(folder) as engine:
        asyncio.run(load_image(engine))
        yield engine


@contextmanager
def docker(folder: Path) -> Iterator[ContainerEngine]:
    """Writes no rules into this machine's firewall: published ports are served by the engine's own proxy."""
    with bridge() as (name, address):
        command = ["dockerd", f"--data-root={folder}/data", f"--exec-root={folder}/exec", f"--pidfile={folder}/pid"]
        command += [f"--host=unix://{folder}/api.sock", f"--bridge={name}", "--iptables=false", "--ip6tables=false"]
        place, tls = f"tcp://127.0.0.1:{free_port()}", folder / "tls"
        certificates(tls)
        command += [f"--host={place}", "--tlsverify", f"--tlscacert={tls}/ca.pem"]
        command += [f"--tlscert={tls}/server.pem", f"--tlskey={tls}/server-key.pem"]
        with daemon(command, folder):
            yield ContainerEngine(f"unix://{folder}/api.sock", "bridge", address, place, str(tls))


def certificates(folder: Path) -> None:
    """An authority, and certificates of an engine and of who may ask it, as Docker's documentation has them made."""

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    folder.mkdir()
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca-key.pem", "-out", "ca.pem", "-subj", "/CN=test", "-days", "2")
    for name, key_name, extension in (
        ("server", "server-key", "subjectAltName=IP:127.0.0.1"),
        ("cert", "key", "extendedKeyUsage=clientAuth"),
    ):
        (folder / "extension").write_text(extension)
        openssl("req", *key, "-keyout", f"{key_name}.pem", "-out", "request", "-subj", f"/CN={name}")
        signed = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-extfile", "extension", "-days", "2"]
        openssl("x509", "-req", "-in", "request", "-out", f"{name}.pem", *signed)


@contextmanager
def bridge() -> Iterator[tuple[str, str]]:
    """A bridge that no other engine has, while the context lasts: its name, and its address."""
    for number in range(BRIDGES):
        name, address = f"posthouse-test{number}", f"10.213.{number}.1"
        try:
            ip("link", "add", name, "type", "bridge")
            break
        except subprocess.CalledProcessError:  # taken
            if number == BRIDGES - 1:
                raise
    try:
        ip("address", "add", f"{address}/24", "dev", name)
        ip("link", "set", name, "up")
        yield name, address
    finally:
        ip("link", "delete", name)


@contextmanager
def podman(folder: Path) -> Iterator[ContainerEngine]:
    env = dict(os.environ)
    for name, text in PODMAN.items():
        (folder / name).write_text(re.sub("(?m)^ +", "", text).replace("{0}", str(folder)).replace("{1}", REGISTRY))
        env[PODMAN_READS[name]] = str(folder / name)
    with daemon(["podman", "system", "service", "--time=0", f"unix://{folder}/api.sock"], folder, env):
        yield ContainerEngine(f"unix://{folder}/api.sock", "host", "127.0.0.1")


@contextmanager
def daemon(command: list[str], folder: Path, env: dict[str, str] | None = None) -> Iterator[None]:
    """A program that serves `api.sock` in the folder, while the context lasts."""
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        wait_for(lambda: _answers(folder / "api.sock") or process.poll() is not None, log)
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} does not run here: {log.read_text()[-600:]}")
        yield
    finally:
        for running in filter(None, (process, AGAIN.pop(folder, None))):
            running.send_signal(signal.SIGTERM)
            running.wait(TIMEOUT_S)
        mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([path for path in mounted if path.startswith(f"{folder}/")]):
            subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def stopped(engine: ContainerEngine) -> Iterator[None]:
    """While the context lasts, a Docker engine is down, and its containers with it; afterwards it runs again."""
    folder = Path(engine.url.removeprefix("unix://")).parent
    pid = int((folder / "pid").read_text())
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not (folder / "pid").exists(), folder / "log")
    try:
        yield
    finally:
        with (folder / "log").open("ab") as out:
            AGAIN[folder] = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
        wait_for(lambda: _answers(folder / "api.sock"), folder / "log")


@contextmanager
def registry(folder: Path) -> Iterator[None]:
    """A real registry at `REGISTRY` that asks for a login; of Debian's package `docker-registry`."""
    (folder / "htpasswd").write_text(f"{USER}:$2y$05$abcdefghijklmnopqrstuuQbLfdQZSxZ9gjhA5V9o8Tyc6aQRO0Qi\n")
    text = REGISTRY_CONFIG.replace("ROOT", str(folder)).replace("ADDRESS", REGISTRY)
    (folder / "config.yml").write_text(re.sub("(?m)^ +", "", text))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        wait_for(lambda: listens(REGISTRY) or process.poll() is not None, folder / "log")
        yield
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


def listens(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def _answers(place: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(place)) == 0


def wait_for(reached: Callable[[], bool], log: Path) -> None:
    until = time.monotonic() + TIMEOUT_S
    while not reached():
        assert time.monotonic() < until, log.read_text()[-600:]
        time.sleep(0.05)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


async def load_image(engine: ContainerEngine, name: str = IMAGE) -> None:
    async with aiodocker.Docker(engine.url) as client:
        await client.images.import_image(io.BytesIO(image(name)))


def image(name: str) -> bytes:
    """An image as `docker load` takes it: bash, busybox and what they need."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for folder in ("bin", "etc", "root", "tmp", "usr", "usr/bin", "volume"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            tar.addfile(entry)
        bash, busybox = (Path(str(shutil.which(program))).resolve() for program in ("bash", "busybox"))
        told = subprocess.run(["ldd", str(bash)], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+) \(0x", told):
            add(tar, library, Path(library).resolve())
        add(tar, "bin/bash", bash)
        add(tar, "bin/busybox", busybox)
        for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
            if applet != "busybox":
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "/bin/busybox"
                tar.addfile(entry)
    return saved(name, layer.getvalue(), {"Volumes": {"/volume": {}}, "Env": ["PATH=/bin:/usr/bin"]})


def add(tar: tarfile.TarFile, name: str, file: Path) -> None:
    tar.add(file, name.lstrip("/"), recursive=False)


def saved(name: str, layer: bytes, config: dict[str, Any]) -> bytes:
    """An image of one layer in the format of `docker save`."""
    digest = hashlib.sha256(layer).hexdigest()
    described = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    text = json.dumps(described).encode()
    config_name = f"{hashlib.sha256(text).hexdigest()}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        files = {f"{digest}/layer.tar": layer, config_name: text, "manifest.json": json.dumps(manifest).encode()}
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()

"""A real Kubernetes API server for tests, with etcd, and the rest of a cluster played: one node that runs its Pods as
processes of this machine.

The programs `kube-apiserver` and `etcd` are taken from the folder that POSTHOUSE_KUBE_BIN names, or else found on PATH.
Nothing is fetched. Played are the scheduler, the kubelet and its log server; nothing else of a cluster is there.
"""

import json
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kit.ports import free_port

BIN = "POSTHOUSE_KUBE_BIN"
TIMEOUT_S = 120.0
NAMESPACE = "posthouse"
ADMIN, LEAST = "admin", "system:serviceaccount:posthouse:posthouse"
"""Who may do all, and who has the roles of examples/kubernetes/rbac.yaml."""
AUDIT = """
    apiVersion: audit.k8s.io/v1
    kind: Policy
    omitStages: [RequestReceived]
    rules: [{ level: Metadata }]
"""
RBAC = Path("examples/kubernetes/rbac.yaml")
GROUPS = {"v1": "/api/v1", "rbac.authorization.k8s.io/v1": "/apis/rbac.authorization.k8s.io/v1"}
UNCHECKED = ssl._create_unverified_context()


@dataclass(frozen=True, slots=True)
class Cluster:
    """An API server that runs."""

    url: str
    folder: Path
    tokens: dict[str, str]
    pids: list[int] = field(default_factory=list)

    def kubeconfig(self, user: str = LEAST, url: str = "") -> Path:
        """A file with which a user reaches it, or something in front of it."""
        where = f"{url or self.url}-{user}".translate(str.maketrans("/:", "__"))
        file = self.folder / f"{where}.kubeconfig"
        server = {"server": url or self.url, "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": server}],
            "users": [{"name": "test", "user": {"token": self.tokens[user]}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        file.write_text(json.dumps(config))  # YAML, too
        return file

    def ask(self, method: str, path: str, body: Any = None, user: str = ADMIN) -> dict[str, Any]:
        """What it answers; an error's status if it is one."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {self.tokens[user]}", "Content-Type": kind}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30, context=UNCHECKED) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            found = json.load(error)
        return found

    def names(self, kind: str, namespace: str = NAMESPACE) -> set[str]:
        """Of the objects of a kind that are there."""
        found = self.ask("GET", f"/api/v1/namespaces/{namespace}/{kind}")
        return {item["metadata"]["name"] for item in found["items"]} - {"kube-root-ca.crt"}

    def everything(self) -> set[str]:
        kinds = ("configmaps", "pods", "persistentvolumeclaims", "services", "secrets")
        return {f"{kind}/{name}" for kind in kinds for name in self.names(kind)}

    def pod(self, name: str) -> dict[str, Any]:
        return self.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}")

    def end(self, name: str, grace_s: int = 0) -> None:
        """Deletes a Pod, as an eviction does."""
        self.ask("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{name}?gracePeriodSeconds={grace_s}")

    def rights_used(self, user: str) -> set[tuple[str, str]]:
        """Kinds and verbs that were granted to a user so far."""
        used = set()
        for line in (self.folder / "audit.log").read_text().splitlines():
            event = json.loads(line)
            if event["user"]["username"] == user and event.get("responseStatus", {}).get("code") != 403:
                what = event.get("objectRef") or {}
                kind = "/".join(filter(None, (what.get("resource"), what.get("subresource"))))
                used.add((kind, event["verb"]))
        return used

    @contextmanager
    def silent(self) -> Iterator[None]:
        """While the context lasts, the API server answers nothing."""
        os.kill(self.pids[0], signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pids[0], signal.SIGCONT)


def program(name: str) -> str | None:
    """Where a program is; None if it is not there."""
    folder = os.environ.get(BIN)
    return shutil.which(name, path=f"{folder}{os.pathsep}{os.environ['PATH']}" if folder else None)


def missing() -> str:
    """Why there can be no API server here; empty if there can."""
    absent = [name for name in ("kube-apiserver", "etcd", "openssl") if program(name) is None]
    return f"NOT RUN: a Kubernetes API server needs {', '.join(absent)}, on PATH or in ${BIN}" if absent else ""


@contextmanager
def api_server(folder: Path) -> Iterator[Cluster]:
    """A running API server with the roles of the example, and nothing else; the test is skipped where there can be
    none."""
    if why := missing():
        pytest.skip(why)
    etcd, peer, port, first_node_port = free_port(), free_port(), free_port(), 20_000 + secrets.randbelow(9_000)
    tokens = {user: secrets.token_hex(16) for user in (ADMIN, LEAST)}
    groups = {ADMIN: "system:masters"}
    lines = [f'{token},"{user}",{user},"{groups.get(user, "")}"' for user, token in tokens.items()]
    (folder / "tokens.csv").write_text("\n".join(lines))
    (folder / "audit.yaml").write_text(AUDIT)
    subprocess.run(["openssl", "genrsa", "-out", str(folder / "key"), "2048"], check=True, capture_output=True)
    at = f"http://127.0.0.1:{etcd}"
    store = [str(program("etcd")), "--data-dir", str(folder / "etcd"), "--listen-client-urls", at]
    store += ["--advertise-client-urls", at, "--listen-peer-urls", f"http://127.0.0.1:{peer}", "--unsafe-no-fsync"]
    server = [str(program("kube-apiserver")), f"--etcd-servers={at}", "--bind-address=127.0.0.1"]
    server += ["--advertise-address=10.0.0.1", f"--secure-port={port}", f"--cert-dir={folder}/certs"]
    server += [f"--token-auth-file={folder}/tokens.csv", "--authorization-mode=RBAC", "--allow-privileged=false"]
    server += ["--service-account-issuer=https://test", f"--service-account-key-file={folder}/key"]
    server += [f"--service-account-signing-key-file={folder}/key", "--service-cluster-ip-range=10.1.0.0/24"]
    server += [f"--service-node-port-range={first_node_port}-{first_node_port + 999}"]
    # The rest of these plugins needs controllers that are not here.
    server += ["--disable-admission-plugins=ServiceAccount,StorageObjectInUseProtection"]
    server += ["--watch-cache=false", "--etcd-compaction-interval=2s"]
    server += [f"--audit-policy-file={folder}/audit.yaml", f"--audit-log-path={folder}/audit.log"]
    cluster = Cluster(f"https://127.0.0.1:{port}", folder, tokens)
    with daemon(store, folder / "etcd.out"), daemon(server, folder / "server.out") as running:
        wait_for_server(cluster, running)
        for body in yaml.safe_load_all(RBAC.read_text(encoding="utf-8")):
            namespace = body["metadata"].get("namespace")
            path = GROUPS[body["apiVersion"]] + (f"/namespaces/{namespace}" if namespace else "")
            cluster.ask("POST", f"{path}/{body['kind'].lower()}s", body)
        cluster.pids.append(running.pid)
        yield cluster


def wait_for_server(cluster: Cluster, running: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + TIMEOUT_S
    while True:
        with suppress(OSError, ValueError, KeyError):
            body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
            made = cluster.ask("POST", "/api/v1/namespaces", body)
            if made["kind"] == "Namespace" or made.get("reason") == "AlreadyExists":
                return
        log = (cluster.folder / "server.out").read_text()[-600:]
        assert running.poll() is None, log
        assert time.monotonic() < until, log
        time.sleep(0.2)


@contextmanager
def daemon(command: list[str], out: Path) -> Iterator[subprocess.Popen[bytes]]:
    with out.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""What Posthouse is for, with workers as Pods at a real API server, whose node the test plays."""

import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.kit.kubelet import Kubelet
from tests.kit.kubernetes_cluster import Cluster
from tests.kit.ports import free_port
from tests.kit.site import ONSTART, Site, until

pytest_plugins = "tests.kit.cluster"

ANSWER = "a demo model: it\n"


@pytest.fixture
def site(tmp_path: Path, cluster: Cluster, node: Kubelet) -> Iterator[Site]:
    port = free_port()
    (tmp_path / "posthouse.toml").write_text(f"""
        default_provider = "kubernetes"
        [server]
        port = {port}
        [engine]
        tick_s = 0.2
        stabilization_s = 1
        orphan_after_s = 1
        [providers.kubernetes]
        public_url = "http://0.0.0.0:{port}"  # this machine, by an address that is not known for it
        kubeconfig = "{cluster.kubeconfig()}"
        agent_image = "posthouse"
        image = "demo"
        gpus_per_worker = 0
        poll_s = 0.5
        catalog_s = 1
        call_s = 3
        max_workers = 4
        grace_s = 1
        """)
    made = Site(tmp_path)
    made.start("--port", str(port))
    made.environ["POSTHOUSE_API_KEY"] = (tmp_path / "posthouse-data" / "admin-key").read_text().strip()
    yield made
    made.clear()


def ask(site: Site) -> str:
    done = site.run("request", "llm", "Hi", "--max-new-tokens", "4", "--timeout", "100")
    return done.stdout or done.stderr


def states(site: Site) -> list[str]:
    return sorted(row["state"] for row in site.json("worker", "list"))


def test_requests_outlast_an_eviction_a_killed_server_and_a_cluster_that_is_away(site: Site, cluster: Cluster) -> None:
    (site.directory / "onstart.sh").write_text(ONSTART)
    site.json("template", "create", "--name", "llm", "--env", "-p 3000:3000", "--onstart", "onstart.sh")
    scaling = ("--min-load", "0", "--cold-workers", "1", "--max-workers", "1")
    site.json("endpoint", "create", "llm", *scaling)
    site.json("workergroup", "create", "--endpoint", "llm", "--template", "llm")
    assert ask(site) == ANSWER
    [worker] = site.json("worker", "list")
    [name] = cluster.names("pods")
    assert "listens on 0.0.0.0" in site.run("logs", "llm").stdout

    uid = cluster.pod(name)["metadata"]["uid"]
    cluster.end(name)  # as an eviction does
    until(lambda: cluster.pod(name).get("metadata", {}).get("uid", uid) != uid)
    assert ask(site) == ANSWER  # on the same volume
    assert [row["id"] for row in site.json("worker", "list")] == [worker["id"]]

    uid = cluster.pod(name)["metadata"]["uid"]
    port = urlsplit(site.environ["POSTHOUSE_URL"]).port
    site.stop(signal.SIGKILL)
    site.start("--port", str(port))
    until(lambda: "idle" in states(site))
    assert ask(site) == ANSWER
    assert cluster.pod(name)["metadata"]["uid"] == uid

    with cluster.silent():
        until(lambda: "no answer within" in site.run("status").stdout)
        assert ask(site) == ANSWER
        assert [row["id"] for row in site.json("worker", "list")] == [worker["id"]]  # silence ends nothing
    site.json("endpoint", "delete", "llm", "--wait", "--timeout", "100")
    assert not cluster.everything()

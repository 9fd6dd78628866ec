"""The gateway that a server keeps: started, started again, handed over and ended with the server."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest

from posthouse.app.signals import RESTART
from posthouse.client import Client
from tests.kit.site import START_S, Site, until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.environ["POSTHOUSE_GATEWAY__PORT"] = "0"
    yield made
    made.clear()


def gateways(site: Site) -> list[psutil.Process]:
    """The gateways of this site's server."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] == str(site.directory) and "--from-server" in (process.info["cmdline"] or []):
            found.append(process)
    return found


def models(site: Site, url: str) -> list[str]:
    headers = {"Authorization": f"Bearer {key(site)}"}
    answer = httpx.get(f"{url}/models", headers=headers, timeout=START_S)
    return [model["id"] for model in answer.raise_for_status().json()["data"]]


def key(site: Site) -> str:
    return (site.directory / "posthouse-data" / "admin-key").read_text().strip()


def test_a_gateway_that_ends_is_started_again_and_one_ends_with_its_server(site: Site) -> None:
    facts = site.start("--gateway")
    url = facts["gateway"]
    assert url.startswith("http://127.0.0.1:")
    with Client(facts["url"], key(site)) as client:
        client.create_endpoint("chat", max_workers=0)
        assert models(site, url) == ["chat"]
        assert (client.status().gateway, client.status().troubles) == (url, [])
        [first] = gateways(site)
        first.kill()
        assert models(site, url) == ["chat"]  # it waited
        [second] = gateways(site)
        assert second != first
        assert client.status().troubles == ["the gateway ended once, last by SIGKILL; its log has the reason"]
    site.stop(signal.SIGKILL)
    until(lambda: gateways(site) == [])
    site.environ["POSTHOUSE_GATEWAY__PORT"] = str(httpx.URL(url).port)
    assert site.start("--gateway")["gateway"] == url
    assert models(site, url) == ["chat"]
    code, said = site.stop(signal.SIGTERM)
    assert (code, gateways(site)) == (0, [])
    assert "Traceback" not in said
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_restart_in_place_refuses_no_caller_of_the_gateway(site: Site) -> None:
    facts = site.start("--gateway", "--tls", "self")
    until(lambda: len(gateways(site)) == 1)
    assert models(site, facts["gateway"]) == []
    [first] = gateways(site)
    assert site.server is not None
    os.kill(site.server.pid, RESTART)
    while site.server.poll() is None:
        assert models(site, facts["gateway"]) == []
        time.sleep(0.05)  # a key that asks more often is put off
    assert models(site, facts["gateway"]) == []
    until(lambda: first not in gateways(site))
    assert len(gateways(site)) == 1


def test_an_address_that_is_taken_is_told(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = site.run("serve", "--port", "0", "--gateway", POSTHOUSE_GATEWAY__PORT=port)
    assert done.returncode != 0
    wanted = f"gateway.port: cannot listen on 127.0.0.1:{port}: Address already in use; POSTHOUSE_GATEWAY__PORT chooses"
    assert wanted in done.stderr

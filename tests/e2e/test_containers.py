"""What Posthouse is for, with workers in containers of a real engine, published at ports of this machine."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import aiodocker
import pytest

from tests.kit.container_engines import IMAGE, ContainerEngine, container_engine, stopped
from tests.kit.site import ONSTART, Site, until


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerEngine]:
    with container_engine("docker", tmp_path_factory.mktemp("docker")) as engine:
        yield engine


@pytest.fixture
def site(tmp_path: Path, engine: ContainerEngine) -> Iterator[Site]:
    (tmp_path / "posthouse.toml").write_text(f"""
        default_provider = "box1"
        [server]
        host = "{engine.gateway}"
        [engine]
        tick_s = 0.2
        stabilization_s = 1
        orphan_after_s = 1
        [providers.box1]
        type = "docker"
        url = "{engine.url}"
        image = "{IMAGE}"
        poll_s = 0.5
        catalog_s = 0.5
        slots = 4
        grace_s = 1
        """)
    made = Site(tmp_path)
    yield made
    made.clear()


def start(site: Site, port: int = 0) -> None:
    site.start("--port", str(port))
    site.environ["POSTHOUSE_API_KEY"] = (site.directory / "posthouse-data" / "admin-key").read_text().strip()


def add_endpoint(site: Site, *scaling: str) -> None:
    """An endpoint named llm."""
    (site.directory / "onstart.sh").write_text(ONSTART)
    site.json("template", "create", "--name", "llm", "--env", "-p 3000:3000", "--onstart", "onstart.sh")
    site.json("endpoint", "create", "llm", "--min-load", "0", "--cold-workers", "0", "--max-workers", "1", *scaling)
    site.json("workergroup", "create", "--endpoint", "llm", "--template", "llm")


def ask(site: Site) -> str:
    done = site.run("request", "llm", "Hi", "--max-new-tokens", "4", "--timeout", "100")
    return done.stdout or done.stderr


def containers(engine: ContainerEngine) -> set[str]:
    """The ids of every container of the engine."""

    async def ids() -> set[str]:
        async with aiodocker.Docker(engine.url) as client:
            return {container.id for container in await client.containers.list(all=True)}

    return asyncio.run(ids())


def clear(site: Site) -> None:
    site.json("endpoint", "delete", "llm", "--wait", "--timeout", "100")


def test_a_request_is_answered_by_a_container_at_a_published_port(site: Site) -> None:
    start(site)
    add_endpoint(site)
    assert ask(site) == "a demo model: it\n"
    [worker] = site.json("worker", "list")
    assert worker["url"].startswith("http://127.0.0.1:1")
    assert "listens on 0.0.0.0:3000" in site.run("logs", "llm").stdout
    clear(site)


@pytest.mark.long
def test_a_killed_server_finds_its_containers_again(site: Site, engine: ContainerEngine) -> None:
    start(site)
    add_endpoint(site, "--min-load", "1")
    until(lambda: site.states() == ["idle"])
    before = containers(engine)
    port = urlsplit(site.environ["POSTHOUSE_URL"]).port
    assert port
    site.stop(signal.SIGKILL)
    start(site, port)
    assert ask(site) == "a demo model: it\n"
    until(lambda: site.states() == ["idle"])
    assert containers(engine) == before
    clear(site)
    assert not containers(engine)


@pytest.mark.long
def test_requests_outlast_an_engine_that_is_stopped_with_all_its_containers(
    site: Site, engine: ContainerEngine
) -> None:
    start(site)
    add_endpoint(site, "--min-load", "1", "--max-workers", "2")
    until(lambda: site.states() == ["idle"])
    before, [worker] = containers(engine), site.json("worker", "list")
    with ThreadPoolExecutor() as pool:
        with stopped(engine):
            until(lambda: "does not answer" in site.run("status").stdout)
            assert worker["id"] in [row["id"] for row in site.json("worker", "list")]  # silence alone ends nothing
            waiting = [pool.submit(ask, site) for _ in range(3)]
        assert [answer.result() for answer in waiting] == ["a demo model: it\n"] * 3
    assert containers(engine) - before
    clear(site)
    assert not containers(engine)

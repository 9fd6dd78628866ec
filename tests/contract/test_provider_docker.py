"""What the docker provider does on real engines, Docker and podman: the contract of every provider, and more."""

import asyncio
import io
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiodocker
import pytest

from posthouse.config import load_settings
from posthouse.domain.lifecycle import Observation
from posthouse.errors import BadRequest, Busy, Refused
from posthouse.ports import Provider, RegistryLogin
from posthouse.providers.docker import DockerPlugin
from posthouse.providers.docker import engine as engine_module
from posthouse.providers.docker import provider as provider_module
from posthouse.providers.docker.settings import DockerSettings
from posthouse.providers.plugin import Context
from tests.kit.container_engines import (
    IMAGE,
    PASSWORD,
    REGISTRY,
    USER,
    ContainerEngine,
    certificates,
    container_engine,
    missing,
    registry,
    saved,
)
from tests.kit.marks import long
from tests.kit.provider_contract import ContractInShort, ProviderContract, opened_provider, printed, rent, seen_as, spec


@pytest.fixture(scope="module", params=["docker", long("podman")])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerEngine]:
    with container_engine(request.param, tmp_path_factory.mktemp(request.param)) as engine:
        yield engine


def provider_of(
    engine: ContainerEngine, bell: Callable[[], None] = lambda: None, **table: object
) -> AbstractAsyncContextManager[Provider]:
    given = {"type": "docker", "url": engine.url, "network": engine.network, "image": IMAGE, "slots": 4, "grace_s": 1}
    return opened_provider("box", given | {"ready_usd_h": 0.1} | table, bell=bell)


@pytest.fixture
async def box(engine: ContainerEngine) -> AsyncIterator[Provider]:
    async with provider_of(engine) as provider:
        yield provider
        for instance in await provider.instances():
            await provider.destroy(instance.id)


@pytest.fixture
async def client(engine: ContainerEngine) -> AsyncIterator[aiodocker.Docker]:
    """The engine itself, for what an operator might do there."""
    async with aiodocker.Docker(engine.url) as client:
        yield client


class TestDockerProviderInShort(ContractInShort):
    @pytest.fixture
    def provider(self, box: Provider) -> Provider:
        return box


@pytest.mark.long
class TestDockerProvider(ProviderContract):
    @pytest.fixture
    def provider(self, box: Provider) -> Provider:
        return box


async def volumes(client: aiodocker.Docker) -> set[str]:
    """Every volume of the engine but the agent's."""
    found = await client.volumes.list()
    return {v["Name"] for v in found.get("Volumes") or [] if "-agent-" not in v["Name"]}


async def described(client: aiodocker.Docker) -> list[dict[str, Any]]:
    """Every container of the engine."""
    return [await container.show() for container in await client.containers.list(all=True)]


# -- images --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if shutil.which("docker-registry") is None:
        pytest.skip("a registry of our own needs docker-registry")
    with registry(tmp_path_factory.mktemp("registry")):
        yield


async def test_an_image_is_pulled_with_a_login_and_each_way_to_fail_is_told(
    private_registry: None, box: Provider, client: aiodocker.Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = f"{REGISTRY}/team/model:1"
    await client.images.tag(IMAGE, f"{REGISTRY}/team/model", tag="1")
    await client.images.push(f"{REGISTRY}/team/model", tag="1", auth={"username": USER, "password": PASSWORD})
    await client.images.delete(image)
    login = RegistryLogin(REGISTRY, USER, PASSWORD)
    wanted = {
        1: replace(spec(1), image=image),
        2: replace(spec(2), image=image, registry=replace(login, password="guessed")),
        3: replace(spec(3), image=f"{REGISTRY}/team/model:9", registry=login),
        4: replace(spec(4), image=image, registry=login),
    }
    go, pull = asyncio.Event(), engine_module.Engine.pull

    async def slow(*given: Any) -> None:
        await go.wait()
        await pull(*given)

    monkeypatch.setattr(engine_module.Engine, "pull", slow)
    made = [await rent(box, one) for one in wanted.values()]
    assert {one.seen for one in made} == {Observation.PULLING}
    assert f"pulling {image}" in made[3].message
    with pytest.raises(Busy, match="pulled"):
        await box.stop(made[3].id)
    go.set()
    for worker_id in (1, 2):
        refused = await seen_as(box, f"posthouse-test-{worker_id}", Observation.EXITED)
        assert "REGISTRY_LOGIN" in refused.message
    absent = await seen_as(box, "posthouse-test-3", Observation.EXITED)
    assert "no such image" in absent.message
    runs = await seen_as(box, "posthouse-test-4", Observation.RUNNING)
    assert runs.addresses == made[3].addresses
    assert PASSWORD not in json.dumps(await described(client))


# -- what a worker has ---------------------------------------------------------------------------------------------


async def test_a_worker_has_what_the_settings_give_and_no_more(
    engine: ContainerEngine, client: aiodocker.Docker
) -> None:
    async with provider_of(engine, memory_gb=0.064, cpus=0.5, max_processes=64, shm_gb=0.032) as box:
        memory = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null"
        made = await rent(box, spec(1, f"{memory}; df -k /dev/shm; id -u; exec sleep 600", TOKEN="hush"))
        log = await printed(box, made.id, "\n0\n")
        [container] = await described(client)
        host = container["HostConfig"]
        assert (host["NanoCpus"], host["PidsLimit"]) == (500_000_000, 64)
        assert 63_900_000 < int(log.split()[0]) <= 64_000_000
        assert " 31" in log
        labels = json.dumps([container["Config"]["Labels"], container["Name"]])
        assert '"posthouse.installation": "test"' in labels
        assert "hush" not in labels
        await box.destroy(made.id)


async def test_the_agent_is_beside_every_image(box: Provider) -> None:
    onstart = (
        '"$PYTHON" -m posthouse version; "$PYTHON" -c "import posthouse.demo.model, ssl; print(ssl.OPENSSL_VERSION)"'
    )
    made = await rent(box, spec(1, f"{onstart}; touch /opt/posthouse/x; exec sleep 600"))
    log = await printed(box, made.id, "Read-only file system")
    assert "OpenSSL" in log


async def test_workers_share_caches_and_take_all_else_with_them(
    engine: ContainerEngine, client: aiodocker.Docker
) -> None:
    async with provider_of(engine, caches=["test-models:/models"]) as box:
        both = "ls /volume /models; echo 1 >/volume/own; echo 1 >/models/weights; echo said; exec sleep 600"
        first = await rent(box, spec(1, both))
        await printed(box, first.id, "said")
        await box.update(first.id, spec(1, "ls /volume; echo again; exec sleep 600"))
        assert "own" in await printed(box, first.id, "again")  # also what the image alone calls a volume
        second = await rent(box, spec(2, both))
        log = await printed(box, second.id, "said")
        assert "weights" in log
        assert "own" not in log
        for instance in (first, second):
            await box.destroy(instance.id)
        assert await volumes(client) == {"test-models"}
        await client.volumes.create({"Name": "test-models"})


# -- failures ------------------------------------------------------------------------------------------------------


async def test_what_was_stopped_and_what_has_ended_are_told_apart_by_the_next_server(
    engine: ContainerEngine, box: Provider, client: aiodocker.Docker
) -> None:
    stopped, killed = [await rent(box, spec(worker_id)) for worker_id in (1, 2)]
    await box.stop(stopped.id)
    await client.containers.container(killed.id).kill(signal="SIGKILL")
    async with provider_of(engine) as next_one:
        assert await seen_as(next_one, stopped.id, Observation.HALTED)
        assert "137" in (await seen_as(next_one, killed.id, Observation.EXITED)).message


async def test_a_worker_whose_start_was_cut_short_is_not_taken_for_stopped_when_it_ends(
    box: Provider, client: aiodocker.Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_module, "STOPPED_BY_S", -1.0)  # which is the time that its worker has to end
    made = await rent(box, spec(1))
    await box.stop(made.id)
    [container] = await client.containers.list(all=True)
    await container.start()  # after which the server died
    for _ in range(3):
        await seen_as(box, made.id, Observation.RUNNING)
    await container.kill(signal="SIGKILL")
    assert await seen_as(box, made.id, Observation.EXITED)


async def test_the_bell_rings_when_a_worker_ends(engine: ContainerEngine, client: aiodocker.Docker) -> None:
    bell = asyncio.Event()
    async with provider_of(engine, bell.set) as box:
        made = await rent(box, spec(1))
        while not bell.is_set():  # its start, or, as the ear may open later than that, another
            await client.containers.container(made.id).restart(t=0)
            await asyncio.sleep(0.2)
        bell.clear()
        await client.containers.container(made.id).kill(signal="SIGKILL")
        async with asyncio.timeout(60):
            await bell.wait()
        await box.destroy(made.id)


async def test_a_port_that_something_else_has_is_not_insisted_on_and_fails_an_update(
    engine: ContainerEngine, client: aiodocker.Docker
) -> None:
    if engine.network == "host":
        pytest.skip("there the engine does not know which ports workers take")
    with socket.socket() as busy:
        busy.bind(("0.0.0.0", 19_990))
        busy.listen()
        async with provider_of(engine, ports="19990-19991") as box:
            made = await rent(box, spec(1, "echo up; exec sleep 600"))
            assert made.seen is Observation.RUNNING
            assert made.addresses == {"127.0.0.1:19991"}
            with pytest.raises(Busy, match="port"):
                await box.update(made.id, replace(spec(1, "echo new"), ports=(3000, 8000)))
            assert await seen_as(box, made.id, Observation.RUNNING)
            assert len(await described(client)) == 1
            assert (await box.logs(made.id, 9)).count("up") == 2
            await box.destroy(made.id)


async def test_a_gpu_where_there_is_none_is_refused_in_words_and_nothing_is_left(
    engine: ContainerEngine, client: aiodocker.Docker
) -> None:
    async with provider_of(engine, gpus=2, gpu_name="RTX 4090", gpu_ram_gb=24.0) as box:
        [offer] = await box.catalog()
        assert (offer.gpu_name, offer.num_gpus, offer.available, offer.gpu_ram_mb) == ("RTX 4090", 1, 2, 24_000)
        if engine.network == "host":
            pytest.skip("this podman takes no device requests")
        with pytest.raises(Refused, match="GPU runtime"):
            await rent(box, spec(1))
        assert not await described(client)
        assert not await volumes(client) - {"test-models"}


@pytest.fixture
def small_engine() -> Iterator[ContainerEngine]:
    """With a disk on which the agent has no room."""
    if why := missing("docker"):
        pytest.skip(why)
    with TemporaryDirectory(prefix="posthouse-") as disk:  # a short name: paths of sockets have 107 bytes at most
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "none", disk], check=True)
        try:
            with container_engine("docker", Path(disk) / "engine") as engine:
                yield engine
        finally:
            subprocess.run(["umount", "--lazy", disk], check=False)


async def test_a_full_disk_is_told_in_words_and_nothing_is_left(small_engine: ContainerEngine) -> None:
    async with provider_of(small_engine) as box, aiodocker.Docker(small_engine.url) as client:
        with pytest.raises(Refused, match="disk is full"):
            await rent(box, spec(1))
        assert not await described(client)
        assert not await volumes(client)


@pytest.mark.parametrize("step", ["make_volume", "create", "start"])
async def test_a_creation_that_was_given_up_goes_on_when_it_is_asked_for_again(
    box: Provider, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async def given_up(*args: object, **options: object) -> str:
        monkeypatch.undo()
        raise asyncio.CancelledError

    monkeypatch.setattr(engine_module.Engine, step, given_up)
    with pytest.raises(asyncio.CancelledError):
        await box.create((await box.catalog())[0].id, spec(1), 1.0)
    made = await rent(box, spec(1))
    assert await seen_as(box, made.id, Observation.RUNNING)
    assert len(await box.instances()) == 1


async def test_an_image_without_a_shell_is_told_in_words(box: Provider, client: aiodocker.Docker) -> None:
    image = "localhost/posthouse-empty:1"
    await client.images.import_image(io.BytesIO(saved(image, b"\0" * 1024, {})))
    made = await rent(box, replace(spec(1), image=image))
    ended = await seen_as(box, made.id, Observation.EXITED)
    assert "the image has no /bin/sh" in ended.message


async def test_an_engine_behind_tls_is_asked_with_a_certificate_and_answers_nobody_else(
    engine: ContainerEngine, tmp_path: Path
) -> None:
    if not engine.tls_url:
        pytest.skip("podman has no TLS of its own")
    remote = replace(engine, url=engine.tls_url)
    async with provider_of(remote, tls_dir=engine.tls_dir) as box:
        made = await rent(box, spec(1, "echo up; exec sleep 600"))
        await printed(box, made.id, "up")
        await box.destroy(made.id)
    certificates(tmp_path / "other")
    shutil.copy(Path(engine.tls_dir) / "ca.pem", tmp_path / "other")
    async with provider_of(remote, tls_dir=str(tmp_path / "other")) as stranger:
        with pytest.raises(OSError, match=r"(?i)certificate|connect"):
            await stranger.instances()
        assert stranger.troubles()
    with pytest.raises(Refused, match=r"providers\.box\.tls_dir"):
        async with provider_of(remote, tls_dir=str(tmp_path)):
            pass


async def test_an_engine_that_is_away_is_no_empty_list(tmp_path: Path) -> None:
    async with provider_of(ContainerEngine(f"unix://{tmp_path}/none.sock", "bridge", "")) as box:
        with pytest.raises(ConnectionError, match="Cannot connect"):
            await box.instances()
        assert "does not answer" in box.troubles()[0]


async def test_without_its_extra_the_provider_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("posthouse.providers.docker.")]:
        if not name.endswith("settings"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aiodocker", None)
    with pytest.raises(Refused, match=r"pip install 'posthouse\[docker\]'"):
        async with provider_of(ContainerEngine("unix:///none", "bridge", "")):
            pass


@pytest.mark.parametrize(
    ("network", "url", "report_url", "reached"),
    [
        ("bridge", "unix:///x", "http://127.0.0.1:8080", False),
        ("bridge", "unix:///x", "http://host.docker.internal:8080", True),
        ("host", "unix:///x", "http://127.0.0.1:8080", True),
        ("host", "tcp://127.0.0.1:2375", "http://localhost:8080", True),
        ("host", "tcp://10.0.0.5:2376", "http://[::1]:8080", False),
    ],
)
async def test_a_server_that_no_worker_could_report_to_is_refused_at_its_start(
    network: str, url: str, report_url: str, reached: bool
) -> None:
    context = Context("box1", "test", Path(), report_url=report_url)
    with nullcontext() if reached else pytest.raises(Refused, match=r"providers\.box1\.public_url"):
        provider = await DockerPlugin.open(DockerSettings(network=network, url=url), context)
        await provider.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("url", "ssh://box"),
        ("ports", "9-3"),
        ("caches", "models"),
        ("caches", "models:/workspace"),
        ("url", "unix://a"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(BadRequest, match=f"providers.docker.{name}"):
        load_settings({f"providers.docker.{name}": value}, None, {})


# -- the demo ------------------------------------------------------------------------------------------------------


def demo(*options: str, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "posthouse", "demo", "--json", "--out", str(out), "--provider", "docker", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


async def kept(client: aiodocker.Docker) -> set[str]:
    """The images and the volumes of the engine."""
    found = await client.volumes.list()
    return {image["Id"] for image in await client.images.list()} | {v["Name"] for v in found.get("Volumes") or []}


@pytest.mark.long
async def test_the_demo_answers_every_request_in_containers_and_leaves_nothing(
    engine: ContainerEngine, client: aiodocker.Docker, tmp_path: Path
) -> None:
    before = await kept(client)
    done = await asyncio.to_thread(demo, "--engine", engine.url, "--duration", "15", out=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["answered"] == summary["requests"] > 300
    assert summary["most_hot_workers"] > 1
    assert not await described(client)
    assert await kept(client) == before


@pytest.mark.long
async def test_the_demo_names_the_option_that_is_wrong(
    engine: ContainerEngine, client: aiodocker.Docker, tmp_path: Path
) -> None:
    away = await asyncio.to_thread(demo, "--engine", f"unix://{tmp_path}/none.sock", out=tmp_path)
    assert f"error: --engine unix://{tmp_path}/none.sock: no engine answers there" in away.stderr
    absent = await asyncio.to_thread(demo, "--engine", engine.url, "--image", f"{REGISTRY}/none:1", out=tmp_path)
    assert f"error: --image: image {REGISTRY}/none:1: " in absent.stderr
    assert not await described(client)


# -- cut short at every call of the engine -------------------------------------------------------------------------


class Cut(BaseException):
    """The server dies here."""


def calls_left(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls of the engine a server makes before it dies, right after the last one; the caller sets it."""
    left, trying = [1_000], engine_module.trying

    @asynccontextmanager
    async def cut(what: str, limit_s: float = 60.0) -> AsyncIterator[None]:
        async with trying(what, limit_s):
            yield
        left[0] -= 1
        if left[0] == 0:
            raise Cut

    monkeypatch.setattr(engine_module, "trying", cut)
    return left


@pytest.mark.long
@pytest.mark.parametrize("call", ["create", "update"])
async def test_whatever_call_is_the_last_one_nothing_is_lost_or_made_twice(
    engine: ContainerEngine, client: aiodocker.Docker, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    if engine.network == "host":
        pytest.skip("the same calls, as Docker's engine shows")
    left = calls_left(monkeypatch)
    old, new = spec(1, "echo old; exec sleep 600"), spec(1, "echo new; exec sleep 600")
    last = 0
    while left[0] > 0 or last == 0:
        last, left[0] = last + 1, 1_000
        async with provider_of(engine) as box:
            offer = (await box.catalog())[0]
            if call == "update":
                await box.create(offer.id, old, 1.0)
            left[0] = last
            with suppress(Cut):
                await (box.create(offer.id, new, 1.0) if call == "create" else box.update("posthouse-test-1", new))
            reached, left[0] = left[0], 1_000
        async with provider_of(engine) as box:
            assert len(await box.instances()) <= 1
            made = await box.create(offer.id, new, 1.0)
            if call == "update":
                made = await box.update(made.id, new)
            assert made.seen is Observation.RUNNING
            assert len(await described(client)) == 1
            if call == "create" or reached > 0:
                await box.destroy(made.id)
                assert not await described(client)
                assert not await volumes(client) - {"test-models"}
        if reached > 0:
            break
    assert last > 5


@pytest.mark.long
@pytest.mark.parametrize(
    ("call", "then"),
    [
        ("stop", {Observation.RUNNING, Observation.HALTED}),  # and never ended, which would be a failure
        ("start", {Observation.RUNNING, Observation.HALTED}),
        ("destroy", {Observation.RUNNING, Observation.HALTED, Observation.EXITED}),
    ],
)
async def test_a_command_that_was_cut_short_is_given_again_and_touches_nothing_foreign(
    engine: ContainerEngine,
    client: aiodocker.Docker,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    then: set[Observation],
) -> None:
    if engine.network == "host":
        pytest.skip("the same calls, as Docker's engine shows")
    foreign = {"posthouse.installation": "another", "posthouse.label": "posthouse-another-1"}
    await client.volumes.create({"Name": "posthouse-another-1", "Labels": foreign})
    stranger = await client.containers.create({"Image": IMAGE, "Cmd": ["sh"], "Labels": foreign}, name="stranger")
    left, last, reached = calls_left(monkeypatch), 0, 0
    while reached == 0:
        last += 1
        async with provider_of(engine) as box:
            made = await rent(box, spec(1))
            if call == "start":
                await box.stop(made.id)
            left[0] = last
            with suppress(Cut):
                await getattr(box, call)(made.id)
            reached, left[0] = max(left[0], 0), 1_000
        async with provider_of(engine) as box:
            assert {one.seen for one in await box.instances()} <= then
            await getattr(box, call)(made.id)
            ended = {one.seen for one in await box.instances()}
            assert ended == {"stop": {Observation.HALTED}, "start": {Observation.RUNNING}, "destroy": set()}[call]
            await box.destroy(made.id)
        assert [one["Id"] for one in await described(client)] == [stranger.id]
        assert "posthouse-another-1" in await volumes(client)
    assert last > 2
    await stranger.delete(force=True, v=True)
    await aiodocker.volumes.DockerVolume(client, "posthouse-another-1").delete()

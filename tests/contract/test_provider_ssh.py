"""What the ssh provider does with a real sshd: the contract of every provider, and what it promises beyond that."""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from posthouse.config import load_settings
from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Price
from posthouse.errors import BadRequest, Busy, OfferTaken, Refused, Unavailable
from posthouse.ports import Provider
from posthouse.providers.plugin import Context
from posthouse.providers.process import procfs
from posthouse.providers.registry import opened
from posthouse.providers.ssh import box as box_module
from posthouse.providers.ssh.frames import BEGIN, Answer, Listing, framed
from posthouse.providers.ssh.link import Link
from tests.kit.container_engines import IMAGE, ContainerEngine, container_engine
from tests.kit.disks import fill, small_disk
from tests.kit.marks import long
from tests.kit.provider_contract import (
    ContractInShort,
    ProviderContract,
    eventually,
    listed,
    opened_provider,
    printed,
    rent,
    seen_as,
    spec,
)
from tests.kit.ssh_server import SshServer, network_of_its_own, ssh_server

TICK = "i=0; while :; do echo tick $((i+=1)); sleep 0.1; done"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The box's directory for all of ours: the agent is put there once for all tests."""
    return tmp_path_factory.mktemp("box")


def provider_of(data_dir: Path, *hosts: dict[str, Any], **table: Any) -> AbstractAsyncContextManager[Provider]:
    return opened_provider("boxes", {"type": "ssh", "grace_s": 0.5, "hosts": list(hosts)} | table, data_dir)


async def ready(provider: Provider) -> None:
    """Returns once every box can be worked with: the first time the agent has to be copied."""

    async def check() -> bool:
        try:
            await provider.instances()
        except Exception:
            await asyncio.sleep(0.2)
            return False
        return not provider.troubles()

    await eventually(check)


@pytest.fixture
async def box(server: SshServer, home: Path, tmp_path: Path) -> AsyncIterator[Provider]:
    async with provider_of(tmp_path, server.host(dir=str(home))) as provider:
        await ready(provider)
        yield provider
        for instance in await provider.instances():
            await provider.destroy(instance.id)


class TestSshProviderInShort(ContractInShort):
    @pytest.fixture
    def provider(self, box: Provider) -> Provider:
        return box


@pytest.mark.long
class TestSshProvider(ProviderContract):
    @pytest.fixture
    def provider(self, box: Provider) -> Provider:
        return box


def programs(server: SshServer) -> list[psutil.Process]:
    """Ours on the box: one for each connection."""
    assert server.process is not None
    found = []
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has just ended
            found += [child] if "posthouse.providers.ssh.remote" in child.cmdline() else []
    return found


async def away(provider: Provider, text: str) -> None:
    """Returns once a box is said to be away for that reason."""

    async def check() -> bool:
        with suppress(Exception):
            await provider.instances()
        return bool(re.search(text, " ".join(provider.troubles())))

    await eventually(check)


@contextmanager
def heir_of(pid: int) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the number; skips the test where numbers cannot be chosen."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(200):
        try:
            last.write_text(str(pid - 1))
        except OSError:
            break
        heir = subprocess.Popen(["sleep", "600"])
        if heir.pid == pid:
            yield heir
            heir.kill()
            heir.wait()
            return
        heir.kill()
        heir.wait()
    pytest.skip("a process cannot be given a number here")


def liar(folder: Path, *answers: bytes) -> str:
    """A program in the place of a box's Python, which answers each frame with the next of these, and then ends."""
    script = folder / "liar"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nread, out = sys.stdin.buffer.read, sys.stdout.buffer\n"
        f"out.write({BEGIN!r})\nfor answer in {answers!r}:\n"
        "    read(int.from_bytes(read(4), 'big'))\n    out.write(answer)\n    out.flush()\n"
    )
    script.chmod(0o755)
    return str(script)


# -- who is let in, and where --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["fingerprint", "file", "unknown"])
async def test_a_box_with_another_key_is_not_worked_with_and_the_operator_is_told(
    server: SshServer, home: Path, tmp_path: Path, how: str
) -> None:
    known = tmp_path / "known_hosts"
    public = (server.folder / "user_key.pub").read_text()  # some other key
    known.write_text("" if how == "unknown" else f"[{server.address}]:{server.port} {public}")
    table: dict[str, Any] = {"host_key": f"SHA256:{'A' * 43}"} if how == "fingerprint" else {"host_key": ""}
    host = server.host(dir=str(home), known_hosts=str(known), **table)
    async with provider_of(tmp_path, host) as provider:
        with pytest.raises(Unavailable, match=re.escape(server.fingerprint)):
            await provider.instances()
        with pytest.raises(Unavailable, match="nothing was sent"):
            await provider.create("a/cpu", spec(1), 1.0)
        [trouble] = provider.troubles()
        assert "ssh-keygen -lf" in trouble
        assert programs(server) == []


async def test_a_box_that_is_in_known_hosts_needs_no_fingerprint(server: SshServer, home: Path, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    public = (server.folder / "host_key.pub").read_text()
    known.write_text(f"[{server.address}]:{server.port} {public}")
    async with provider_of(tmp_path, server.host(dir=str(home), host_key="", known_hosts=str(known))) as provider:
        await ready(provider)


async def test_a_box_that_lets_nobody_in_is_told_from_one_that_is_not_there(
    server: SshServer, home: Path, tmp_path: Path
) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", stranger], check=True)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        no_sshd = server.host(dir=str(home), name="b", port=nobody.getsockname()[1])
        refuses = server.host(dir=str(home), key_file=str(stranger))
        async with provider_of(tmp_path, refuses, no_sshd) as provider:
            await away(provider, "box a: .*authorized_keys.*")
            await away(provider, "box b: .*Connect call failed.*")


async def test_a_key_that_cannot_be_used_keeps_the_server_from_starting(server: SshServer, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret words", "-f", locked], check=True)
    for path in (tmp_path / "none", locked, server.folder / "config"):
        with pytest.raises(Refused, match=f"key_file {path}"):
            async with provider_of(tmp_path, server.host(key_file=str(path))):
                pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host_key", "MD5:00"),
        ("ports", "9-3"),
        ("dir", "home"),
        ("dir", "/x;reboot"),
        ("address", "a b"),
        ("user", "-oProxyCommand=x y"),
        ("colour", "red"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    host = {"name": "a", "address": "h", "user": "u", "key_file": "k", name: value}
    with pytest.raises(BadRequest, match=rf"providers.ssh.hosts.0.{name}"):
        load_settings({"providers.ssh.hosts": [host]}, None, {})


@pytest.mark.parametrize("table", [{"address": "10.0.0.1"}, {"address": "127.0.0.1", "engine": "/run/engine.sock"}])
async def test_a_box_whose_workers_could_not_report_keeps_the_server_from_starting(
    tmp_path: Path, table: dict[str, str]
) -> None:
    host = {"name": "a", "user": "u", "key_file": "k"} | table
    settings, _ = load_settings({"providers.ssh.hosts": [host]}, None, {})
    with pytest.raises(Refused, match=r"box a cannot reach the server at 127.0.0.1:8080.*providers.ssh.public_url"):
        await opened(
            settings.providers["ssh"], Context("ssh", "test", tmp_path, report_url="http://127.0.0.1:8080/w/token")
        )


def test_two_boxes_of_one_name_are_refused() -> None:
    host = {"name": "a", "address": "h", "user": "u", "key_file": "k"}
    with pytest.raises(BadRequest, match="same name"):
        load_settings({"providers.ssh.hosts": [host, host]}, None, {})


async def test_without_its_extra_the_provider_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = {"name": "a", "address": "h", "user": "u", "key_file": "k"}
    for name in [name for name in sys.modules if name.startswith("posthouse.providers.ssh.")]:
        if not name.endswith("settings"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(Refused, match=r"pip install 'posthouse\[ssh\]'"):
        async with provider_of(tmp_path, host):
            pass


# -- boxes that are away, rebooted, full -----------------------------------------------------------------------------


async def test_a_worker_outlives_its_connection_and_is_the_same_afterwards(
    server: SshServer, home: Path, tmp_path: Path
) -> None:
    async with provider_of(tmp_path, server.host(dir=str(home))) as box:
        await ready(box)
        made = await rent(box, spec(1, TICK))
        await printed(box, made.id, "tick 2")
        server.kill()
        await away(box, "box a: cannot be reached since .* UTC")
        [seen] = await box.instances()
        assert (seen.seen, seen.addresses) == (Observation.RUNNING, made.addresses)
        with pytest.raises(Unavailable):
            await box.destroy(made.id)
        async with provider_of(tmp_path, server.host(dir=str(home))) as next_server:
            assert [i.label for i in await next_server.instances()] == [made.label]
        server.start()
        await ready(box)
        assert replace(await seen_as(box, made.id, Observation.RUNNING), progress=made.progress) == made
        ticks = [int(tick) for tick in re.findall(r"tick (\d+)", await box.logs(made.id, 10_000))]
        assert ticks == list(range(1, len(ticks) + 1)), "it went on, and was not begun again"
        await box.destroy(made.id)
        assert not await box.instances()


async def test_one_box_that_is_away_keeps_nobody_from_the_others(server: SshServer, home: Path, tmp_path: Path) -> None:
    with ssh_server(tmp_path / "second") as second:
        hosts = server.host(dir=str(home)), second.host(dir=str(home.parent / "box-b"), name="b", python=sys.executable)
        async with provider_of(tmp_path, *hosts) as boxes:
            await ready(boxes)
            lost, kept = [await boxes.create(f"{name}/cpu", spec(i), 1.0) for i, name in enumerate("ba")]
            second.kill()
            await away(boxes, "box b: cannot be reached")
            assert {i.label for i in await boxes.instances()} == {lost.label, kept.label}
            assert {offer.machine for offer in await boxes.catalog()} == {"a"}
            with pytest.raises(Unavailable):
                await boxes.create("b/cpu", spec(5), 1.0)
            other = await boxes.create("a/cpu", spec(6), 1.0)
            for made in (kept, other):
                await boxes.destroy(made.id)
            assert [i.label for i in await boxes.instances()] == [lost.label]
            second.start()
            await ready(boxes)
            await boxes.destroy(lost.id)
            assert not await boxes.instances()


async def test_the_list_of_a_box_that_was_never_seen_is_no_empty_list(
    server: SshServer, home: Path, tmp_path: Path
) -> None:
    (tmp_path / "ssh-boxes.json").write_text("{")
    host = server.host(dir=str(home), port=1)
    async with provider_of(tmp_path, server.host(dir=str(home), name="b"), host) as boxes:
        await away(boxes, "box a: cannot be reached")
        with pytest.raises(Unavailable, match="never seen"):
            await boxes.instances()
        with pytest.raises(Unavailable):
            await boxes.destroy("posthouse-test-9")


async def test_a_box_that_is_drained_keeps_its_workers_and_one_that_is_taken_away_is_forgotten(
    server: SshServer, home: Path, tmp_path: Path
) -> None:
    host = server.host(dir=str(home))
    async with provider_of(tmp_path, host) as box:
        await ready(box)
        made = await rent(box, spec(1))
    async with provider_of(tmp_path, host | {"drain": True}) as box:
        await ready(box)
        assert await seen_as(box, made.id, Observation.RUNNING)
        assert list(await box.catalog()) == []
        await box.destroy(made.id)
        again = await box.create("a/cpu", spec(2), 1.0)
    async with provider_of(
        tmp_path, host | {"name": "b", "dir": str(tmp_path / "b"), "python": sys.executable}
    ) as other:
        await ready(other)
        assert list(await other.instances()) == []
    async with provider_of(tmp_path, host) as box:
        await ready(box)
        await box.destroy(again.id)


async def test_what_versions_before_left_is_removed_unless_something_runs_from_there(
    server: SshServer, home: Path, tmp_path: Path
) -> None:
    agents = home / "agents"
    (agents / "0.0.1-unused" / "bin").mkdir(parents=True, exist_ok=True)
    (agents / "0.0.1-used" / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/sleep", agents / "0.0.1-used" / "bin" / "python3")
    worker = subprocess.Popen([agents / "0.0.1-used" / "bin" / "python3", "600"])
    try:
        for left in ({"0.0.1-used"}, set()):
            async with provider_of(tmp_path, server.host(dir=str(home))) as box:
                await ready(box)
                names = {path.name for path in agents.iterdir()}
                assert {name for name in names if name.startswith("0.0.1")} == left
                assert len(names) == len(left) + 1
            worker.kill()
            worker.wait()
    finally:
        worker.kill()
        worker.wait()


async def test_a_box_that_was_rebooted_says_so(box: Provider, home: Path) -> None:
    made = await rent(box, spec(1))
    await printed(box, made.id, "up")
    record = home / "workers" / made.id / "instance.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"boot_id": "an earlier one"}))
    for process in procfs.census()[str(home / "workers" / made.id)]:
        procfs.send(process, signal.SIGKILL)
    gone = await seen_as(box, made.id, Observation.EXITED)
    assert "rebooted" in gone.message
    await box.stop(made.id)
    await box.start(made.id)
    again = await seen_as(box, made.id, Observation.RUNNING)
    assert (again.message, again.addresses) == ("", made.addresses)


async def test_a_box_whose_disk_is_full_says_so_and_keeps_what_it_has(server: SshServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 20) as disk:
        async with provider_of(tmp_path, server.host(dir=str(disk), python=sys.executable)) as box:
            await ready(box)
            made = await rent(box, spec(1))
            ballast = fill(disk)
            await away(box, "box a: .*GB free")
            assert await seen_as(box, made.id, Observation.RUNNING)
            with pytest.raises(OfferTaken):
                await box.create("a/cpu", spec(2), 1.0)
            await box.destroy(made.id)
            ballast.unlink()
            await ready(box)
            assert not await box.instances()


async def test_a_box_without_room_for_the_agent_says_so(server: SshServer, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 20) as disk:
        async with provider_of(tmp_path, server.host(dir=str(disk))) as box:
            await away(box, "No space left on device")
            assert [path.name for path in (disk / "agents").iterdir()] == []


# -- what a box has ----------------------------------------------------------------------------------------------------


@contextmanager
def box_with_smi(folder: Path, script: str) -> Iterator[SshServer]:
    """A box with an nvidia-smi of our own."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "nvidia-smi").chmod(0o755)
    with ssh_server(folder / "sshd", config=f"SetEnv PATH={programs}:/usr/bin:/bin") as server:
        yield server


async def test_each_gpu_of_a_box_is_one_workers(home: Path, tmp_path: Path) -> None:
    smi = "echo '0, NVIDIA GeForce RTX 4090, 24564'; echo '1, NVIDIA GeForce RTX 4090, 24564'"
    with box_with_smi(tmp_path, smi) as server:
        async with provider_of(tmp_path, server.host(dir=str(home), slots=0)) as box:
            await ready(box)
            [offer] = await box.catalog()
            found = (offer.id, offer.machine, offer.gpu_name, offer.gpu_ram_mb, offer.num_gpus, offer.available)
            assert found == ("a/gpu RTX 4090 24564", "a", "RTX 4090", 24564, 1, 2)
            assert offer.attributes["cpu_cores"]
            made = [await rent(box, spec(i, "echo gpu $CUDA_VISIBLE_DEVICES.; exec sleep 600")) for i in (1, 2)]
            logs = [await printed(box, one.id, ".") for one in made]
            assert sorted(logs) == ["gpu 0.\n", "gpu 1.\n"]
            for one in made:
                await box.destroy(one.id)


async def test_a_box_whose_gpus_cannot_be_asked_says_so_and_lists_its_workers(home: Path, tmp_path: Path) -> None:
    with box_with_smi(tmp_path, "echo 'NVML: Driver/library version mismatch'; exit 18") as server:
        async with provider_of(tmp_path, server.host(dir=str(home), slots=0)) as box:
            await ready(box)
            assert list(await box.catalog()) == []
            assert "nvidia-smi does not work" in box.troubles()[0]
            assert list(await box.instances()) == []
        declared = {"slots": 0, "gpus": 2, "gpu_name": "MI300X", "gpu_ram_gb": 192.0}
        async with provider_of(tmp_path, server.host(dir=str(home), **declared)) as box:
            await ready(box)
            [offer] = await box.catalog()
            assert (offer.gpu_name, offer.gpu_ram_mb, offer.available) == ("MI300X", 192_000, 2)


# -- cut short -------------------------------------------------------------------------------------------------------


async def test_an_answer_that_is_lost_costs_no_second_worker(
    server: SshServer, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with provider_of(tmp_path, server.host(dir=str(home))) as box:
        await ready(box)
        [program] = programs(server)
        program.suspend()
        making = asyncio.create_task(box.create("a/cpu", spec(1), 1.0))
        await asyncio.sleep(0.3)
        server.kill()
        with pytest.raises(ConnectionError, match="box a: create"):
            await making
        [noted] = await box.instances()
        assert noted.label == "posthouse-test-1"
        with pytest.raises(ConnectionError):  # not "nothing was made"
            await box.create("a/cpu", spec(1), 1.0)
        program.resume()  # it has read the call, and makes it
        server.start()
        await ready(box)
        made = await box.create("a/cpu", spec(1), 1.0)
        assert await seen_as(box, made.id, Observation.RUNNING)
        assert len(await box.instances()) == 1
        await box.destroy(made.id)
        assert not await box.instances()


async def test_an_answer_after_the_time_limit_is_not_taken_for_another(
    server: SshServer, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with provider_of(tmp_path, server.host(dir=str(home))) as box:
        await ready(box)
        [program] = programs(server)
        monkeypatch.setattr(box_module, "CALL_S", 0.2)
        program.suspend()
        with pytest.raises(TimeoutError, match="box a: create: no answer within"):
            await box.create("a/cpu", spec(1), 1.0)
        cancelled = asyncio.create_task(box.create("a/cpu", spec(2), 1.0))
        await asyncio.sleep(0.1)
        cancelled.cancel()
        with suppress(asyncio.CancelledError):
            await cancelled
        program.resume()
        monkeypatch.setattr(box_module, "CALL_S", 60.0)
        labels = "posthouse-test-1", "posthouse-test-2"
        for label in labels:
            await seen_as(box, label, Observation.RUNNING)
        assert await printed(box, labels[0], "up")
        for label in labels:
            await box.destroy(label)
        assert not await box.instances()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["create", "destroy", long("stop"), long("start"), long("update")])
async def test_whatever_call_is_the_last_one_of_a_connection_nothing_is_lost_or_made_twice(
    server: SshServer, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    call, cut = Link.call, [""]

    async def breaks(link: Link, called: str, *given: Any, limit_s: float) -> Any:
        if called != cut[0]:
            return await call(link, called, *given, limit_s=limit_s)
        asking = asyncio.create_task(call(link, called, *given, limit_s=limit_s))
        await asyncio.wait([asking], timeout=30 if when == "after" else 0.001)
        link.connection.abort()
        cut[0] = ""
        await asyncio.wait([asking])
        raise ConnectionError("cut")

    monkeypatch.setattr(Link, "call", breaks)
    new, label = spec(1, "echo new; exec sleep 600"), "posthouse-test-1"
    calls: dict[str, Callable[[Provider], Awaitable[object]]] = {
        "create": lambda box: box.create("a/cpu", new, 1.0),
        "stop": lambda box: box.stop(label),
        "start": lambda box: box.start(label),
        "update": lambda box: box.update(label, new),
        "destroy": lambda box: box.destroy(label),
    }
    async with provider_of(tmp_path, server.host(dir=str(home))) as box:
        await ready(box)
        if name != "create":
            await rent(box, spec(1, "echo old; exec sleep 600"))
        if name == "start":
            await box.stop(label)
        cut[0] = name
        with pytest.raises(ConnectionError):
            await calls[name](box)
        await ready(box)
        assert len(await box.instances()) <= 1
        await calls[name](box)
        found = {i.label: i.seen for i in await box.instances()}
        ends = {"destroy": {}, "stop": {label: Observation.HALTED}}
        assert found == ends.get(name, {label: Observation.RUNNING})
        if name == "update":
            assert (await printed(box, label, "new")).count("old") == 1
        await box.destroy(label)
        assert not await box.instances()
        assert str(home / "workers" / label) not in procfs.census()


async def test_two_servers_share_a_box_and_no_slot(server: SshServer, home: Path, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    host = server.host(dir=str(home), slots=3)
    async with provider_of(tmp_path / "one", host) as one, provider_of(tmp_path / "two", host) as two:
        await ready(one)
        await ready(two)
        calls = [provider.create("a/cpu", spec(i), 1.0) for i, provider in enumerate([one, two] * 4)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        made = [answer for answer in answers if isinstance(answer, Instance)]
        assert len(made) == 3
        assert {type(answer) for answer in answers} == {Instance, OfferTaken}
        assert len(await one.instances()) == len(await two.instances()) == 3
        for instance in made:
            await two.destroy(instance.id)
        assert not await one.instances()


async def test_a_process_that_has_a_dead_workers_number_is_let_alone(box: Provider, home: Path) -> None:
    made = await rent(box, spec(1))
    await printed(box, made.id, "up")
    ended = procfs.census()[str(home / "workers" / made.id)]
    for process in ended:
        procfs.send(process, signal.SIGKILL)
    await seen_as(box, made.id, Observation.EXITED)
    [keeper] = [process.pid for process in ended if process.mark]
    with heir_of(keeper) as heir:
        assert (await listed(box, made.id)) == await seen_as(box, made.id, Observation.EXITED)
        await box.stop(made.id)
        await box.destroy(made.id)
        assert heir.poll() is None


# -- boxes whose ports cannot be reached -------------------------------------------------------------------------------

ECHO = 'exec "$PYTHON" -m http.server --bind 0.0.0.0 "$WORKER_PORT"'


async def reached(address: str) -> bool:
    """Whether a worker that runs `ECHO` answers there."""
    host, port = address.rsplit(":", 1)
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HEAD / HTTP/1.0\r\n\r\n")
        answer = await reader.read(100)
        writer.close()
        await writer.wait_closed()
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.0 200")


@pytest.fixture
def hidden(tmp_path: Path) -> Iterator[SshServer]:
    with (
        network_of_its_own() as (address, inside),
        ssh_server(tmp_path / "hidden", address=address, inside=inside, port=22) as server,
    ):
        yield server


async def test_a_worker_whose_port_cannot_be_reached_is_reached_through_the_server(
    hidden: SshServer, home: Path, tmp_path: Path
) -> None:
    async with provider_of(tmp_path, hidden.host(dir=str(home), forward=True)) as box:
        await ready(box)
        made = await rent(box, spec(1, ECHO))
        [address] = made.addresses
        assert address.startswith("127.0.0.1:")
        await eventually(lambda: reached(address))
        await box.stop(made.id)
        await box.start(made.id)
        await eventually(lambda: reached(address))
        hidden.kill()
        await away(box, "box a: cannot be reached")
        assert not await reached(address)
        hidden.start()
        await ready(box)
        assert await reached(address)
        updated = await box.update(made.id, replace(spec(1, ECHO), ports=(3000, 8000)))
        assert len(updated.addresses) == 2
        await eventually(lambda: reached(address))
        await box.destroy(made.id)
        assert not await box.instances()
        assert not await reached(address)


async def test_a_worker_that_would_need_a_port_of_the_servers_own_is_not_made(
    hidden: SshServer, home: Path, tmp_path: Path
) -> None:
    host = hidden.host(dir=str(home), forward=True, ports="20001-20003")
    async with provider_of(tmp_path, host) as box:
        await ready(box)
        with ExitStack() as stack:
            for port in (20_001, 20_002, 20_003):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            with pytest.raises(Busy, match=r"box a: port 2000\d of this server"):
                await box.create("a/cpu", spec(1), 1.0)
            assert not await box.instances()
        made = await box.create("a/cpu", spec(1, ECHO), 1.0)
        [address] = made.addresses
        await eventually(lambda: reached(address))
        await ready(box)
        await box.destroy(made.id)


# -- containers ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ContainerEngine]:
    with container_engine("docker", tmp_path_factory.mktemp("docker")) as engine:
        yield engine


@pytest.fixture
async def contained(server: SshServer, engine: ContainerEngine, tmp_path: Path) -> AsyncIterator[Provider]:
    host = server.host(engine=engine.url.removeprefix("unix://"), image=IMAGE)
    async with provider_of(tmp_path, host, grace_s=1) as provider:
        await ready(provider)
        yield provider
        await ready(provider)
        for instance in await provider.instances():
            await provider.destroy(instance.id)


@pytest.mark.long
class TestSshProviderWithAnEngine(ProviderContract):
    @pytest.fixture
    def provider(self, contained: Provider) -> Provider:
        return contained


@pytest.mark.long
async def test_a_container_outlives_its_connection_and_is_the_same_afterwards(
    server: SshServer, contained: Provider
) -> None:
    made = await rent(contained, spec(1, TICK))
    await printed(contained, made.id, "tick 2")
    server.kill()
    await away(contained, "box a: cannot be reached since .* UTC")
    [seen] = await contained.instances()
    assert (seen.seen, seen.addresses) == (Observation.RUNNING, made.addresses)
    server.start()
    await ready(contained)
    assert (await seen_as(contained, made.id, Observation.RUNNING)).addresses == made.addresses
    ticks = [int(tick) for tick in re.findall(r"tick (\d+)", await contained.logs(made.id, 10_000))]
    assert ticks == list(range(1, len(ticks) + 1)), "it went on, and was not begun again"


async def test_a_box_whose_engine_does_not_answer_is_away(server: SshServer, tmp_path: Path) -> None:
    async with provider_of(tmp_path, server.host(engine=str(tmp_path / "no.sock"))) as box:
        await away(box, "box a: cannot be reached .*engine")
        with pytest.raises(Unavailable):
            await box.instances()


# -- boxes and workers that lie ----------------------------------------------------------------------------------------


async def test_a_worker_that_prints_without_end_and_writes_what_it_may_holds_up_nobody(
    box: Provider, home: Path
) -> None:
    onstart = "echo x >exit_code; ln -s /etc/passwd ../output.log.1; mkdir model.log; yes 'flood of words'"
    made = await rent(box, spec(1, onstart))
    output = home / "workers" / made.id / "output.log"

    async def long() -> bool:
        with suppress(FileNotFoundError):  # between two of its names
            return (output.parent / "output.log.1").exists() or output.stat().st_size > 2**22
        return False

    await eventually(long)
    *lines, _ = (await box.logs(made.id, 10)).splitlines()  # the last may be half written
    assert set(lines) == {"flood of words"}
    assert await seen_as(box, made.id, Observation.RUNNING)
    other = await rent(box, spec(2))
    assert other.seen is Observation.RUNNING


async def test_what_a_login_shell_prints_is_no_answer(home: Path, tmp_path: Path) -> None:
    noise = "ForceCommand /bin/sh -c 'echo Welcome; echo you have mail >&2; exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"'"
    with ssh_server(tmp_path / "noisy", config=noise) as noisy:
        async with provider_of(tmp_path, noisy.host(dir=str(home))) as box:
            await ready(box)
            made = await rent(box, spec(1))
            await printed(box, made.id, "up")
            await box.destroy(made.id)


@pytest.mark.parametrize("lie", [b"\xff" * 100, b"\0\0\0\1\xc1", framed([1, 2]), b"\0\0\0"])
async def test_a_box_that_sends_nonsense_is_away(server: SshServer, tmp_path: Path, lie: bytes) -> None:
    async with provider_of(tmp_path, server.host(dir=str(tmp_path / "d"), python=liar(tmp_path, lie))) as box:
        await away(box, "box a: cannot be reached")
        with pytest.raises(Unavailable):
            await box.instances()


async def test_a_box_is_believed_in_what_is_its_own_alone(server: SshServer, tmp_path: Path) -> None:
    label, long = "posthouse-test-1", "m" * 10**5
    addresses = frozenset({"10.0.0.1:80", "127.0.0.1:20000", "127.0.0.1:x", "127.0.0.1:99999", "127.0.0.1:0"})
    evil = Instance(label, label, Observation.RUNNING, addresses, message=long, price=Price(0.01))
    foreign = replace(evil, id="posthouse-other-1", label="posthouse-other-1")
    listing = msgspec.Raw(msgspec.msgpack.encode(Listing([evil, foreign], long)))
    answers = [framed(Answer(0)), *(framed(Answer(number, listing)) for number in range(1, 9))]
    host = server.host(dir=str(tmp_path / "d"), python=liar(tmp_path, *answers))
    async with provider_of(tmp_path, host) as box:
        await away(box, "mmm")
        [seen] = await box.instances()
        assert (seen.id, seen.addresses, seen.price) == (label, frozenset({"127.0.0.1:20000"}), Price(0.1))
        assert len(seen.message) < 1000
        assert len(box.troubles()[0]) < 1000
        with pytest.raises((ConnectionError, RuntimeError)):
            await box.create("a/cpu", spec(2), 1.0)


async def test_a_box_cannot_make_the_server_listen_where_it_should_not(server: SshServer, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    addresses = frozenset({f"127.0.0.1:{port}", "127.0.0.1:20003"})
    evil = Instance("posthouse-test-1", "posthouse-test-1", Observation.RUNNING, addresses)
    listing = msgspec.Raw(msgspec.msgpack.encode(Listing([evil], "")))
    answers = [framed(Answer(0)), *(framed(Answer(number, listing)) for number in range(1, 9))]
    program = liar(tmp_path, *answers)
    host = server.host(dir=str(tmp_path / "d"), python=program, forward=True, ports="20003-20005")
    async with provider_of(tmp_path, host) as box:
        await ready(box)
        [seen] = await box.instances()
        assert seen.addresses == {"127.0.0.1:20003"}
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)


@pytest.mark.parametrize("answer", [long(Answer(1, error="NotFound")), Answer(1, error="KeyError"), long(Answer(1))])
async def test_a_box_that_fails_in_an_odd_way_keeps_nobody_from_the_others(
    server: SshServer, home: Path, tmp_path: Path, answer: Answer
) -> None:
    odd = [framed(Answer(0)), *(framed(msgspec.structs.replace(answer, id=number)) for number in range(1, 99))]
    hosts = [
        server.host(dir=str(home)),
        server.host(dir=str(tmp_path / "d"), name="b", python=liar(tmp_path, *odd)),
    ]
    (tmp_path / "ssh-boxes.json").write_text('{"b": {}}')
    async with provider_of(tmp_path, *hosts) as boxes:

        async def offered() -> bool:
            return {offer.machine for offer in await boxes.catalog()} == {"a"}

        await eventually(offered)
        made = await boxes.create("a/cpu", spec(1), 1.0)
        assert [i.label for i in await boxes.instances()] == [made.label]
        assert "box b" in " ".join(boxes.troubles())
        await boxes.destroy(made.id)

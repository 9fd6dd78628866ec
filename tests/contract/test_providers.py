"""What the process provider does: the contract of every provider, and what it promises beyond that."""

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.domain.lifecycle import Observation
from posthouse.domain.offer import Price
from posthouse.errors import Busy, OfferTaken, Refused
from posthouse.ports import Provider
from posthouse.providers.plugin import Context
from posthouse.providers.process import ProcessProvider, keeper, machine, provider
from posthouse.providers.process.launch import Bounds
from posthouse.providers.process.procfs import Process, alive, census, send
from posthouse.wire.matching import matches, values_of
from tests.kit.provider_contract import (
    DEADLINE_S,
    SLEEP,
    ProviderContract,
    environment,
    eventually,
    listed,
    printed,
    rent,
    seen_as,
    spec,
)


@pytest.fixture
async def root(tmp_path: Path) -> AsyncIterator[Path]:
    """A root whose processes are gone when the test ends, whatever became of its provider."""
    root = (tmp_path / "workers").resolve()
    yield root
    while left := [p for directory, found in census().items() if Path(directory).parent == root for p in found]:
        for one in left:
            send(one, signal.SIGKILL)
        await asyncio.sleep(0.02)


@pytest.fixture
async def local(root: Path) -> AsyncIterator[ProcessProvider]:
    price, walled = Price(ready_usd_h=0.1), Bounds(hidden=root)
    provider = ProcessProvider(root, "test", slots=4, grace_s=0.5, price=price, bounds=walled)
    yield provider
    for instance in await provider.instances():
        await provider.destroy(instance.id)
    await provider.close()


class TestProcessProvider(ProviderContract):
    @pytest.fixture
    def provider(self, local: ProcessProvider) -> Provider:
        return local


# -- processes -----------------------------------------------------------------------------------------------------


async def processes_of(root: Path, label: str, count: int) -> list[Process]:
    """The processes of an instance, once there are `count`."""

    async def check() -> bool:
        return len(census().get(str(root / label), [])) == count

    await eventually(check)
    return census()[str(root / label)]


def zombies() -> set[str]:
    """Dead children of this process that nobody took leave of."""
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[:2] == ["Z", str(os.getpid())]:
            found.add(pid)
    return found


async def test_nothing_of_the_servers_environment_leaks(
    local: ProcessProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTHOUSE_SECRET", "hush")
    env = await environment(local, 1, PATH_TO_MODEL="/m", LANG="C")
    directory = root / "posthouse-test-1"
    home = str(directory / "home")
    fixed = {"CONTAINER_ID", "PUBLIC_IPADDR", "WORKER_PORT", "WORKER_HTTP_PORT", "MODEL_PORT", "PYTHON", "PATH"}
    ports = {"VAST_TCP_PORT_3000", f"VAST_TCP_PORT_{env['WORKER_PORT']}"}
    of_bash = {"PWD", "SHLVL", "_"}
    own = {
        "HOME": home,
        "TMPDIR": f"{home}/tmp",
        "MODEL_LOG": f"{home}/model.log",
        "POSTHOUSE_INSTANCE": str(directory),
    }
    assert set(env) - of_bash == fixed | ports | set(own) | {"PATH_TO_MODEL", "LANG"}
    assert {name: env[name] for name in own} == own
    assert env["LANG"] == "C"
    assert env["PATH"].split(":")[0] == os.path.dirname(sys.executable)


async def test_a_template_cannot_replace_what_the_provider_sets(local: ProcessProvider) -> None:
    env = await environment(local, 5, CONTAINER_ID="6", WORKER_PORT="3000", HOME="/")
    assert env["CONTAINER_ID"] == "5"
    assert env["WORKER_PORT"] != "3000"
    assert env["HOME"] != "/"


@pytest.mark.parametrize("env", [{"BASH_ENV": "code", "ENV": "code"}, {"SHELLOPTS": "xtrace", "PS4": "$(echo pwned)"}])
async def test_no_variable_makes_bash_run_code(local: ProcessProvider, tmp_path: Path, env: dict[str, str]) -> None:
    (tmp_path / "code").write_text("echo pwned")
    paths = {name: str(tmp_path / "code") if value == "code" else value for name, value in env.items()}
    made = await rent(local, spec(1, "echo fine; exec sleep 600", **paths))
    assert "pwned" not in await printed(local, made.id, "fine")


async def test_two_workers_never_share_a_port(local: ProcessProvider) -> None:
    envs = await asyncio.gather(*(environment(local, worker_id) for worker_id in range(4)))
    ports = [int(env[name]) for env in envs for name in ("WORKER_PORT", "WORKER_HTTP_PORT", "MODEL_PORT")]
    assert len(set(ports)) == 12
    assert set(ports) <= set(machine.PORTS)


async def test_a_port_in_use_and_the_ports_of_a_stopped_worker_are_not_given_away(root: Path) -> None:
    with socket.socket() as busy:
        # Below the ports that the system gives to connections, so that nobody takes the next ones meanwhile.
        busy.bind(("127.0.0.1", secrets.randbelow(900) + 19_000))
        first = busy.getsockname()[1]
        # A worker takes three: its own, one for plain HTTP, one for the model.
        short = ProcessProvider(root, "test", slots=1, ports=range(first, first + 3))
        with pytest.raises(Refused, match="ports"):
            await rent(short, spec(1))
        local = ProcessProvider(root, "test", slots=1, ports=range(first, first + 4), grace_s=0.5)
        made = await rent(local, spec(1))
        await local.stop(made.id)
        with pytest.raises(Refused, match="ports"):
            await rent(local, spec(2))
        await local.destroy(made.id)
        assert await rent(local, spec(2))
        await local.close()


async def test_stopping_ends_what_ignores_sigterm_and_what_left_its_group(local: ProcessProvider, root: Path) -> None:
    stubborn = "trap '' TERM; echo; while :; do sleep 600; done"
    onstart = f"""
        bash -c "{stubborn}" &
        setsid bash -c "{stubborn}" &
        timeout 600 bash -c "{stubborn}" &
        env -i bash -c "{stubborn}"
    """
    made = await rent(local, spec(1, textwrap.dedent(onstart)))
    # Two of bash for the onstart, four loops, each with a sleep, and timeout.
    members = await processes_of(root, made.id, 11)
    await local.stop(made.id)
    assert [p for p in members if alive(p)] == []
    assert (await seen_as(local, made.id, Observation.HALTED)).message == ""
    assert (root / made.id).is_dir()


async def test_a_call_whose_caller_has_given_up_ends_nothing_that_a_later_one_starts(local: ProcessProvider) -> None:
    """As on a box, where calls go on though nobody waits for them any more."""
    made = await rent(local, spec(1))
    for _ in range(8):
        given_up = [asyncio.create_task(local.stop(made.id)) for _ in range(3)]
        await local.stop(made.id)
        given_up += [asyncio.create_task(local.start(made.id)) for _ in range(3)]
        await local.start(made.id)
        await asyncio.gather(*given_up)
        [seen] = await local.instances()
        assert seen.seen is Observation.RUNNING, seen.message


async def test_a_worker_has_its_time_to_end_in_order(root: Path) -> None:
    local = ProcessProvider(root, "test", slots=1, grace_s=DEADLINE_S)
    made = await rent(local, spec(1, "trap 'echo saved; exit' TERM; echo up; while :; do sleep 0.05; done"))
    await printed(local, made.id, "up")
    await local.stop(made.id)
    assert "saved" in await local.logs(made.id, 5)
    await local.close()


async def test_a_worker_lives_while_anything_of_it_lives(local: ProcessProvider, root: Path) -> None:
    made = await rent(local, spec(1, "sleep 600 & echo up"))
    await printed(local, made.id, "up")
    [left] = [one for one in await processes_of(root, made.id, 2) if not one.mark]
    assert await seen_as(local, made.id, Observation.RUNNING)
    send(left, signal.SIGKILL)
    assert "exit code 0" in (await seen_as(local, made.id, Observation.EXITED)).message


async def test_the_exit_code_of_an_earlier_run_is_not_told_again(local: ProcessProvider, root: Path) -> None:
    made = await rent(local, spec(1, "mkdir been || exec sleep 600; exit 3"))
    assert "exit code 3" in (await seen_as(local, made.id, Observation.EXITED)).message
    await local.start(made.id)
    for one in sorted(await processes_of(root, made.id, 2), key=lambda one: one.mark, reverse=True):
        send(one, signal.SIGKILL)
    assert "without an exit code" in (await seen_as(local, made.id, Observation.EXITED)).message


async def test_no_zombie_is_left(local: ProcessProvider) -> None:
    others = zombies()  # of providers that other tests have closed
    ended = await rent(local, spec(1, "exit 0"))
    stopped = await rent(local, spec(2))
    destroyed = await rent(local, spec(3))
    await local.stop(stopped.id)
    await local.destroy(destroyed.id)
    assert await seen_as(local, ended.id, Observation.EXITED)

    async def reaped() -> bool:
        await local.instances()
        return zombies() <= others

    await eventually(reaped)


SERVER = """
import asyncio, sys
from pathlib import Path
from posthouse.ports import InstanceSpec
from posthouse.providers.process import ProcessProvider

async def main():
    provider = ProcessProvider(Path(sys.argv[1]), "test", slots=4, grace_s=600)
    onstart = sys.argv[2]
    await provider.create("cpu", InstanceSpec("posthouse-test-1", 1, "", onstart, 1.0), 1.0)
    while "up" not in await provider.logs("posthouse-test-1", 5):
        await asyncio.sleep(0.02)
    new = InstanceSpec("posthouse-test-1", 1, "", "", 1.0)
    ending = {"stop": lambda: provider.stop(new.label), "update": lambda: provider.update(new.label, new)}
    command = asyncio.create_task(ending[sys.argv[3]]()) if sys.argv[3:] else None
    while command and "asked" not in await provider.logs("posthouse-test-1", 5):
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


def killed_server(root: Path, *arguments: str) -> None:
    """Returns once a server that rented worker 1 has been killed without warning."""
    with subprocess.Popen([sys.executable, "-c", SERVER, str(root), *arguments], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout
            assert server.stdout.readline() == b"ready\n"
        finally:
            server.kill()


async def test_workers_outlive_a_killed_server_and_are_adopted(local: ProcessProvider, root: Path) -> None:
    await asyncio.to_thread(killed_server, root, SLEEP)
    [adopted] = await local.instances()
    assert (adopted.label, adopted.seen) == ("posthouse-test-1", Observation.RUNNING)
    before = await processes_of(root, adopted.id, 2)
    assert (await local.catalog())[0].available == 3
    await local.stop(adopted.id)
    assert [p for p in before if alive(p)] == []
    await local.start(adopted.id)
    assert (await seen_as(local, adopted.id, Observation.RUNNING)).addresses == adopted.addresses
    await local.destroy(adopted.id)
    assert list(await local.instances()) == []


async def test_looking_again_adds_nothing_to_the_table_of_interned_strings(
    local: ProcessProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rent(local, spec(1))
    await local.instances()
    added: set[str] = set()
    intern = sys.intern

    def noting(text: str) -> str:
        if (
            intern(text) is text and text not in ("instance.json", "home") and not text.endswith(".log")
        ):  # these are constants
            added.add(text)
        return intern(text)

    monkeypatch.setattr(sys, "intern", noting)
    assert [i.id for i in await local.instances()] == ["posthouse-test-1"]
    await local.catalog()
    assert added == set()


async def test_an_adopted_worker_that_died_meanwhile_has_exited(local: ProcessProvider, root: Path) -> None:
    await asyncio.to_thread(
        killed_server, root, "echo up; read -r _ < <(while [ ! -e go ]; do sleep 0.02; done); exit 4"
    )
    (root / "posthouse-test-1" / "home" / "go").touch()
    assert "exit code 4" in (await seen_as(local, "posthouse-test-1", Observation.EXITED)).message


async def test_a_stop_that_a_crash_cut_short_is_finished(local: ProcessProvider, root: Path) -> None:
    await asyncio.to_thread(
        killed_server, root, "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done", "stop"
    )
    assert str(root / "posthouse-test-1") in census()
    assert await seen_as(local, "posthouse-test-1", Observation.HALTED)


async def test_an_update_ends_everything_that_ran_before_and_keeps_its_slot(root: Path) -> None:
    local = ProcessProvider(root, "test", slots=1, grace_s=1.0)
    made = await rent(local, spec(1, "trap '' TERM; sleep 600 & echo up; while :; do sleep 0.05; done"))
    await printed(local, made.id, "up")
    before = await processes_of(root, made.id, 3)
    updating = asyncio.create_task(local.update(made.id, spec(1)))
    while not updating.done():
        assert list(await local.catalog()) == []
    assert (await updating).seen is Observation.RUNNING
    assert [p for p in before if alive(p)] == []
    await local.destroy(made.id)
    await local.close()


async def test_a_stopped_worker_without_a_free_slot_is_updated_later(root: Path) -> None:
    local = ProcessProvider(root, "test", slots=1, grace_s=0.5)
    cold = await rent(local, spec(1, "echo old; exec sleep 600"))
    await local.stop(cold.id)
    hot = await rent(local, spec(2))
    with pytest.raises(Busy, match="no free slot"):
        await local.update(cold.id, spec(1, "echo new; exec sleep 600"))
    assert await seen_as(local, cold.id, Observation.HALTED)
    await local.destroy(hot.id)
    await local.update(cold.id, spec(1, "echo new; exec sleep 600"))
    await printed(local, cold.id, "new")
    await local.destroy(cold.id)
    await local.close()


async def test_an_update_that_a_crash_cut_short_is_listed_as_halted_and_can_be_given_again(
    local: ProcessProvider, root: Path
) -> None:
    await asyncio.to_thread(
        killed_server, root, "trap 'echo asked' TERM; echo up; while :; do sleep 0.05; done", "update"
    )
    assert str(root / "posthouse-test-1") in census()
    halted = await seen_as(local, "posthouse-test-1", Observation.HALTED)
    assert (await local.catalog())[0].available == 3  # its slot waits for it
    await local.update(halted.id, spec(1, "echo new; exec sleep 600"))
    assert await seen_as(local, halted.id, Observation.RUNNING)
    await printed(local, halted.id, "new")


async def test_a_worker_whose_update_a_crash_cut_short_starts_with_what_is_new(
    local: ProcessProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await rent(local, spec(1))

    def crash(*_: object) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(ProcessProvider, "_start", crash)
        with pytest.raises(RuntimeError):
            await local.update(made.id, spec(1, "echo new; exec sleep 600"))
    assert await seen_as(local, made.id, Observation.HALTED)
    await local.start(made.id)
    await printed(local, made.id, "new")


async def test_a_creation_that_a_crash_cut_short_is_listed_as_exited(
    local: ProcessProvider, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(provider, "launch", crash)
        with pytest.raises(KeyboardInterrupt):
            local._create("cpu", spec(1), 1.0)
    found = await listed(local, "posthouse-test-1")
    assert found is not None
    assert (found.seen, found.message) == (Observation.EXITED, "was created and never started")
    await local.destroy(found.id)
    assert [p.name for p in root.iterdir() if p.name != ".ended"] == []


async def test_leftovers_of_a_crash_are_swept_and_others_are_not(root: Path, local: ProcessProvider) -> None:
    for name in (
        ".gone-posthouse-test-1-0123abcd",
        ".new-posthouse-test-2-0123abcd",
        ".gone-posthouse-tests-1-0123abcd",
    ):
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep").chmod(0o500)
    await local.instances()
    assert [p.name for p in root.iterdir()] == [".gone-posthouse-tests-1-0123abcd"]


async def test_a_stranger_is_never_taken_for_a_worker(local: ProcessProvider, root: Path) -> None:
    """An old number means nothing: a process counts by the mark that it inherited."""
    made = await rent(local, spec(1))
    stranger = subprocess.Popen(["sleep", "600"], cwd=root / made.id, start_new_session=True)
    try:
        mine = await processes_of(root, made.id, 2)
        reused = Process(stranger.pid, mine[0].parent, mine[0].started - 1, mine[0].mark)
        send(reused, signal.SIGKILL)
        await local.destroy(made.id)
        assert not any(map(alive, mine))
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_two_providers_of_one_type_know_nothing_of_each_other(tmp_path: Path) -> None:
    settings = ProcessProvider.Settings(type="process", slots=1, grace_s=0.5)
    one, two = [await ProcessProvider.open(settings, Context(name, "test", tmp_path)) for name in ("process", "box")]
    try:
        made = await rent(one, spec(1))
        assert [o.provider for o in await two.catalog()] == ["box"]
        assert list(await two.instances()) == []
        await two.destroy(made.id)
        assert (await seen_as(one, made.id, Observation.RUNNING)).id == made.id
    finally:
        await one.destroy("posthouse-test-1")
        await one.close()
        await two.close()


async def test_what_others_keep_in_the_root_stays_untouched(local: ProcessProvider, root: Path) -> None:
    other = ProcessProvider(root, "test-2", slots=1)
    theirs = await rent(other, spec(1, installation="test-2"))
    (root / "posthouse-test-5").mkdir()
    (root / "posthouse-test-5" / "notes").write_text("mine")
    (root / "notes").write_text("mine")
    assert list(await local.instances()) == []
    for command in (local.stop, local.destroy):
        await command(theirs.id)
    assert [i.label for i in await other.instances()] == ["posthouse-test-2-1"]
    assert (await other.instances())[0].seen is Observation.RUNNING
    assert (root / "posthouse-test-5" / "notes").read_text() == "mine"
    assert (root / "notes").read_text() == "mine"
    await other.destroy(theirs.id)
    await other.close()


async def test_a_worker_whose_directory_was_removed_by_hand_can_still_be_destroyed(
    local: ProcessProvider, root: Path
) -> None:
    made = await rent(local, spec(1))
    members = await processes_of(root, made.id, 2)
    for path in sorted((root / made.id).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert await seen_as(local, made.id, Observation.RUNNING)
    await local.destroy(made.id)
    assert not any(map(alive, members))


async def test_a_record_that_cannot_be_read_is_listed_so_that_it_is_replaced(
    local: ProcessProvider, root: Path
) -> None:
    made = await rent(local, spec(1, "exit 0"))
    (root / made.id / "instance.json").write_text("{")
    assert await seen_as(local, made.id, Observation.EXITED)
    await local.destroy(made.id)
    assert [p.name for p in root.iterdir() if p.name != ".ended"] == []


async def test_a_record_is_readable_by_its_owner_only(local: ProcessProvider, root: Path) -> None:
    made = await rent(local, spec(1, MASTER_TOKEN="t"))
    assert (root / made.id).stat().st_mode & 0o777 == 0o700
    assert (root / made.id / "instance.json").stat().st_mode & 0o777 == 0o600


async def test_the_log_keeps_its_bound_and_its_end(local: ProcessProvider, root: Path) -> None:
    made = await rent(
        local, spec(1, "head -c 9000000 /dev/zero | tr '\\0' x | fold -w 100; echo; echo end; exec sleep 600")
    )
    await printed(local, made.id, "end")
    sizes = [(root / made.id / name).stat().st_size for name in ("output.log", "output.log.1")]
    assert max(sizes) <= keeper.LOG_BYTES
    assert sum(sizes) > 9_000_000
    assert (await local.logs(made.id, 2)).splitlines()[-1] == "end"


async def test_logs_show_the_models_log_too_and_a_start_begins_it_anew(local: ProcessProvider) -> None:
    made = await rent(
        local, spec(1, 'echo loaded | tee -a runs >>"$MODEL_LOG"; seq 9; echo up $(wc -l <runs).; exec sleep 600')
    )
    await printed(local, made.id, "up 1.")
    assert await local.logs(made.id, 3) == "9\nup 1.\nloaded\n"
    await local.stop(made.id)
    await local.start(made.id)
    await printed(local, made.id, "up 2.")
    assert (await local.logs(made.id, 1000)).count("loaded") == 1


@pytest.mark.parametrize("name", ["output.log", "model.log", "exit_code", "instance.json"])
async def test_a_pipe_in_place_of_a_file_holds_nobody_up(local: ProcessProvider, root: Path, name: str) -> None:
    made = await rent(local, spec(1, f"rm -f {name}; mkfifo {name}; touch swapped; exec sleep 600"))

    async def swapped() -> bool:
        return (root / made.id / "home" / "swapped").exists()

    await eventually(swapped)
    async with asyncio.timeout(DEADLINE_S):
        assert [i.id for i in await local.instances()] == [made.id]
        await local.logs(made.id, 10)
        await local.catalog()
        await local.stop(made.id)
        await local.destroy(made.id)
    assert list(await local.instances()) == []


async def test_a_link_in_place_of_a_log_is_neither_read_nor_cut(
    local: ProcessProvider, root: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others"
    others.write_bytes(b"secret\n" * (keeper.LOG_BYTES // 6))
    made = await rent(
        local, spec(1, f"for log in output model; do ln -sf {others} $log.log; done; touch swapped; exec sleep 600")
    )

    async def swapped() -> bool:
        return (root / made.id / "home" / "swapped").exists()

    await eventually(swapped)
    before = others.stat().st_size
    assert len(await local.instances()) == 1
    assert await local.logs(made.id, 10) == ""
    assert others.stat().st_size == before


async def test_the_limits_hold(root: Path) -> None:
    local = ProcessProvider(root, "test", slots=1, bounds=Bounds(memory_gb=0.2), grace_s=0.5)
    onstart = """
        echo nice $(nice), oom $(cat /proc/self/oom_score_adj) core $(ulimit -c)
        "$PYTHON" -c 'bytearray(400_000_000)'
    """
    made = await rent(local, spec(1, onstart))
    gone = await seen_as(local, made.id, Observation.EXITED)
    assert "MemoryError" in gone.message
    assert f"nice {min(19, os.nice(0) + 5)}, oom 500 core 0" in await local.logs(made.id, 20)
    await local.close()


def test_an_installation_that_no_label_can_carry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="installation"):
        ProcessProvider(tmp_path, "../up")


# -- GPUs ----------------------------------------------------------------------------------------------------------


def pretend_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Puts an nvidia-smi of our own first on the path: this machine need not have a GPU."""
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


async def test_every_live_worker_has_a_gpu_of_its_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "0, NVIDIA GeForce RTX 4090, 24564\\n1, NVIDIA GeForce RTX 4090, 24564\\n2, NVIDIA GB10, [N/A]\\n"
    pretend_gpus(tmp_path / "bin", monkeypatch, f"printf '{rows}'")
    local = ProcessProvider(root, "test", grace_s=0.5)
    offers = await local.catalog()
    assert [(o.gpu_name, o.num_gpus, o.available) for o in offers] == [("RTX 4090", 1, 2), ("GB10", 1, 1)]
    filters: dict[str, dict[str, object]] = {"gpu_ram": {"gte": 24_000.0}, "num_gpus": {"eq": "1"}}
    [offer] = [o for o in offers if matches(filters, values_of(o, 0.0))]
    onstart = "echo gpu $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER; exec sleep 600"
    first, second = [await local.create(offer.id, spec(n, onstart), 1.0) for n in (1, 2)]
    assert "gpu 0 PCI_BUS_ID" in await printed(local, first.id, "gpu")
    assert "gpu 1 PCI_BUS_ID" in await printed(local, second.id, "gpu")
    with pytest.raises(OfferTaken):
        await local.create(offer.id, spec(3, onstart), 1.0)
    await local.stop(first.id)  # a cold worker leaves its GPU to others
    third = await local.create(offer.id, spec(3, onstart), 1.0)
    assert "gpu 0 PCI_BUS_ID" in await printed(local, third.id, "gpu")
    with pytest.raises(Busy, match="no free slot"):
        await local.start(first.id)
    await local.destroy(second.id)
    await local.start(first.id)
    assert "gpu 1 PCI_BUS_ID" in await printed(local, first.id, "gpu 1")
    await local.close()


async def test_a_broken_nvidia_smi_is_said_and_not_taken_for_no_gpu(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpus(tmp_path / "bin", monkeypatch, "exit 9")
    with pytest.raises(Refused, match="slots"):
        await ProcessProvider(root, "test").catalog()
    assert await ProcessProvider(root, "test", slots=1).catalog()

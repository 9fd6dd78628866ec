"""What a worker of the process provider cannot do: read the server's files, hide, block, mislead, fill the disk."""

import asyncio
import os
import signal
import textwrap
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from posthouse.domain.lifecycle import Observation
from posthouse.errors import Busy, OfferTaken
from posthouse.providers.process import ProcessProvider, files, keeper, machine
from posthouse.providers.process.launch import Bounds
from posthouse.providers.process.procfs import census, send
from posthouse.providers.process.threads import Threads
from tests.kit.disks import small_disk
from tests.kit.provider_contract import DEADLINE_S, eventually, listed, printed, rent, seen_as, spec

needs_landlock = pytest.mark.skipif(keeper.landlock_abi() < keeper.ABI, reason="no Landlock of Linux 5.19 here")


@pytest.fixture
async def data_dir(tmp_path: Path) -> AsyncIterator[Path]:
    """A data directory; it and the processes of its workers are gone when the test ends."""
    data_dir = (tmp_path / "data").resolve()
    data_dir.mkdir()
    yield data_dir
    while left := [one for found in census(f"{data_dir}/").values() for one in found]:
        for one in left:
            send(one, signal.SIGKILL)
        await asyncio.sleep(0.02)
    files.remove(data_dir)  # which pytest cannot, where a test failed: it may be too deep


@pytest.fixture
async def local(data_dir: Path) -> AsyncIterator[ProcessProvider]:
    provider = ProcessProvider(
        data_dir / "workers", "test", slots=4, grace_s=0.5, bounds=Bounds(hidden=data_dir, file_gb=0.1)
    )
    yield provider
    for instance in await provider.instances():
        await provider.destroy(instance.id)
    await provider.close()


@needs_landlock
async def test_a_worker_reads_changes_and_signals_nothing_of_the_servers(
    local: ProcessProvider, data_dir: Path
) -> None:
    (data_dir / "admin-key").write_text("phs_secret")
    other = await rent(local, spec(2, "echo phs_other >kept; exec sleep 600"))
    tries = f"""
        cat {data_dir}/admin-key ../instance.json ../../{other.id}/home/kept /proc/1/root{data_dir}/admin-key
        cat /proc/{os.getpid()}/environ /proc/{os.getpid()}/cwd/x /proc/$PPID/environ
        ln {data_dir}/admin-key got; cat got; mv ../instance.json .; echo x >../exit_code; mkdir ../../more
        echo x >{data_dir}/admin-key; kill -9 $PPID; kill -9 {os.getpid()}; mount -t tmpfs none tmp
    """
    works = "mkdir a b; touch a/x; mv a/x b/y; test -w b/y && test -r /etc/passwd && echo free at home"
    made = await rent(local, spec(1, f"{textwrap.dedent(tries)}\n{works}; echo done; exec sleep 600"))
    text = await printed(local, made.id, "done")
    assert "free at home" in text
    assert "phs_" not in text
    assert "PATH=" not in text
    assert text.count("enied") + text.count("not permitted") + text.count("cross-device") >= 12
    assert (data_dir / "admin-key").read_text() == "phs_secret"
    assert sorted(os.listdir(data_dir / "workers" / made.id)) == ["home", "instance.json", "output.log"]
    assert local.troubles() == []
    open_house = ProcessProvider(data_dir / "others", "test", slots=1)
    assert "can read this server's keys" in open_house.troubles()[0]


HIDE = """
import ctypes, os, signal, sys, threading, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
stat = open("/proc/self/stat").read().rpartition(")")[2].split()
ctypes.memset(int(stat[47]), 0, int(stat[48]) - int(stat[47]))
open(f"hidden-{os.getpid()}", "w").close()
if sys.argv[1] == "headless":  # a process whose first thread has ended looks like a zombie
    threading.Thread(target=time.sleep, args=(600,)).start()
    ctypes.CDLL(None).pthread_exit(None)
time.sleep(600)
"""


async def test_nothing_hides_from_the_end_of_its_worker(local: ProcessProvider, data_dir: Path) -> None:
    ways = 'for way in plain headless; do env -i "$PYTHON" hide.py $way & done; env -i setsid sleep 600 &'
    made = await rent(local, spec(1, f"cat >hide.py <<'END'\n{HIDE}\nEND\n{ways}\nwait; echo begun"))
    home = data_dir / "workers" / made.id / "home"

    async def hidden() -> bool:
        return len(list(home.glob("hidden-*"))) == 2

    await eventually(hidden)
    pids = [int(path.name.partition("-")[2]) for path in home.glob("hidden-*")]
    members = census(f"{data_dir}/")[str(home.parent)]
    assert {one.pid for one in members} >= set(pids)
    await local.destroy(made.id)
    assert not any(Path(f"/proc/{one.pid}").exists() for one in members)


async def test_a_background_that_a_failed_onstart_left_serves_nobody(local: ProcessProvider) -> None:
    made = await rent(
        local, spec(1, "echo begun >>runs; sleep 600 & echo no such flag; exit $((2 * ($(wc -l <runs) < 2)))")
    )
    gone = await seen_as(local, made.id, Observation.EXITED)
    assert gone.message == "ended with exit code 2; last line: no such flag"
    await local.start(made.id)
    assert (await seen_as(local, made.id, Observation.RUNNING)).message == ""


async def test_an_onstart_that_returns_leaves_its_background_running_at_every_look(local: ProcessProvider) -> None:
    onstart = "(exec -a server bash -c 'for n in {1..200}; do /bin/true; done; exec sleep 600') >/dev/null 2>&1 &"
    made = await rent(local, spec(1, onstart))
    for _ in range(40):
        [seen] = await local.instances()
        assert seen.seen is Observation.RUNNING
    await local.stop(made.id)


HOSTILE = {
    "pipe": "rm -rf {0}; mkfifo {0}",
    "socket": """rm -rf {0}; "$PYTHON" -c 'import socket; socket.socket(socket.AF_UNIX).bind("{0}")'""",
    "directory": "rm -rf {0}; mkdir {0}; touch {0}/x; chmod 0 {0}",
    "device": "rm -rf {0}; ln -s /dev/zero {0}",
    "link to a secret": "rm -rf {0}; ln -s {1} {0}",
    "huge": "rm -rf {0}; truncate -s 90M {0}",
}


async def test_no_file_of_a_worker_blocks_or_misleads(data_dir: Path) -> None:
    local = ProcessProvider(data_dir / "workers", "test", slots=6, grace_s=0.5)  # where there is no wall
    secret = data_dir / "secret"
    secret.write_bytes(b"hush\n" * 5_000_000)
    names = ("model.log", "tmp", "onstart.sh", "model.log.1", "../output.log", "../exit_code", "../instance.json")

    async def rented(worker_id: int, way: str) -> str:
        swap = "; ".join(way.format(name, secret) for name in names)
        made = await rent(local, spec(worker_id, f"{swap}; exec 2>&-; touch swapped; exec sleep 600"))
        return made.id

    ids = await asyncio.gather(*(rented(*numbered) for numbered in enumerate(HOSTILE.values())))

    async def swapped() -> bool:
        return len(list((data_dir / "workers").glob("*/home/swapped"))) == len(ids)

    await eventually(swapped)
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.sleep(keeper.LOOK_S * 1.2)  # of the keepers, at logs that are too large
        listed = {instance.id: instance for instance in await local.instances()}
        assert set(listed) == set(ids)  # whose record is broken is named, and holds nobody up
        texts = await asyncio.gather(*(local.logs(one, 100) for one in ids for _ in range(10)))
        assert not any("hush" in text for text in texts)
        await local.catalog()
        for one in ids:
            await local.destroy(one)
    assert await local.instances() == []
    assert secret.stat().st_size == 25_000_000


@needs_landlock
async def test_a_start_writes_through_nothing_that_a_worker_left(local: ProcessProvider, data_dir: Path) -> None:
    secret = data_dir / "secret"
    secret.write_text("hush")
    for worker_id, way in enumerate(HOSTILE.values()):
        swap = "; ".join(way.format(name, secret) for name in ("model.log", "onstart.sh"))
        made = await rent(local, spec(worker_id, f"[ -e been ] || {{ touch been; {swap}; }}; exit 0"))
        await seen_as(local, made.id, Observation.EXITED)
        await local.start(made.id)
        await seen_as(local, made.id, Observation.EXITED)
        model_log = data_dir / "workers" / made.id / "home" / "model.log"
        assert (model_log.is_file(), model_log.is_symlink(), secret.read_text()) == (True, False, "hush")
        await local.destroy(made.id)


async def test_a_directory_that_became_a_link_is_removed_and_not_what_it_leads_to(
    local: ProcessProvider, data_dir: Path, tmp_path: Path
) -> None:
    made = await rent(local, spec(1, "exit 0"))
    await seen_as(local, made.id, Observation.EXITED)
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o500)
    (data_dir / "workers" / made.id).rename(tmp_path / "moved")
    (data_dir / "workers" / made.id).symlink_to(theirs)
    await local.destroy(made.id)
    assert theirs.stat().st_mode & 0o777 == 0o500
    assert await local.instances() == []


async def test_more_levels_than_python_climbs_are_removed(local: ProcessProvider, data_dir: Path) -> None:
    deep = "import os; [(os.mkdir('d'), os.chdir('d')) for _ in range(1100)]; os.chmod('.', 0o500); print('dug')"
    made = await rent(local, spec(1, f'"$PYTHON" -c "{deep}"'))
    await printed(local, made.id, "dug")
    await local.destroy(made.id)
    assert os.listdir(data_dir / "workers") == [".ended"]


async def test_logs_are_bounded_and_readable_by_the_owner_only(local: ProcessProvider, data_dir: Path) -> None:
    onstart = """
        "$PYTHON" -c 'for n in range(600): print("m" * 99_999)' >>"$MODEL_LOG"
        echo last of the model >>"$MODEL_LOG"
        echo full; sleep 600
    """
    made = await rent(local, spec(1, textwrap.dedent(onstart)))
    await printed(local, made.id, "full")
    directory = data_dir / "workers" / made.id

    async def bounded() -> bool:
        return (directory / "home" / "model.log").stat().st_size <= keeper.MODEL_LOG_BYTES

    await eventually(bounded)
    assert "last of the model" in await local.logs(made.id, 20)
    logs = [directory / "home" / "model.log", directory / "model.log.1", directory / "output.log"]
    assert [oct(path.stat().st_mode & 0o777) for path in logs] == ["0o600"] * 3


async def test_a_file_beyond_its_bound_cannot_be_written(local: ProcessProvider) -> None:
    made = await rent(local, spec(1, "trap '' XFSZ; head -c 200000000 /dev/zero >weights || echo too large; sleep 600"))
    await printed(local, made.id, "too large")


async def test_what_is_gone_is_read_for_a_day(
    local: ProcessProvider, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "ENDED_MOST", 2)
    for worker_id in (1, 2, 3):
        made = await rent(local, spec(worker_id, f"echo CUDA out of memory {worker_id}; exit 1"))
        await seen_as(local, made.id, Observation.EXITED)
        await local.destroy(made.id)
    kept = [await local.logs(f"posthouse-test-{worker_id}", 5) for worker_id in (1, 2, 3)]
    assert kept == ["", "CUDA out of memory 2\n", "CUDA out of memory 3\n"]
    os.utime(data_dir / "workers" / ".ended" / "posthouse-test-2", (0, 0))
    await local.destroy((await rent(local, spec(4))).id)
    assert await local.logs("posthouse-test-2", 5) == ""


async def test_before_the_disk_is_full_no_worker_is_made(
    local: ProcessProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = await rent(local, spec(1))
    await local.stop(cold.id)
    [offer] = await local.catalog()
    monkeypatch.setattr(machine, "full_disk", lambda *_: "the disk has 0.1 GB free, of 1 GB needed")
    assert await local.catalog() == []
    assert local.troubles() == ["provider process makes no worker: the disk has 0.1 GB free, of 1 GB needed"]
    with pytest.raises(OfferTaken, match="the disk has"):
        await local.create(offer.id, spec(2), 1.0)
    with pytest.raises(Busy, match="the disk has"):
        await local.start(cold.id)
    assert await listed(local, cold.id)
    monkeypatch.undo()
    await local.start(cold.id)
    assert local.troubles() == []


def test_how_much_of_a_disk_must_be_free(tmp_path: Path) -> None:
    assert machine.full_disk(tmp_path, 0.0) == ""
    disk = os.statvfs(tmp_path)
    if disk.f_bavail > disk.f_blocks * keeper.SMALL_DISK:
        assert machine.full_disk(tmp_path, 1e6) == ""


async def test_a_thread_that_never_returns_holds_nobody_up() -> None:
    threads, stuck = Threads(1, timeout_s=0.05), asyncio.Event()
    loop, done = asyncio.get_running_loop(), threading.Event()
    for _ in range(2):  # the second one does not even get a thread
        with pytest.raises(TimeoutError):
            await threads.run(done.wait)
    done.set()
    loop.call_later(0.05, stuck.set)
    await stuck.wait()
    assert await threads.run(lambda: 7) == 7
    with pytest.raises(ValueError, match="bad"):
        await threads.run(int, "bad")


async def test_who_takes_more_of_the_disk_than_any_worker_may_is_ended(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = ProcessProvider(data_dir / "workers", "test", slots=2, bounds=Bounds(disk_gb=0.03))
    deep = "import os; [(os.mkdir('d'), os.chdir('d')) for _ in range(1100)]; open('x', 'wb').write(bytes(40_000_000))"
    fat = await rent(local, spec(1, f'"$PYTHON" -c "{deep}"; setsid env -i sleep 600 & echo full; sleep 600'))
    fine = await rent(local, spec(2, "head -c 20000000 /dev/zero >x; ln x y; ln -s / z; truncate -s 1G w; sleep 600"))
    gone = await seen_as(local, fat.id, Observation.EXITED)
    assert gone.message.startswith("ended with exit code 137; last line: posthouse: ended: it has 0.04")
    assert gone.message.endswith(" GB on the disk, and no worker may have more than 0.03 GB (max_disk_gb)")

    async def ended() -> bool:  # it counts as ended a moment before the last of it is killed
        return str(data_dir / "workers" / fat.id) not in census(f"{data_dir}/")

    await eventually(ended)
    assert (await seen_as(local, fine.id, Observation.RUNNING)).message == ""
    for one in (fat, fine):
        await local.destroy(one.id)
    await local.close()


async def test_on_a_disk_that_is_nearly_full_who_has_more_than_its_template_asks_for_is_ended(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 60) as data_dir:
        bounds = Bounds(min_free_gb=1.0)  # 5 % of that disk
        local = ProcessProvider(data_dir / "workers", "test", slots=2, grace_s=0.5, bounds=bounds)
        fine = await rent(local, replace(spec(2, "head -c 900000 /dev/zero >x; exec sleep 600"), disk_gb=0.001))
        fat = await rent(local, replace(spec(1, "head -c 61000000 /dev/zero >x; exec sleep 600"), disk_gb=0.001))
        gone = await seen_as(local, fat.id, Observation.EXITED)
        assert "its template asks for 0.001 GB (disk_gb), and the disk is nearly full" in gone.message
        assert (await seen_as(local, fine.id, Observation.RUNNING)).message == ""
        for one in (fat, fine):
            await local.destroy(one.id)
        await local.close()

"""The life and death of a model server: started by the agent or beside it, loading, hanging, ending, begun again."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientTimeout

from posthouse.agent import loading, run
from posthouse.agent.loading import Seen
from posthouse.signing.rsa import RsaKey
from tests.kit.agent_process import environment
from tests.kit.agent_world import World, a_world, until
from tests.kit.ports import free_port


@pytest.fixture
async def world(key: RsaKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr("posthouse.agent.report._GAP_S", 0.02)
    monkeypatch.setattr("posthouse.agent.report._LOADING_PERIOD_S", 0.1)
    monkeypatch.setattr("posthouse.agent.upstream._LOADING_POLL_S", 0.02)
    async with a_world(key, tmp_path) as world:
        world.control.gives_grants = True
        yield world


def shell(script: str) -> tuple[str, ...]:
    return "sh", "-c", script


async def last_report(world: World, field: str) -> Any:
    """Return the field of the latest report, once it is not empty."""
    return await until(lambda: world.control.statuses and world.control.statuses[-1].get(field))


def of_session(session: int) -> list[psutil.Process]:
    """The live processes of a session."""
    found = []
    for pid in psutil.pids():
        try:
            if os.getsid(pid) == session and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(psutil.Process(pid))
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def command_line(world: World, *arguments: str) -> subprocess.Popen[bytes]:
    """Start `posthouse agent` in a session of its own, as a worker does."""
    return subprocess.Popen(
        [sys.executable, "-m", "posthouse", "agent", "--upstream", world.model.url, "--perf", "9", *arguments],
        env=environment(world) | {"MODEL_LOG": str(world.directory / "model.log")},
        cwd=world.directory,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


async def test_the_end_of_the_model_server_ends_the_worker_with_its_last_lines(world: World) -> None:
    script = "echo loading${MASTER_TOKEN}; sleep 0.3; echo RuntimeError: CUDA out of memory >&2; sleep 60 & exit 3"
    log_file = world.directory / "model.log"
    how = await run(world.settings(command=shell(script), log_file=log_file))
    assert re.fullmatch(
        r"the model server ended with status 3 after .* s: loading \| RuntimeError: CUDA out of memory", how
    )
    assert world.control.statuses[-1]["error_msg"] == how
    assert log_file.read_text() == "loading\nRuntimeError: CUDA out of memory\n"


async def test_a_program_that_is_not_there_is_named(world: World) -> None:
    how = await run(world.settings(command=("no-such-program",)))
    assert how == "the model server cannot be started: no-such-program: No such file or directory"


async def test_a_model_server_that_is_killed_says_by_what(world: World) -> None:
    how = await run(world.settings(command=shell("kill -9 $$")))
    assert re.fullmatch(r"the model server was ended by SIGKILL after \d+ s, and printed nothing", how)


async def test_a_model_server_is_started_again_in_place_where_that_is_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posthouse.agent.model._BACK_OFF_S", (1.0, 1.0))
    script = "[ ! -e end ] || exec sleep 60; while [ ! -e end ]; do sleep 0.05; done; echo a fault; exit 1"
    monkeypatch.chdir(world.directory)
    async with world.agent(command=shell(script), restarts=1):
        (world.directory / "end").touch()
        gone = await until(lambda: [s for s in world.control.statuses if "a fault" in s.get("waits_for", "")])
        assert (gone[0]["max_perf"], gone[0]["error_msg"]) == (0.0, "")
        assert "it is started again in 1 s" in gone[0]["waits_for"]
        await until(world.control.ready)
        assert not any(status["error_msg"] for status in world.control.statuses)


async def test_a_stop_reaches_the_model_server_after_its_requests(world: World) -> None:
    agent = command_line(world, "--", *shell("trap 'echo stopped in order; exit 0' TERM; while :; do :; done"))
    await until(lambda: world.control.ready() or agent.poll() is not None)
    request = asyncio.create_task(world.client.post(world.url + "/hold", json=world.wrapped({})))
    await until(lambda: world.model.working)
    agent.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    assert agent.poll() is None
    world.model.go_on.release()
    assert (await request).status == 200
    await until(lambda: agent.poll() is not None)
    _, said = agent.communicate()
    assert (agent.returncode, b"Traceback" in said) == (0, False)
    assert (world.directory / "model.log").read_text() == "stopped in order\n"


async def test_the_model_server_does_not_outlive_its_agent(world: World) -> None:
    agent = command_line(world, "--", "sleep", "600")
    await until(lambda: world.control.ready() or agent.poll() is not None)
    agent.kill()
    agent.communicate()
    await until(lambda: not of_session(agent.pid))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--workload", "bogus"], "workload: must be"),
        (["--no-such-option"], "No such option"),
        (["--listen-port", "{model}", "--url", "http://127.0.0.1:1"], "Address already in use"),
    ],
    ids=["setting", "usage", "port"],
)
async def test_an_agent_that_cannot_begin_tells_the_server_why(
    world: World, arguments: list[str], problem: str
) -> None:
    agent = command_line(world, *(a.format(model=world.model.port) for a in arguments))
    assert problem in await last_report(world, "error_msg")
    _, said = agent.communicate()
    assert (agent.returncode != 0, problem.encode() in said) == (True, True)


async def test_a_worker_that_loads_says_what_it_waits_for(world: World) -> None:
    port = free_port()
    async with world.agent(wait=False, upstream=f"http://127.0.0.1:{port}", loading_timeout_s=3600.0):
        assert await last_report(world, "waits_for") == f"GET /health on 127.0.0.1:{port}: connection refused"
        assert world.control.statuses[-1]["loading_timeout_s"] == 3600.0
        assert world.control.statuses[-1]["error_msg"] == ""


async def test_a_worker_that_is_not_ready_in_time_fails_and_says_for_what_it_waited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posthouse.agent.upstream._LOOK_S", 0.05)
    world.model.healthy = False
    log_file = world.directory / "model.log"
    log_file.write_text("downloading\n")
    async with world.agent(wait=False, loading_timeout_s=0.2, log_file=log_file):
        failure = await last_report(world, "error_msg")
        assert re.fullmatch(r"not ready after \d+ s: downloading; GET /health on 127.0.0.1:\d+: status 503", failure)


@pytest.mark.parametrize("more", [{}, {"ready_log": "READY", "health": None}], ids=["health call", "text"])
async def test_a_model_server_that_died_before_it_was_ready_is_found_by_what_it_left(
    world: World, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    monkeypatch.setattr("posthouse.agent.upstream._LOOK_S", 0.05)
    monkeypatch.setattr("posthouse.agent.upstream._DESERTED_S", 0.2)
    others: int | None = 1
    monkeypatch.setattr(loading, "_look", lambda directory: Seen(0, 0, others))
    log_file = world.directory / "model.log"
    log_file.write_text("torch.cuda.OutOfMemoryError: CUDA out of memory\n")
    async with world.agent(wait=False, upstream=f"http://127.0.0.1:{free_port()}", log_file=log_file, **more):
        await last_report(world, "waits_for")
        await asyncio.sleep(0.5)
        others = None
        await asyncio.sleep(0.5)
        assert world.control.statuses[-1]["error_msg"] == ""
        others = 0
        failure = await last_report(world, "error_msg")
        assert failure.startswith("the model server has ended: torch.cuda.OutOfMemoryError: CUDA out of memory; ")


LOOK = "from pathlib import Path; from posthouse.agent.loading import _look; print(_look(Path()).others, flush=True)"


@pytest.mark.parametrize(("before", "others"), [("", "0"), ("sleep 60 &", "1")])
def test_the_processes_of_a_worker_are_those_of_its_session(before: str, others: str, tmp_path: Path) -> None:
    script = f"{before} {sys.executable} -c '{LOOK}'; kill %1 2>/dev/null; true"
    done = subprocess.run(["bash", "-c", script], stdout=subprocess.PIPE, start_new_session=True, cwd=tmp_path)
    assert done.stdout.decode().strip() == others


async def test_progress_is_what_this_worker_writes_and_reads(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = 0
    monkeypatch.setattr(loading, "_bytes_read", lambda pid: read)
    monkeypatch.setattr(loading, "_processes", lambda: iter([1_000_000]))
    own = tmp_path / "own"
    (own / "cache").mkdir(parents=True)
    progress = loading.Progress(world.settings(directory=own))

    async def steps() -> int:
        before = progress.count
        await progress.look()
        return progress.count - before

    await steps()
    (tmp_path / "of another").write_bytes(b"x" * 5_000_000)
    assert await steps() == 0
    (own / "cache" / "shard").write_bytes(b"x")
    assert await steps() == 1
    read = 2**21
    assert await steps() == 1
    read += 1000
    assert await steps() == 0


async def test_a_model_that_hangs_is_found_though_clients_come_and_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posthouse.agent.upstream._WELL_POLL_S", 0.02)
    monkeypatch.setattr("posthouse.agent.upstream._HEALTH_TIMEOUT", ClientTimeout(total=0.05))
    monkeypatch.setattr("posthouse.agent.upstream._HANGS_S", 0.5)

    over = asyncio.Event()

    async def ask() -> None:
        while not over.is_set():
            with pytest.raises(TimeoutError):
                await world.client.post(world.url + "/hold", json=world.wrapped({}), timeout=ClientTimeout(total=0.2))

    async with world.agent(), world.client.post(world.url + "/stream", json=world.wrapped({})) as answer:
        world.model.hangs = True
        clients = [asyncio.create_task(ask()) for _ in range(3)]
        for _ in range(2):  # as long as bytes come for one request, it only is slow
            await answer.content.readuntil(b"\n\n")
            await asyncio.sleep(0.3)
            assert world.control.ready()
            world.model.go_on.release()
        assert (await last_report(world, "error_msg")).startswith("the model server hangs: no byte for any request")
        over.set()  # to cancel a call as its time is over may be taken for that, and it goes on
        await asyncio.wait(clients)

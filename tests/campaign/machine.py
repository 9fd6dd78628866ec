"""The real provider `process`, with real processes: a server is killed at every step of each command, one after the
other, and another one takes over.

A step is each change of a file, each start of a process, each signal, and each turn of the event loop.
`python -m tests.campaign.machine STRIDE [CHANGE ...]` kills at every STRIDEth, until the command ends first.
"""

import asyncio
import os
import selectors
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from posthouse.domain.lifecycle import Observation
from posthouse.errors import Busy
from posthouse.ports import InstanceSpec
from posthouse.providers.process import ProcessProvider, inventory, provider
from posthouse.providers.process.procfs import Process, census, send

CHANGES = ("create", "start", "stop", "update", "destroy")
MAY_BE_GONE = ("create", "destroy")
LABEL = "posthouse-test-1"
FOREIGN = ("posthouse-other-1", ".gone-posthouse-other-1-0123abcd", "somebody-elses")
FILES = {
    f"os.{deed}" for deed in ("mkdir", "rename", "remove", "rmdir", "chmod", "chown", "link", "symlink", "truncate")
}
WRITES = os.O_WRONLY | os.O_RDWR
SETTLES_S = 60.0


class Death:
    """Kills this process before the step of that number."""

    def __init__(self, step: int) -> None:
        self._left = step
        sys.addaudithook(self._look)

    def _look(self, event: str, given: tuple[Any, ...]) -> None:
        if event in FILES or event == "subprocess.Popen" or (event == "open" and given[2] & WRITES):
            self.step()

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class Steps(selectors.DefaultSelector):
    def __init__(self, death: Death) -> None:
        super().__init__()
        self._death = death

    def select(self, timeout: float | None = None) -> list[Any]:
        self._death.step()
        return super().select(timeout)


def spec(word: str) -> InstanceSpec:
    """What runs says `word` at its start."""
    onstart = f"echo {word} >>said; exec sleep 600"
    return InstanceSpec(label=LABEL, worker_id=1, image="", onstart=onstart, disk_gb=1.0, env={})


def opened(root: Path) -> ProcessProvider:
    return ProcessProvider(root, "test", slots=2, grace_s=0.5)


async def carry_out(change: str, provider: ProcessProvider) -> Any:
    if change == "create":
        return await provider.create("cpu", spec("old"), 1.0)
    if change == "update":
        return await provider.update(LABEL, spec("new"))
    return await getattr(provider, change)(LABEL)


async def prepare(change: str, root: Path) -> None:
    """What is there before the change."""
    provider = opened(root)
    if change != "create":
        await carry_out("create", provider)
    if change == "start":
        await provider.stop(LABEL)


async def insist(change: str, provider: ProcessProvider) -> None:
    """Does it again, as who got no answer; and once more while it says that it is not ready yet."""
    async with asyncio.timeout(SETTLES_S):
        while True:
            with suppress(Busy):
                await carry_out(change, provider)
                return
            await asyncio.sleep(0.05)


async def broken(change: str, root: Path) -> list[str]:
    """What is not as it should be once another server has taken over and done the change again."""
    provider = opened(root)
    listed = [instance.id for instance in await provider.instances()]
    await insist(change, provider)
    found = list(await provider.instances())
    if change == "create" and found and found[0].seen is Observation.EXITED:  # it was made, and never started
        await insist("start", provider)
        found = list(await provider.instances())
    wanted = {"stop": Observation.HALTED, "destroy": None}.get(change, Observation.RUNNING)
    running = await said(root) if wanted is Observation.RUNNING else ""
    rules = {
        "it is listed, but while it is made or removed": listed == [LABEL] or (not listed and change in MAY_BE_GONE),
        "what is wanted is there": [instance.seen for instance in found] == ([wanted] if wanted else []),
        "it runs once": len(sleeping(root)) == (wanted is Observation.RUNNING),
        "what runs is what was ordered": running in ("", "new" if change == "update" else "old"),
        "it has one slot": available(await provider.catalog()) == 2 - (wanted is Observation.RUNNING),
    }
    await provider.destroy(LABEL)
    left = {path.name for path in root.iterdir()} - {".ended"}
    rules["nothing is left, and nothing foreign is touched"] = left == set(FOREIGN)
    rules["no process is left"] = not census(f"{root}/")
    return [rule for rule, holds in rules.items() if not holds]


def available(offers: Any) -> int:
    return sum(offer.available for offer in offers)


def sleeping(root: Path) -> list[int]:
    """The processes that onstart became."""
    found = []
    for one in census(f"{root}/").get(str(root / LABEL), []):
        with suppress(OSError):  # it ended meanwhile, as what measures its disk does
            if Path(f"/proc/{one.pid}/comm").read_text() == "sleep\n":
                found.append(one.pid)
    return found


async def said(root: Path) -> str:
    """The last that it said, once it runs."""
    async with asyncio.timeout(SETTLES_S):
        while not sleeping(root):
            await asyncio.sleep(0.02)
    return (root / LABEL / "home" / "said").read_text().split()[-1]


def in_a_child(work: Callable[[], None]) -> int:
    """How a process ends that does this: a forked one, since an audit hook and a death are forever."""
    sys.stdout.flush()
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    try:
        work()
    except BaseException:  # whatever it is, a child never returns
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def crash(change: str, step: int, root: Path) -> bool:
    """Kills the server at a step. False if the command ended before."""

    def live() -> None:
        opening = opened(root)
        death = Death(step)

        def signalled(process: Process, number: signal.Signals) -> None:
            death.step()
            send(process, number)

        for module in (provider, inventory):
            module.send = signalled  # type: ignore[attr-defined]
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Steps(death))) as runner:
            runner.run(carry_out(change, opening))

    if (code := in_a_child(live)) not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{change} failed by itself: {code}")
    return code != 0


def crashes(change: str, stride: int) -> tuple[int, int]:
    """How often a server was killed, and how often that broke a rule, which is printed."""
    wrong = 0
    for number, step in enumerate(count(1, stride)):
        with TemporaryDirectory() as folder:
            root = Path(folder).resolve() / "workers"
            for name in FOREIGN:
                (root / name).mkdir(parents=True)

            def check(root: Path = root, step: int = step) -> None:
                if found := asyncio.run(broken(change, root)):
                    print(change, step, "; ".join(found), flush=True)
                    os._exit(1)

            if in_a_child(lambda root=root: asyncio.run(prepare(change, root))):  # type: ignore[misc]
                raise RuntimeError(f"{change}: nothing could be prepared")
            killed = crash(change, step, root)
            wrong += in_a_child(check) != 0
            for process in [one for found in census(f"{root}/").values() for one in found]:
                send(process, signal.SIGKILL)
        if not killed:
            print(f"{change} {number} crashes, {wrong} of them broke a rule", flush=True)
            return number, wrong
    raise AssertionError


if __name__ == "__main__":
    outcomes = [crashes(change, int(sys.argv[1])) for change in sys.argv[2:] or CHANGES]
    total, wrong = (sum(each) for each in zip(*outcomes, strict=True))
    print(f"{total} crashes, {wrong} of them broke a rule")
    raise SystemExit(bool(wrong))

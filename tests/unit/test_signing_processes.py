import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import psutil
import pytest

from posthouse.signing import processes
from posthouse.signing.processes import SigningProcesses
from posthouse.signing.rsa import RsaKey


class Key(RsaKey):
    """A key that counts what it signs here, and cannot sign `bad`."""

    signed_here = 0

    def sign(self, data: bytes) -> str:
        self.signed_here += 1
        if data == b"bad":
            raise ValueError("not this one")
        return super().sign(data)


@pytest.fixture(scope="module")
def key() -> Key:
    return Key.generate()


@pytest.fixture
async def signing(key: Key) -> AsyncIterator[SigningProcesses]:
    made = SigningProcesses(key, 2)
    yield made
    await made.close()


async def signed(signing: SigningProcesses, data: bytes) -> str | Exception:
    answer: asyncio.Future[str | Exception] = asyncio.get_running_loop().create_future()
    signing.sign(data, answer.set_result)
    return await answer


async def until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not reached():
            await asyncio.sleep(0.01)


def children() -> list[psutil.Process]:
    found = [p for p in psutil.Process().children() if p.status() != psutil.STATUS_ZOMBIE]
    return [p for p in found if processes.__name__ in p.cmdline()]


async def begun(signing: SigningProcesses, key: Key) -> None:
    """Waits until what is to be signed is no longer signed here."""
    before = -1
    while before != key.signed_here:
        before = key.signed_here
        await signed(signing, b"begin")
        await asyncio.sleep(0.05)


async def test_everything_handed_over_comes_back_to_whoever_asked(signing: SigningProcesses, key: Key) -> None:
    await begun(signing, key)
    here = key.signed_here
    texts = [b"text %d\n" % i * (i % 40) for i in range(300)]  # empty ones, and lines of their own
    answers = await asyncio.gather(*(signed(signing, text) for text in texts))
    assert key.signed_here == here
    assert answers == [RsaKey.sign(key, text) for text in texts]


async def test_until_a_process_is_ready_texts_are_signed_here(signing: SigningProcesses, key: Key) -> None:
    here = key.signed_here
    assert await signed(signing, b"first") == RsaKey.sign(key, b"first")
    assert key.signed_here == here + 1


async def test_a_failure_reaches_whoever_asked_and_no_one_else(key: Key) -> None:
    signing = SigningProcesses(key, 0)
    good, bad, also_good = await asyncio.gather(*(signed(signing, d) for d in (b"a", b"bad", b"b")))
    assert (good, also_good) == (key.sign(b"a"), key.sign(b"b"))
    assert isinstance(bad, ValueError)


async def test_nobody_is_disturbed_by_one_who_cannot_use_a_signature(signing: SigningProcesses, key: Key) -> None:
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))

    def broken(signature: str | Exception) -> None:
        raise ValueError("went away")

    await begun(signing, key)
    signing.sign(b"a", broken)
    assert await signed(signing, b"b") == key.sign(b"b")
    await until(lambda: bool(troubles))
    assert [str(trouble["exception"]) for trouble in troubles] == ["went away"]


async def test_what_a_killed_process_had_is_signed_and_another_takes_its_place(
    signing: SigningProcesses, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "REST_S", 0.0)
    await begun(signing, key)
    first = children()
    assert len(first) == 2
    for process in first:
        process.suspend()
    answers = asyncio.gather(*(signed(signing, b"%d" % i) for i in range(40)))
    await asyncio.sleep(0)
    for process in first:
        os.kill(process.pid, signal.SIGKILL)
    assert await answers == [RsaKey.sign(key, b"%d" % i) for i in range(40)]
    await until(lambda: len(children()) == 2)
    await begun(signing, key)


async def test_nothing_is_left_of_them(key: Key) -> None:
    signing = SigningProcesses(key, 2)
    await begun(signing, key)
    assert len(children()) == 2
    await signing.close()
    await until(lambda: not children())


async def test_a_process_ends_with_whoever_began_it() -> None:
    program = (
        "import asyncio\nfrom posthouse.signing.processes import SigningProcesses\n"
        "from posthouse.signing.rsa import RsaKey\n"
        "async def main():\n signing = SigningProcesses(RsaKey.generate(), 1)\n signing.sign(b'', print)\n"
        " await asyncio.sleep(600)\nasyncio.run(main())"
    )
    caller = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.DEVNULL)
    await until(lambda: bool(psutil.Process(caller.pid).children()))
    (child,) = psutil.Process(caller.pid).children()
    caller.kill()
    await caller.wait()
    await until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)

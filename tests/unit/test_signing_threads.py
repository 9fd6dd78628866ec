import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from posthouse.signing.threads import MOST_TOGETHER, SigningThreads


@dataclass
class Signing:
    """A signer for whom the test signs."""

    sign: Callable[[bytes], str]
    public_pem: str = ""


@dataclass
class Slow:
    """A signer that makes as many signatures as the test lets it."""

    public_pem: str = ""
    asked: int = 0
    allowed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def sign(self, data: bytes) -> str:
        self.asked += 1
        assert self.allowed.acquire(timeout=30)
        return data.decode()


async def signed(threads: SigningThreads, data: bytes) -> str | Exception:
    answer: asyncio.Future[str | Exception] = asyncio.get_running_loop().create_future()
    threads.sign(data, answer.set_result)
    return await answer


async def test_everything_handed_over_comes_back_to_whoever_asked() -> None:
    threads = SigningThreads(Signing(lambda data: data.decode()[::-1]), 4)
    answers = await asyncio.gather(*(signed(threads, b"text %d" % i) for i in range(500)))
    threads.close()
    assert answers == [f"text {i}"[::-1] for i in range(500)]


async def test_a_failure_reaches_whoever_asked_and_no_one_else() -> None:
    def sign(data: bytes) -> str:
        if data == b"bad":
            raise ValueError("not this one")
        return "signed"

    threads = SigningThreads(Signing(sign), 1)
    good, bad, also_good = await asyncio.gather(*(signed(threads, d) for d in (b"a", b"bad", b"b")))
    threads.close()
    assert (good, also_good) == ("signed", "signed")
    assert isinstance(bad, ValueError)


async def test_nobody_is_disturbed_by_one_who_cannot_use_a_signature() -> None:
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))

    def broken(signature: str | Exception) -> None:
        raise ValueError("went away")

    threads = SigningThreads(Signing(lambda data: "signed"), 1)
    threads.sign(b"a", broken)
    assert await signed(threads, b"b") == "signed"
    threads.close()
    assert [str(trouble["exception"]) for trouble in troubles] == ["went away"]


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not reached():
            await asyncio.sleep(0.001)


async def test_where_more_wait_than_are_done_the_done_wait_for_some_more() -> None:
    signer, came = Slow(), list[str | Exception]()
    threads = SigningThreads(signer, 1)
    for i in range(4):
        threads.sign(b"%d" % i, came.append)
    signer.allowed.release()
    await _until(lambda: signer.asked == 2)  # so the first is done, and two more wait for their turn
    assert came == []
    signer.allowed.release()
    await _until(lambda: came == ["0", "1"])
    signer.allowed.release()
    await _until(lambda: came == ["0", "1", "2"])  # nobody waits behind the last: it is not waited for
    signer.allowed.release()
    await _until(lambda: came == ["0", "1", "2", "3"])
    threads.close()


async def test_no_more_than_some_are_kept_back_however_many_wait() -> None:
    signer, came = Slow(), list[str | Exception]()
    threads = SigningThreads(signer, 1)
    for i in range(5 * MOST_TOGETHER):
        threads.sign(b"%d" % i, came.append)
    signer.allowed.release(MOST_TOGETHER - 1)
    await _until(lambda: signer.asked == MOST_TOGETHER)
    assert came == []
    signer.allowed.release()
    await _until(lambda: len(came) == MOST_TOGETHER)
    signer.allowed.release(5 * MOST_TOGETHER)
    await _until(lambda: len(came) == 5 * MOST_TOGETHER)
    threads.close()

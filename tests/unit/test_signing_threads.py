import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from posthouse.signing.threads import SigningThreads


@dataclass
class Signing:
    """A signer for whom the test signs."""

    sign: Callable[[bytes], str]
    public_pem: str = ""


async def test_everything_handed_over_comes_back_to_whoever_asked() -> None:
    threads = SigningThreads(Signing(lambda data: data.decode()[::-1]), 4)
    answers = await asyncio.gather(*(threads.sign(b"text %d" % i) for i in range(500)))
    threads.close()
    assert answers == [f"text {i}"[::-1] for i in range(500)]


async def test_a_failure_reaches_whoever_asked_and_no_one_else() -> None:
    def sign(data: bytes) -> str:
        if data == b"bad":
            raise ValueError("not this one")
        return "signed"

    threads = SigningThreads(Signing(sign), 1)
    good, bad, also_good = await asyncio.gather(
        *(threads.sign(d) for d in (b"a", b"bad", b"b")), return_exceptions=True
    )
    threads.close()
    assert (good, also_good) == ("signed", "signed")
    assert isinstance(bad, ValueError)


async def test_nobody_is_disturbed_by_one_who_went_away() -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()

    def sign(data: bytes) -> str:
        loop.call_soon_threadsafe(begun.set)
        return "signed"

    threads = SigningThreads(Signing(sign), 1)
    leaving = asyncio.ensure_future(threads.sign(b"a"))
    await begun.wait()
    leaving.cancel()
    assert await threads.sign(b"b") == "signed"
    threads.close()
    with pytest.raises(asyncio.CancelledError):
        await leaving

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from posthouse.signing.rsa import RsaKey
from posthouse.signing.threads import SigningThreads


class Key(RsaKey):
    """A key that cannot sign `bad`, and tells which threads sign with it."""

    def sign(self, data: bytes) -> str:
        threads.add(threading.current_thread())
        if data == b"bad":
            raise ValueError("not this one")
        return super().sign(data)


threads: set[threading.Thread] = set()


@pytest.fixture(scope="module")
def key() -> Key:
    return Key.generate()


@pytest.fixture
async def signing(key: Key) -> AsyncIterator[SigningThreads]:
    made = SigningThreads(key, 2)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def forgotten() -> None:
    threads.clear()


async def signed(signing: SigningThreads, data: bytes) -> str | Exception:
    answer: asyncio.Future[str | Exception] = asyncio.get_running_loop().create_future()
    signing.sign(data, answer.set_result)
    return await answer


async def test_everything_handed_over_comes_back_to_whoever_asked_and_is_signed_beside_the_loop(
    signing: SigningThreads, key: Key
) -> None:
    texts = [b"text %d\n" % i * (i % 40) for i in range(300)]  # empty ones, too
    answers = await asyncio.gather(*(signed(signing, text) for text in texts))
    assert answers == [RsaKey.sign(key, text) for text in texts]
    assert 1 <= len(threads) <= 2
    assert threading.current_thread() not in threads


async def test_an_answer_comes_on_the_event_loop_and_not_before_sign_returns(signing: SigningThreads) -> None:
    came: asyncio.Future[threading.Thread] = asyncio.get_running_loop().create_future()
    signing.sign(b"x", lambda _: came.set_result(threading.current_thread()))
    assert not came.done()
    assert await came is threading.current_thread()


async def test_a_failure_reaches_whoever_asked_and_no_one_else(signing: SigningThreads, key: Key) -> None:
    good, bad, also_good = await asyncio.gather(*(signed(signing, data) for data in (b"a", b"bad", b"b")))
    assert (good, also_good) == (RsaKey.sign(key, b"a"), RsaKey.sign(key, b"b"))
    assert isinstance(bad, ValueError)


async def test_nobody_is_disturbed_by_one_who_cannot_use_a_signature(signing: SigningThreads, key: Key) -> None:
    troubles: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))

    def broken(signature: str | Exception) -> None:
        raise ValueError("went away")

    signing.sign(b"a", broken)
    assert await signed(signing, b"b") == RsaKey.sign(key, b"b")
    async with asyncio.timeout(60):
        while not troubles:
            await asyncio.sleep(0.01)
    assert [str(trouble["exception"]) for trouble in troubles] == ["went away"]


async def test_what_is_not_begun_when_they_end_fails_and_nothing_is_left_of_them(key: Key) -> None:
    signing = SigningThreads(key, 2)
    assert not threads
    answers = asyncio.gather(*(signed(signing, b"%d" % i) for i in range(400)))
    await asyncio.sleep(0)  # so that all have been handed over
    signing.close()
    async with asyncio.timeout(60):
        results = await answers
    assert {type(result).__name__ for result in results} <= {"str", "CancelledError"}
    assert any(isinstance(result, Exception) for result in results)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_loop_that_has_ended_is_no_trouble(key: Key) -> None:
    async def asks() -> SigningThreads:
        signing = SigningThreads(key, 1)
        for _ in range(20):
            signing.sign(b"x", lambda _: None)
        return signing

    signing = asyncio.run(asks())
    signing.close()
    for thread in threads:
        thread.join(60)

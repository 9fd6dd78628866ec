"""What a disk may do to a page of a database: by name, from how the page is, how it was before, and the others."""

from collections.abc import Callable, Sequence
from random import Random

PAGE = 4096
LEAVES = (10, 13)
"""First bytes of a page of SQLite that is a leaf, of an index or of a table."""


def damaged(random: Random, now: bytes, before: bytes, way: str) -> bytes:
    """The file with one page of it broken. `before`: the same file as it was once."""
    pages = [now[at : at + PAGE] for at in range(0, len(now), PAGE)]
    at = random.randrange(len(pages))
    old = before[at * PAGE : (at + 1) * PAGE].ljust(PAGE, b"\0")
    pages[at] = WAYS[way](random, pages[at], old, pages)
    return b"".join(pages)


def _torn(random: Random, page: bytes, before: bytes, others: Sequence[bytes]) -> bytes:
    cut = 512 * random.randrange(1, PAGE // 512)
    return page[:cut] + before[cut:] if random.random() < 0.5 else before[:cut] + page[cut:]


def _half_zeroed(random: Random, page: bytes, before: bytes, others: Sequence[bytes]) -> bytes:
    half = PAGE // 2
    return bytes(half) + page[half:] if random.random() < 0.5 else page[:half] + bytes(half)


def _flipped(random: Random, page: bytes, before: bytes, others: Sequence[bytes]) -> bytes:
    """One bit of what is in use."""
    at = random.choice([i for i, byte in enumerate(page) if byte] or [0])
    return page[:at] + bytes([page[at] ^ 1 << random.randrange(8)]) + page[at + 1 :]


def _emptied(random: Random, page: bytes, before: bytes, others: Sequence[bytes]) -> bytes:
    """As if all its rows had been deleted: nothing is wrong with such a page."""
    return page[:1] + bytes(4) + PAGE.to_bytes(2) + bytes(PAGE - 7) if page[0] in LEAVES else page


WAYS: dict[str, Callable[[Random, bytes, bytes, Sequence[bytes]], bytes]] = {
    "torn": _torn,
    "zeroed": lambda random, page, before, others: bytes(PAGE),
    "half zeroed": _half_zeroed,
    "flipped": _flipped,
    "stale": lambda random, page, before, others: before,
    "of another": lambda random, page, before, others: random.choice(others),
    "emptied": _emptied,
}

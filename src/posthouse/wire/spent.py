"""What gateways spent at servers of others, as they keep it in a file that the server reads, too."""

import fcntl
import os
from pathlib import Path
from typing import IO, Final

import msgspec

MAX_BYTES: Final = 1_048_576
MAX_KEYS: Final = 50
OTHER: Final = "(others)"


class Spent(msgspec.Struct, array_like=True):
    """What was spent at one of them in its latest day, UTC."""

    day: str
    usd: float = 0.0
    max_usd_day: float = 0.0
    by_key: dict[str, float] = {}
    """By the id of the key that asked; the largest, and the others together."""

    def add(self, key: str, usd: float) -> None:
        """Counts it; below 0 it is given back."""
        self.usd = max(0.0, self.usd + usd)
        if not usd:
            return
        if key not in self.by_key and len(self.by_key) >= MAX_KEYS:
            key = OTHER
        self.by_key[key] = max(0.0, self.by_key.get(key, 0.0) + usd)


_decode = msgspec.json.Decoder(dict[str, Spent]).decode


def read(file: IO[bytes]) -> dict[str, Spent]:
    """By name. Raises: ValueError."""
    return _decode(file.readline(MAX_BYTES) or b"{}")  # what follows the line is of a longer one before


def write(file: IO[bytes], spent: dict[str, Spent]) -> None:
    file.seek(0)
    file.write(msgspec.json.encode(spent) + b"\n")


def file_of(externals: Path) -> Path:
    """Where it is kept that was spent at the servers in this file."""
    return externals.with_name(f"{externals.name}.spent")


def look(path: Path) -> dict[str, Spent] | None:
    """What the file says; None if there is none, it is no such file, or a gateway writes it just now."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return read(file)
    except (OSError, ValueError):
        return None

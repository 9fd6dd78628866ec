"""What the server and the program on a box say to each other: frames of MessagePack, each with its length before it."""

from typing import Any, Final

import msgspec

from posthouse.domain.instance import Instance
from posthouse.domain.offer import Offer, Price
from posthouse.ports import InstanceSpec

BEGIN: Final = b"\0posthouse\n"
"""The program's first bytes. What a login shell prints comes before."""
HEAD_BYTES: Final = 4
FRAME_BYTES: Final = 2**22
"""The longest frame."""


class Start(msgspec.Struct, frozen=True):
    """What the program is told first."""

    installation: str
    name: str
    """Of the provider."""
    host: str
    """Where clients reach the box."""
    version: str
    """Of the server's Posthouse: the program's own must be the same."""
    root: str
    slots: int
    gpus: int
    gpu_name: str
    gpu_ram_gb: float
    ports: tuple[int, int]
    price: Price
    workers: dict[str, Any]
    """What each may have, as `WorkerSettings`."""
    wall: str
    users: str


class Call(msgspec.Struct, frozen=True):
    id: int
    name: str
    """One of `CALLS`."""
    given: msgspec.Raw


class Answer(msgspec.Struct, frozen=True):
    id: int
    """Of the call; 0 for the answer to `Start`."""
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    """MessagePack; nil."""
    error: str = ""
    """The name of an error of `posthouse.errors`, or another, which means that the outcome is unknown."""
    text: str = ""
    retry_s: float = 0.0


class Listing(msgspec.Struct, frozen=True):
    instances: list[Instance]
    obstacle: str
    """Why no worker is made there now."""


CALLS: Final[dict[str, tuple[Any, Any]]] = {
    "catalog": (tuple[()], list[Offer]),
    "create": (tuple[str, InstanceSpec, float], Instance),
    "start": (tuple[str], None),
    "update": (tuple[str, InstanceSpec], Instance),
    "stop": (tuple[str], None),
    "destroy": (tuple[str], None),
    "instances": (tuple[()], Listing),
    "logs": (tuple[str, int], str),
}
"""What each call is given and what it returns."""


def framed(value: Any) -> bytes:
    """The frame. Raises: ValueError for one that is too long."""
    data = msgspec.msgpack.encode(value)
    return length(len(data)).to_bytes(HEAD_BYTES, "big") + data


def length(size: int) -> int:
    """The size, if a frame may have it. Raises: ValueError."""
    if size > FRAME_BYTES:
        raise ValueError(f"a frame of {size} bytes; at most {FRAME_BYTES} are allowed")
    return size

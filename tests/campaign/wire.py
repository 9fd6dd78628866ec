"""What every place of `boxes` has: calls that take their time, and something that is nobody's business."""

import asyncio
from itertools import count
from random import Random

from tests.campaign.virtual import VirtualLoop

PULL_S = 10.0
FOREIGN = "somebody-elses"
PORTS = count(20_000)


class Wire:
    """Calls that take their time, both ways: one that is cut short on its way back was carried out."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop, self.random = loop, Random(1)
        self.made: list[str] = []
        """The label of each worker that ever was made."""

    async def way(self) -> None:
        await asyncio.sleep(self.random.uniform(0.02, 0.3))

    def running(self) -> list[tuple[str, str, str]]:
        """What each worker that runs is: its label, something that changes when it restarts, and its address."""
        raise NotImplementedError

    def left(self) -> list[str]:
        """What is there of ours."""
        raise NotImplementedError

    def foreign_is_there(self) -> bool:
        return True

    def misnamed(self) -> list[str]:
        """What runs under a name that says that it is meant to be stopped."""
        return []

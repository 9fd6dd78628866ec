"""How late the event loop comes to what is due: whatever blocks it, every call waits as long."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from posthouse.measures import QUICK_S, Histogram

EVERY_S: Final = 0.25


@dataclass(slots=True)
class Lag:
    late: Histogram = field(default_factory=lambda: Histogram(QUICK_S))
    """Seconds, four times a second."""

    async def run(self) -> None:
        """Measures forever."""
        while True:
            due = time.perf_counter() + EVERY_S
            await asyncio.sleep(EVERY_S)
            self.late.add(max(0.0, time.perf_counter() - due))

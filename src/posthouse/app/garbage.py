"""How the garbage collector of a long-lived server is set."""

import gc
from typing import Final

EVERY: Final = (10_000, 20, 20)
"""Objects made since the last collection, and collections of one generation for each of the next. With Python's own
(700, 10, 10), which are for programs that make few, a route costs 3 % more."""
OF_STREAMS: Final = (50_000, 20, 20)
"""The same for a gateway. Each stream is some hundred objects while it lasts, and none that a collection is needed for:
with 10,000 every lump of a hundred streams would stop all others for some ms."""


def settle(every: tuple[int, int, int] = EVERY) -> None:
    """Keeps what the start made out of every collection, and collects less often. To be called once, after the start.

    A full collection that walks through all of it would stop a server for a tenth of a second, a gateway for a third of
    that.
    """
    gc.freeze()
    gc.set_threshold(*every)

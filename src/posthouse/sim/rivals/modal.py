"""Modal's autoscaler, as far as it is documented.

Source: modal.com/docs, guide/scale (min_containers, max_containers, buffer_containers, scaledown_window) and
guide/concurrent-inputs (target and most inputs at once). What happens inside is not documented: here as many as the
inputs in flight fill, at once; a container is idle while fewer, filled one after the other, would do.
"""

import math

from posthouse.domain.decision import Decision, Memory, Snapshot
from posthouse.sim.rivals.target import apply_target, in_flight
from posthouse.sim.rivals.window import Most

WINDOW_S = 60.0


class Modal:
    """`buffer`: idle workers kept beside the busy ones while there are requests. `window_s`: scaledown_window.

    `utilisation`: the target of inputs at once, as a share of the most that a worker may have.
    """

    def __init__(
        self, slots: int, utilisation: float = 1.0, buffer: int = 0, window_s: float = WINDOW_S, least: int = 0
    ) -> None:
        self.target, self.buffer, self.least = slots * utilisation, buffer, least
        self._wanted = Most(window_s)

    def __call__(self, s: Snapshot, memory: Memory) -> Decision:
        asked = in_flight(s)
        wanted = math.ceil(asked / self.target) + (self.buffer if asked else 0)
        return apply_target(s, memory, max(self._wanted.add(s.now, wanted), self.least), "Modal")

"""What a provider can do with a worker, beyond making and destroying it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Of one worker: what is not here is never asked of its provider."""

    stop: bool = True
    """It can be stopped and started again, and keeps its disk meanwhile. Without it there are no cold workers."""
    update: bool = True
    """It can run another template where it is. Without it a worker is replaced."""
    logs: bool = True
    """What it prints can be read."""
    interruptible: bool = False
    """Its provider may take the machine away at any time, for somebody who pays more."""


ALL_CAPABILITIES = Capabilities()

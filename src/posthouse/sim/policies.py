"""What can decide in a simulated world, by name."""

from collections.abc import Callable

from posthouse.domain.errors import BadRequest
from posthouse.policy.decide import decide
from posthouse.sim.world import Policy

POLICIES: dict[str, Callable[[], Policy]] = {"posthouse": lambda: decide}
"""Each call makes one anew: some remember."""


def policy(name: str) -> Policy:
    """A new one of this name. Raises: BadRequest."""
    if name not in POLICIES:
        raise BadRequest(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    return POLICIES[name]()

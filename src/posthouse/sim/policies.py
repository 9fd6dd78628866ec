"""What can decide in a simulated world, by name."""

from collections.abc import Callable

from posthouse.domain.errors import BadRequest
from posthouse.policy.decide import decide
from posthouse.sim.rivals.knative import Knative
from posthouse.sim.rivals.kubernetes import Hpa, Keda
from posthouse.sim.rivals.ray import RayServe
from posthouse.sim.rivals.runpod import RunPod
from posthouse.sim.rivals.static import Static
from posthouse.sim.rivals.vast import Vast
from posthouse.sim.scenario import Scenario
from posthouse.sim.world import Policy

POLICIES: dict[str, Callable[[Scenario], Policy]] = {
    "posthouse": lambda given: decide,
    "static-mean": lambda given: _static(given, 0.0),
    "static-p99": lambda given: _static(given, 0.99),
    "static-max": lambda given: _static(given, 1.0),
    "knative": lambda given: Knative(given.workers[0].slots),
    "hpa": lambda given: Hpa(given.workers[0].slots),
    "keda": lambda given: Keda(given.workers[0].slots),
    "ray": lambda given: RayServe(),
    "runpod-count": lambda given: RunPod(),
    "runpod-delay": lambda given: RunPod(by_delay=True),
    "vast": lambda given: Vast(given.workers[0].perf),
}
"""Each call makes one anew: most remember. Where they must know a worker, they are told of the first type."""


def policy(given: Scenario) -> Policy:
    """A new one of the name that the scenario says. Raises: BadRequest."""
    if given.policy not in POLICIES:
        raise BadRequest(f"there is no policy {given.policy!r}; there are {', '.join(POLICIES)}")
    return POLICIES[given.policy](given)


def _static(given: Scenario, share: float) -> Policy:
    return Static(given.traffic.arrivals(given.seed), given.workers[0].perf, share)

"""Posthouse's own numbers: every one that shapes how many workers there are, which, and who is passed over.

What an endpoint's owner chooses is in `Scaling`; how long a state may last is in `domain/lifecycle.py`. What happens to
cost and waits when one of these is doubled or halved is measured in `docs/reference/tuning.md`.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """The numbers. Below each: its unit; what it means; and where it comes from."""

    # How many workers, and which.
    window_s: int = 60
    """s; The load is the mean over this time, or over five of it where that differs by chance alone; Knative's stable
    window."""
    recent_s: int = 10
    """s; A spike is looked for in this time, and variance is taken between such spans; Knative's panic window, 6 s."""
    sigmas: float = 1.5
    """standard deviations; Less work than so many of a minute's is chance: later means count beyond; Shewhart's control
    charts."""
    tolerance: float = 0.1
    """share; Workers are added when more than this share of a need is missing; Kubernetes' horizontal-pod-autoscaler-
    tolerance."""
    hold_starts: float = 3.0
    """starts; A need is held for so many: an idle worker then has cost what a start and its waits do; ski-rental
    problem, Karlin et al. 1988."""
    keep_alive_starts: float = 20.0
    """starts; The last hot worker stays so long after the last request; ten minutes at 30 s, as usual: Shahrad et al.
    2020."""
    reserve_s: float = 3600.0
    """s; Cold workers are made for what lasted so long, and kept so long: to store one is cheaper than to make
    it again; ski-rental problem, Karlin et al. 1988."""
    waiting_share: float = 0.05
    """share; `auto`: so many requests may wait longer than half of `target_queue_time`; 95th percentile."""
    max_burstiness: float = 4.0
    """times chance; `auto`: a higher variance tells of a change that is over, not of bursts to come; nominal."""
    release_every_s: float = 15.0
    """s; Between two releases of hot workers; Kubernetes' HPA looks every 15 s."""
    release_share: float = 0.2
    """share; Of the hot workers at most this share rests at once, at least one; nominal."""
    max_unavailable: float = 0.25
    """share; Of the workers at most this share is updated at one time, at least one; Kubernetes' maxUnavailable."""
    samples: int = 20
    """samples; Times and performances are learned from the latest so many; nominal."""

    # Outliers and back-off.
    backoff_s: float = 5.0
    """s; A workergroup that failed waits so long, doubling with each failure in a row; Kubernetes' CrashLoopBackOff
    starts at 10 s."""
    max_backoff_s: float = 600.0
    """s; The longest such wait; Kubernetes' CrashLoopBackOff ends at 300 s."""
    machine_backoff_s: float = 60.0
    """s; A machine that failed is taken last so long, doubling; nominal."""
    long_backoff_s: float = 3600.0
    """s; The longest wait of a machine, and of a workergroup that fails on every machine; nominal."""
    same_fault_machines: int = 3
    """machines; Where new workers fail on so many and none is ready, what they run is at fault; nominal."""
    penalty_s: float = 5.0
    """s; Added to a worker's expected wait for one failed request, doubling with each; Envoy's outlier detection:
    base_ejection_time."""
    max_penalty_s: float = 60.0
    """s; The longest penalty, and the longest time for which a request avoids a worker; Envoy's outlier detection:
    max_ejection_time."""
    retry_s: float = 2.0
    """s; A request avoids a worker at which it failed so long, doubling; nominal."""

    @property
    def long_window_s(self) -> int:
        """The window of the steady mean, and of the variance."""
        return 5 * self.window_s

    @property
    def max_failures(self) -> int:
        """How many failures make the longest penalty; more are not counted."""
        return 1 + math.ceil(math.log2(self.max_penalty_s / self.penalty_s))


TUNING = Tuning()
"""As shipped."""

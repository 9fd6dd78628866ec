"""Posthouse's own numbers: every one that shapes how many workers there are, which, and who is kept out.

What an endpoint's owner chooses is in `Scaling`; how long a state may last is in `domain/lifecycle.py`. What happens to
cost and waits when one of these is doubled or halved is measured in `docs/reference/tuning.md`.
"""

from dataclasses import dataclass, field
from typing import Any

SIZE, FAULTS = "how many, and which", "outliers and back-off"


def _number(value: float, group: str, unit: str, what: str, source: str) -> Any:
    return field(default=value, metadata={"group": group, "unit": unit, "what": what, "source": source})


@dataclass(frozen=True, slots=True)
class Tuning:
    """The numbers, with unit, meaning and source as metadata of each field."""

    window_s: int = _number(
        60, SIZE, "s", "The load is the mean over this time, or over five of it where that differs by chance alone.",
        "Knative's stable window",
    )  # fmt: skip
    recent_s: int = _number(
        10, SIZE, "s", "A spike is looked for in this time; variance is taken between spans of it.",
        "Knative's panic window is 6 s",
    )  # fmt: skip
    sigmas: float = _number(
        1.25, SIZE, "standard deviations", "Less work than so many of a minute's is chance: later means count beyond.",
        "Shewhart's control charts",
    )  # fmt: skip
    tolerance: float = _number(
        0.1, SIZE, "share", "Workers are added when more than this share of a need is missing.",
        "Kubernetes' horizontal-pod-autoscaler-tolerance",
    )  # fmt: skip
    hold_starts: float = _number(
        3.0, SIZE, "starts", "A need is held for so many: an idle worker then has cost what a start and its waits do.",
        "ski-rental problem, Karlin et al. 1988",
    )  # fmt: skip
    keep_alive_starts: float = _number(
        20.0, SIZE, "starts", "The last hot worker stays so long after the last request.",
        "ten minutes at 30 s, as usual: Shahrad et al. 2020",
    )  # fmt: skip
    min_reserve_s: float = _number(
        600.0, SIZE, "s", "Cold workers are kept so long at least: to make one anew is slow whatever it costs.",
        "Kubernetes' HPA: 300 s without scaling down",
    )  # fmt: skip
    reserve_s: float = _number(
        3600.0, SIZE, "s", "Cold workers are made for what lasted so long, and are kept so long at most.",
        "nominal",
    )  # fmt: skip
    waiting_share: float = _number(
        0.05, SIZE, "share", "`auto`: so many requests may wait longer than half of `target_queue_time`.",
        "95th percentile",
    )  # fmt: skip
    max_burstiness: float = _number(
        4.0, SIZE, "times chance", "`auto`: a higher variance tells of a change that is over, not of bursts to come.",
        "nominal",
    )  # fmt: skip
    release_every_s: float = _number(
        15.0, SIZE, "s", "Between two releases of hot workers.", "Kubernetes' HPA looks every 15 s",
    )  # fmt: skip
    release_share: float = _number(
        0.2, SIZE, "share", "Of the hot workers at most this share rests at once, at least one.", "nominal",
    )  # fmt: skip
    max_unavailable: float = _number(
        0.25, SIZE, "share", "Of the workers at most this share is updated at one time, at least one.",
        "Kubernetes' maxUnavailable",
    )  # fmt: skip
    samples: int = _number(
        20, SIZE, "samples", "Times and performances are learned from the latest so many.", "nominal",
    )  # fmt: skip

    backoff_s: float = _number(
        5.0, FAULTS, "s", "A workergroup that failed waits so long, doubling with each failure in a row.",
        "Kubernetes' CrashLoopBackOff starts at 10 s",
    )  # fmt: skip
    max_backoff_s: float = _number(
        600.0, FAULTS, "s", "The longest such wait.", "Kubernetes' CrashLoopBackOff ends at 300 s",
    )  # fmt: skip
    machine_backoff_s: float = _number(
        60.0, FAULTS, "s", "A machine that failed is taken last so long, doubling.", "nominal",
    )  # fmt: skip
    long_backoff_s: float = _number(
        3600.0, FAULTS, "s", "The longest wait of a machine, and of a workergroup that fails on every machine.",
        "nominal",
    )  # fmt: skip
    same_fault_machines: int = _number(
        3, FAULTS, "machines", "Where new workers fail on so many and none is ready, what they run is at fault.",
        "nominal",
    )  # fmt: skip
    penalty_s: float = _number(
        5.0, FAULTS, "s", "Added to a worker's expected wait for one failed request, doubling with each.",
        "Envoy's outlier detection: base_ejection_time",
    )  # fmt: skip
    max_penalty_s: float = _number(
        60.0, FAULTS, "s", "The longest penalty, and the longest time for which a request avoids a worker.",
        "Envoy's outlier detection: max_ejection_time",
    )  # fmt: skip
    retry_s: float = _number(
        2.0, FAULTS, "s", "A request avoids a worker at which it failed so long, doubling.", "nominal",
    )  # fmt: skip

    @property
    def long_window_s(self) -> int:
        """The window of the steady mean, and of the variance."""
        return 5 * self.window_s

    @property
    def max_failures(self) -> int:
        """How many failures make the longest penalty; more are not counted."""
        failures = 1
        while self.penalty_s * 2 ** (failures - 1) < self.max_penalty_s:
            failures += 1
        return failures


TUNING = Tuning()
"""As shipped."""

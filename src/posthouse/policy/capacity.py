"""How much capacity is needed, and how much there is. Units: work per second, unless a name says otherwise."""

import math
from collections.abc import Iterable
from statistics import median

from posthouse.domain.endpoint import Scaling
from posthouse.domain.lifecycle import COMING, Goal, State
from posthouse.domain.load import Demand, Estimates
from posthouse.domain.offer import Price
from posthouse.domain.plan import Reason
from posthouse.domain.worker import Worker
from posthouse.domain.workergroup import WorkergroupId
from posthouse.policy.bounds import running_usd_h
from posthouse.policy.headroom import slots_for

USABLE = COMING | {State.IDLE, State.STOPPING, State.STOPPED}
"""States from which a worker will serve if we want it to. Silent and failed workers are not counted on."""

WAITING_SHARE = 0.05
"""Largest share of requests that may wait longer than they should, in `auto` mode, if the load stays as it is."""
MAX_BURSTY = 4.0
"""Beyond it a variance tells of a change that is over, not of bursts to come."""
LATE = 0.25
"""Of its age, that a worker which is late is expected to need still."""
UNSURE = math.exp(0.5)
"""By what factor a kind that was never measured may do more or less for its money than others: one standard deviation.
Nominal, not measured: what GPUs cost for their work differs by about so much."""
TOLERANCE = 0.1
"""Largest share of the need that may be missing before a worker is added. Source: the Horizontal Pod Autoscaler of
Kubernetes, `--horizontal-pod-autoscaler-tolerance`."""


def kind(group_id: WorkergroupId, gpu_name: str, num_gpus: int) -> str:
    """What performance is learned by: workers of one group on equal machines do about the same work."""
    return f"{group_id}/{num_gpus}x{gpu_name}"


def kind_of(worker: Worker) -> str:
    return kind(worker.group_id, worker.gpu_name, worker.num_gpus)


def on_machine(worker_kind: str, machine: str) -> str:
    """What the performance of a single machine is learned by."""
    return f"{worker_kind} on {machine}"


def expected_perf(worker_kind: str, usd_h: float, estimates: Estimates) -> float:
    """What a worker of this kind at this price can do: as measured, else a cautious guess, else infinite.

    The guess: as much for its money as the median of the kinds that its workergroup knows, less one standard deviation.
    Infinite stands for "nobody knows yet": one unmeasured worker is enough, until it has shown what it can do.
    """
    if perf := estimates.perf.get(worker_kind):
        return perf
    if not estimates.perf:
        return math.inf
    values = estimates.work_per_usd
    if usd_h <= 0 or not values:
        return median(estimates.perf.values())
    group = worker_kind.partition("/")[0] + "/"
    own = [value for known, value in values.items() if known.startswith(group)]
    return median(own or values.values()) * usd_h / UNSURE


def perf_on(worker_kind: str, machine: str, price: Price, estimates: Estimates) -> float:
    """What a worker of this kind can do there: what the machine did before, else what is expected of its kind."""
    before = estimates.perf_at.get(on_machine(worker_kind, machine))
    return before or expected_perf(worker_kind, running_usd_h(price), estimates)


def perf_of(worker: Worker, estimates: Estimates) -> float:
    """What the worker can do: its own measurement, else what its machine and its kind let expect."""
    return worker.perf if worker.perf > 0 else perf_on(kind_of(worker), worker.machine, worker.price, estimates)


def supply(workers: Iterable[Worker], estimates: Estimates) -> float:
    """What the workers can do together."""
    return sum([w.perf or perf_of(w, estimates) for w in workers])


def hot(workers: Iterable[Worker]) -> list[Worker]:
    """Workers that serve or will: what is on its way counts, so that waiting for it never looks like a lack."""
    return [w for w in workers if w.goal is Goal.HOT and w.state in USABLE]


def ready(workers: Iterable[Worker]) -> list[Worker]:
    """Workers that take requests now."""
    return [w for w in workers if w.goal is Goal.HOT and w.state is State.IDLE and w.perf > 0]


def kept(workers: Iterable[Worker]) -> list[Worker]:
    """Workers hot or cold that we mean to keep."""
    return [w for w in workers if w.goal is not Goal.GONE and w.state in USABLE]


def expected_wait_s(demand: Demand, ready_supply: float) -> float:
    """What a request that comes now will wait: for the work before it; as long as the oldest where nobody is ready.

    The oldest's wait counts only then: once a first worker is ready it tells of the past, and one request that waited
    for a start would have a second worker made.
    """
    if ready_supply <= 0:
        return demand.oldest_wait_s
    return (demand.waiting + demand.queued) / ready_supply


def coming(workers: Iterable[Worker], estimates: Estimates, now: float) -> list[tuple[float, float]]:
    """What will serve and does not yet: in how many seconds each is expected to be ready, and its performance.

    Who is late is expected the later, the longer it is late: the remaining time grows with the age, as in a long tail.
    """
    found: list[tuple[float, float]] = []
    for worker in hot(workers):
        if worker.state in COMING:
            usual_s = estimates.start_s if worker.loaded_at > 0 else estimates.create_s
            age_s = now - worker.began_at
            found.append((max(usual_s - age_s, LATE * age_s), perf_of(worker, estimates)))
    return found


def left_open(
    demand: Demand, load: float, ready_supply: float, arrivals: Iterable[tuple[float, float]], help_s: float
) -> float:
    """Work that will be waiting when help could be there, in `help_s`, if none is sent for.

    What waits now and what comes until then, less what those that serve, and those on their way from their arrival on,
    can do. Exact where work flows evenly: capacity only grows until then, so that a queue that is empty stays empty.
    """
    left = demand.waiting + demand.queued + (load - ready_supply) * help_s
    return max(0.0, left - sum((help_s - eta_s) * perf for eta_s, perf in arrivals if eta_s < help_s))


def need_for_load(scaling: Scaling, demand: Demand, load: float) -> Reason:
    """The capacity that `load` takes while nothing waits.

    `auto`: at most `WAITING_SHARE` of requests shall wait longer than half of `target_queue_time`, so that the other
    half is left for what no mean foretells.
    """
    floor = max(load, scaling.min_load)
    fixed = floor / scaling.target_util
    if scaling.slo_mode == "fixed" or not (demand.outstanding_count and demand.outstanding and demand.service_s):
        rule = f"max(load, min_load {scaling.min_load:g}) / target_util {scaling.target_util:g}"
        return Reason("need for load", fixed, rule)
    slot = demand.outstanding / demand.outstanding_count / demand.service_s
    cost = demand.cost or demand.outstanding / demand.outstanding_count
    burstiness = min(max(1.0, demand.variance / (floor * cost)), MAX_BURSTY) if floor else 1.0
    service_s = cost / slot / 2  # of the mean request; a unit of work belongs to one of about twice its size
    max_wait = scaling.target_queue_time / 2 / service_s
    need = slot * slots_for(floor / slot, max_wait, burstiness, WAITING_SHARE)
    rule = f"{WAITING_SHARE:.0%} wait longer than target_queue_time / 2; bursts {burstiness:.1f} times those of chance"
    return Reason("need for load", max(need, fixed), rule)


def enough(scaling: Scaling, need: float) -> float:
    """What is enough for `need`: none is added to it, and one beyond it rests. Half of the headroom may be missing.

    A need passes a whole number of workers by a hair much of the time, and then falls back before a start has paid. And
    what is held is the highest of a while: most of that time the rest has the whole headroom.
    """
    return need * (1 - min(TOLERANCE, (1 - scaling.target_util) / 2))


def hot_need(
    scaling: Scaling,
    demand: Demand,
    load: float,
    ready_supply: float,
    arrivals: Iterable[tuple[float, float]],
    help_s: float,
) -> tuple[float, tuple[Reason, ...]]:
    """Hot capacity wanted, and each rule that had a say; the largest wins.

    `arrivals`: as of `coming`. `help_s`: seconds until more capacity could be ready.
    """
    rules = [
        Reason("load", load, f"mean of 5 min, or of 60 s or {demand.recent_s:.0f} s beyond what chance explains"),
        need_for_load(scaling, demand, load),
    ]
    timeout_s = scaling.target_queue_time
    wait_s = expected_wait_s(demand, ready_supply)
    base = min(load, demand.rate)  # a burst, too, is over before help is there
    left = left_open(demand, base, ready_supply, arrivals, help_s)
    # Who would come only after the queue is gone is not sent for: to wait is quicker.
    if left > 0 and (demand.waiting > 0 or wait_s > timeout_s):
        # As much as is asked for, and what drains the queue in the time that help takes, or target_queue_time more: a
        # worker that is needed for less than it takes to come is not worth its start.
        rules.append(
            Reason(
                "need for backlog",
                base + left / (help_s + timeout_s),
                f"mean of 60 s + work still open in {help_s:.0f} s, {left:.0f} / ({help_s:.0f} s + target_queue_time)",
            )
        )
    return max(float(rule.value) for rule in rules[1:]), tuple(rules)

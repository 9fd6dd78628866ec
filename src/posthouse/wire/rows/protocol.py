"""The answers of the protocol's calls, in its words."""

from dataclasses import dataclass

from posthouse.domain.endpoint import Scaling
from posthouse.wire.rows.base import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(Row, Scaling):
    """An endpoint with its scaling parameters."""

    id: int
    endpoint_name: str
    endpoint_state: str
    api_key: str
    """The key that can only route to this endpoint."""
    user_id: int
    created_at: float
    auto_delete_in_seconds: float | None = None
    auto_delete_due_24h: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Workergroup(Row):
    """A workergroup. The scaling parameters are its endpoint's: it has none of its own."""

    id: int
    endpoint_id: int
    endpoint_name: str
    template_id: int
    template_hash: str
    search_params: str
    """Offer filter; empty: the template's own."""
    launch_args: str
    gpu_ram: float
    """Size of the model in GB."""
    provider: str
    """Empty: the server's default."""
    signature_scheme: str
    """Empty: by each worker's version."""
    test_workers: int
    min_load: float
    target_util: float
    cold_mult: float
    cold_workers: int
    max_workers: int
    user_id: int
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Template(Row):
    """What a worker runs."""

    id: int
    hash_id: str
    """Hash of the content; changes with every edit."""
    name: str
    image: str
    tag: str
    env: str
    """Environment and ports as docker flags."""
    onstart: str
    """Shell script that a worker runs at every start."""
    recommended_disk_space: float
    """GB."""
    extra_filters: str
    """Offer filter, a JSON object as text."""
    desc: str
    readme: str
    private: bool
    creator_id: int
    created_at: float
    loading_timeout_s: float = 0.0
    """Longest time until a worker is ready; 0: as the server says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMetrics(Row):
    """A worker as the protocol lists it: numbers only, 0 where there is none. Units: work, work per second, GB."""

    id: int
    status: str
    gpu_name: str
    cur_load: float
    """Outstanding work."""
    new_load: float
    """Work that it took on between its last two reports."""
    cur_load_rolling_avg: float
    """Outstanding work, mean of the last minute."""
    cur_perf: float
    """Work per second that it did between its last two reports."""
    perf: float
    """`measured_perf` times `reliability`."""
    measured_perf: float
    dlperf: float
    """Always 0: a mark of the protocol's own market."""
    reliability: float
    """Share of the time since it was first ready, as far as this server watched, in which it was there."""
    reqs_working: int
    disk_usage: float
    loaded_at: float
    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EventLogs(Row):
    """What happened to an endpoint or a workergroup, a text for each level; each has the lines of those before it."""

    info0: str
    """Failures, and limits that were reached."""
    info1: str
    """Also what became of each worker, and decisions."""
    trace: str
    debug: str
    logs: str
    """The same as `info1`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User(Row):
    """Who a key belongs to."""

    id: int
    username: str
    host_agreement_accepted: bool = False
    api_key: str = ""
    """Always empty: older command lines take it out before they print the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer(Row):
    """A machine that can be rented."""

    id: str
    machine_id: str
    gpu_name: str
    num_gpus: int
    gpu_ram: float
    """MB of one GPU."""
    geolocation: str
    reliability: float
    dph_total: float
    """US dollars per hour while it serves."""
    dph_base: float
    """The same without its disk, which is what it costs when stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance(Row):
    """A worker as the protocol's marketplace shows an instance."""

    id: int
    label: str
    status_msg: str
    machine_id: str
    gpu_name: str
    num_gpus: int
    start_date: float
    extra_env: list[list[str]]
    """Always empty: a worker's environment has secrets."""
    dph_total: float
    """US dollars per hour while it serves."""
    dph_base: float
    """The same without its disk, which is what it costs when stopped."""
    actual_status: str
    """running, loading, stopped, or exited: nothing that is billed."""
    intended_status: str
    """running or stopped."""
    cur_state: str
    """The same as it is now, or unloaded."""
    public_ipaddr: str
    """Empty where its provider states none."""


# -- our own calls -----------------------------------------------------------------------------------------------------

"""Every metric of the server, with what it says. `docs/reference/metrics.md` is made from it."""

from typing import Final

from posthouse.measures import Families

SERVER: Final = Families()
_gauge, _counter, _histogram = SERVER.gauge, SERVER.counter, SERVER.histogram

# What is asked, and how it is answered.
ROUTE = _histogram(
    "posthouse_route_seconds",
    "Calls of /route/ by outcome: worker, waits, put off for asking too much, refused; with the time held open.",
    "outcome",
)
CALLS = _counter("posthouse_calls_total", "Calls of the hot paths answered, by path and status.", "path", "status")
REQUESTS = _counter("posthouse_requests_total", "Requests by what became of them.", "endpoint", "what")
LIMITED = _counter(
    "posthouse_limited_requests_total", "Requests refused, by the limit of their key.", "endpoint", "limit"
)
WAIT = _histogram(
    "posthouse_queue_wait_seconds",
    "From a request to its first worker; one that had a worker at once counts with 0.",
    "endpoint",
)
FIRST_WORKER = _histogram(
    "posthouse_first_worker_seconds",
    "From the first request that found no worker ready to a worker that is.",
    "endpoint",
)
WAITING = _gauge("posthouse_waiting_requests", "Requests without a worker.", "endpoint")
WAITING_WORK = _gauge("posthouse_waiting_work", "Work of requests without a worker.", "endpoint")
OLDEST_WAIT = _gauge("posthouse_oldest_wait_seconds", "Age of the request that waits longest.", "endpoint")
OUTSTANDING = _gauge("posthouse_outstanding_work", "Work at workers and not finished.", "endpoint")

# Load, capacity, workers.
LOAD = _gauge("posthouse_offered_load", "Work asked for, per second, mean of the last minute.", "endpoint")
CAPACITY = _gauge("posthouse_capacity", "Work per second: needed, ready, coming and cold.", "endpoint", "what")
FACTOR = _gauge(
    "posthouse_cost_factor_ratio", "Work that workers count for a unit of the cost that clients announce.", "endpoint"
)
VERDICT = _gauge(
    "posthouse_stuck",
    "1 for what keeps an endpoint from the capacity that it needs; no series where it has that.",
    "endpoint",
    "because",
)
READY = _gauge(
    "posthouse_expected_ready_seconds",
    "When the first of the workers that start is expected: with the chance 0.05, 0.5 or 0.95 by then.",
    "endpoint",
    "chance",
)
WORKERS = _gauge("posthouse_workers", "Workers by state.", "endpoint", "state")
OUTLIERS = _gauge("posthouse_outlier_workers", "Workers that are asked last, as requests failed there.", "endpoint")
UPDATES = _gauge(
    "posthouse_update_workers",
    "Workers by version, of workergroups that were ever updated.",
    "endpoint",
    "workergroup",
    "phase",
    "version",
)
STARTS = _histogram(
    "posthouse_start_seconds", "Starts that ended in a ready worker: of new ones, and of cold ones.", "endpoint", "kind"
)
PHASES = _histogram(
    "posthouse_start_phase_seconds", "How long workers were in each state on the way to be ready.", "endpoint", "phase"
)
FAILED_STARTS = _counter("posthouse_failed_starts_total", "Starts that ended in a failure.", "endpoint")
DECISIONS = _counter(
    "posthouse_decisions_total",
    "Decisions that changed something: rent, wake, rest, update or destroy, and for the sake of what.",
    "endpoint",
    "what",
    "reason",
)
OBSTACLES = _counter(
    "posthouse_obstacles_total", "Decisions that were kept, by what stood in their way.", "endpoint", "obstacle"
)

# Money.
SPENT = _counter("posthouse_spent_usd_total", "Dollars spent.", "endpoint")
SPENDING = _gauge("posthouse_spending_usd_per_second", "What the workers cost now.", "endpoint")
CAP_USED = _gauge(
    "posthouse_cap_used_ratio",
    "Share of a cap on money that is used; no endpoint: the installation's.",
    "endpoint",
    "cap",
)
CAP_LEFT = _gauge(
    "posthouse_cap_left_usd", "What a cap of a day or month leaves; no endpoint: the installation's.", "endpoint", "cap"
)

# Providers.
PROVIDER_CALLS = _histogram(
    "posthouse_provider_call_seconds",
    "Calls to providers by outcome: ok, refused, or unclear.",
    "provider",
    "call",
    "outcome",
)
ORPHANS = _gauge("posthouse_orphan_instances", "Instances with our label that no worker owns.", "provider")

# The server itself.
BUILD = _gauge("posthouse_build_info", "1, with the version that runs.", "version")
ENDPOINTS = _gauge("posthouse_endpoints", "Endpoints that this server has, that others have, and nobody.", "where")
LEASE = _gauge(
    "posthouse_lease_held",
    "1 while this server may decide: it owns its data directory, and of several servers each has a lease that holds.",
)
SERVERS = _gauge("posthouse_servers", "Servers of the installation that live, as this one knows; it is one of them.")
LAG = _histogram(
    "posthouse_loop_lag_seconds", "How late the event loop comes to what is due; every call waits as long."
)
ROUND = _gauge("posthouse_round_seconds", "How long the latest round of the control loop took.")
ENGINE = _counter("posthouse_engine_total", "What the engine did.", "what")
TROUBLES = _gauge("posthouse_troubles", "How many parts fail now; /readyz says which.")
SERVER.process("server")

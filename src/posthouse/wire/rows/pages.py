"""What a page asks before something is done: recipes, what an endpoint would cost, what a change would do."""

from dataclasses import dataclass, field

from posthouse.wire.rows.base import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class RecipeParameter(Row):
    """A parameter of a recipe."""

    name: str
    help: str
    kind: str
    """`file`, `model`, `whole`, `number`, `choice`, `word`, `flags` or `json`."""
    default: str | None
    """Null: it must be given. Empty: it is left to the engine."""
    allowed: str
    """The values that it may have, in words."""
    choices: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Row):
    """What a worker runs for an engine."""

    name: str
    desc: str
    image: str
    """For providers of containers; empty: it runs in the Python of the worker's Posthouse."""
    gpus: bool
    """Whether it runs on GPUs."""
    disk_gb: float
    gpu_ram_gb: float
    """Memory that each GPU must have; 0: none, or it follows from the model."""
    parameters: list[RecipeParameter]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting(Row):
    """What fits at one provider."""

    provider: str
    offers: int
    workers: int
    """How many workers these offers can still take."""
    cheapest_usd_h: float
    """US dollars per hour of a worker that serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTime(Row):
    """How long new workers took to be ready, in seconds: the middle, and between what 9 of 10 are."""

    middle_s: float
    low_s: float
    high_s: float
    starts: int
    """How many were seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate(Row):
    """What a new endpoint comes to. US dollars per hour; null where nothing is offered that fits."""

    search: str
    """What machines must have."""
    fitting: list[Fitting]
    rest_usd_h: float | None
    """While nobody asks: its cold workers, at the cheapest that fits."""
    one_usd_h: float | None
    """One worker that serves, at the cheapest."""
    most_usd_h: float | None
    """Every worker that it may have, at the dearest that fits, or its cap."""
    left_usd_h: float | None
    """What the installation's caps leave; null where there are none, or the caller does not see them."""
    start: StartTime | None
    """Of workers that ran the same here; null before the first."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing before, in sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed(Row):
    """An endpoint that was made, with what its workers run."""

    endpoint_id: int
    template_id: int
    workergroup_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Foreseen(Row):
    """A decision that would be made now."""

    title: str
    text: str
    need: float | None
    """Hot capacity that it wants, in work per second; null while that is unmeasured."""
    usd_h: float
    """US dollars per hour that all workers come to cost once it is carried out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook(Row):
    """An endpoint's next decision as it is, and as it would be with a change."""

    usd_h: float
    """US dollars per hour now."""
    before: Foreseen
    after: Foreseen
    most_before_usd_h: float | None
    """US dollars per hour at most: every worker at the dearest offer that fits, or the cap. Null: nothing fits."""
    most_after_usd_h: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried(Row):
    """An event of the answer to a request that was sent for trying: one of these, by its `kind`."""

    kind: str
    """`waits`, `begins`, `piece`, `ends` or `fails`."""
    text: str = ""
    """Why it waits; a piece of the answer, as it came; why it failed."""
    ready_in_s: float = 0.0
    """Of a wait: when a worker is expected; 0: nobody knows."""
    at_s: float = 0.0
    """Seconds since it was asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Row):
    """One way in which traffic was served: as it was, or as a replay has it. Units: seconds, US dollars."""

    name: str
    """`was`, `a` or `b`."""
    usd: float
    requests: int
    unserved: int
    p50_s: float
    """Of the wait for a worker."""
    p95_s: float
    p99_s: float
    late: float
    """Share of the work that waited longer than the goal for a worker, or forever."""
    rents: int
    starts: int
    ready_h: float
    """Worker-hours ready, loading and stopped."""
    loading_h: float
    stopped_h: float
    busy: float
    """Work done as a share of what ready workers could have done."""
    at: list[float] = field(default_factory=list)
    """Seconds since the beginning, a row for each moment."""
    load: list[float] = field(default_factory=list)
    """Work per second."""
    ready: list[float] = field(default_factory=list)
    """Capacity of what is ready, in work per second."""
    hot: list[float] = field(default_factory=list)
    """Workers that are ready."""
    waiting: list[float] = field(default_factory=list)
    spent_usd: list[float] = field(default_factory=list)
    """Since the beginning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf(Row):
    """An endpoint's own traffic under two settings."""

    endpoint: str
    since: float
    """When the part began that was played, epoch seconds; time in which the server was away is left out."""
    span_s: float
    requests: int
    goal_s: float
    present: dict[str, float | str | None]
    """The parameters that change, as they are."""
    change: dict[str, float | str | None]
    runs: list[Run]
    """What really happened, the replay as it is, and with the change."""
    notes: list[str]
    """What was assumed."""

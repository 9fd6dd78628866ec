"""The settings of an agent: one frozen value, read from the environment of a worker and from options.

Each setting is defined here once: its name, type, meaning and default.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple, Self
from urllib.parse import SplitResult, urlsplit

from posthouse.agent.workload import RULES, workload_rule

_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE: Final = frozenset({"0", "false", "f", "no", "n", "off", ""})
_ORIGIN: Final = re.compile(r"\*|none|https?://[^/\s]+")
_HOST: Final = re.compile(r"[0-9A-Za-z_.:-]+")

WORKER, READINESS, MEASURE, LIMITS = "Worker", "Readiness", "Performance", "Limits"


class Option(NamedTuple):
    """How the command line shows a setting."""

    help: str
    panel: str = ""
    default: str = ""
    """The default as it is shown, and where else the value may come from. Empty: the field's own default, if any."""
    name: str = ""
    """The option's name, where it differs from the field's: for lists, and for flags that can only be switched on."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One request that measures the model server, and how often it is made.

    The default is the request of the published example, which language model servers like TGI answer; concurrency and
    runs are those of the peer's worker.
    """

    route: Annotated[str, Option("Path of the benchmark's request.", MEASURE)] = "/generate"
    payload: Annotated[
        Any,
        Option(
            "Its payload, as JSON; {random} in a text is another number each time.", MEASURE, "a prompt and 256 tokens"
        ),
    ] = field(default_factory=lambda: {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 256}})
    form: Annotated[
        dict[str, str] | None,
        Option("Fields of a form to send in place of the payload, as JSON; a value @FILE is that file.", MEASURE),
    ] = None
    work: Annotated[float | None, Option("Its work.", MEASURE, "as the workload rule says")] = None
    concurrency: Annotated[int, Option("Requests made at once.", MEASURE)] = 10
    runs: Annotated[int, Option("Rounds, of which the best counts.", MEASURE)] = 8

    def __post_init__(self) -> None:
        _require(self.route.startswith("/"), "benchmark.route", "must start with /", self.route)
        if self.form is not None:
            texts = isinstance(self.form, dict) and all(isinstance(value, str) for value in self.form.values())
            _require(texts and bool(self.form), "benchmark.form", "must be an object of texts", self.form)
        if self.work is not None:
            _require(math.isfinite(self.work) and self.work > 0, "benchmark.work", "must be above 0", self.work)
        _require(1 <= self.concurrency <= 1000, "benchmark.concurrency", "must be 1 to 1000", self.concurrency)
        _require(1 <= self.runs <= 100, "benchmark.runs", "must be 1 to 100", self.runs)


@dataclass(frozen=True, kw_only=True)
class AgentSettings:
    """Everything an agent needs to know.

    Raises: ValueError naming the setting, what is wrong with it and what is allowed.
    """

    upstream: Annotated[str, Option("Base address of the model server.", default="http://127.0.0.1:$MODEL_PORT")]
    command: tuple[str, ...] = ()
    """The model server, as a program that the agent starts; empty where the template has started it."""
    restarts: Annotated[
        int, Option("Times that a model server which ended is started again, before the worker counts as failed.")
    ] = 0
    worker_id: Annotated[int, Option("Id of this worker.", WORKER, "$CONTAINER_ID")]
    mtoken: Annotated[str, Option("Secret of this worker; better in the environment.", WORKER, "$MASTER_TOKEN")] = (
        field(default="", repr=False)
    )
    report_addrs: Annotated[
        tuple[str, ...],
        Option("Base address of the server; repeat for more.", WORKER, "$REPORT_ADDR", "--report-addr"),
    ]
    url: Annotated[
        str,  # reported, and the only one that is served
        Option(
            "This worker's address as clients see it.",
            WORKER,
            "$POSTHOUSE_WORKER_URL, else http://$PUBLIC_IPADDR:$VAST_TCP_PORT_<listen port>, https:// with $USE_SSL",
        ),
    ]
    listen_host: Annotated[
        str, Option("Address to listen on.", WORKER, "$POSTHOUSE_LISTEN_HOST, else as the url asks for")
    ]
    listen_port: Annotated[int, Option("Port to listen on.", WORKER, "$WORKER_PORT")]
    tls: Annotated[bool, Option("Serve HTTPS, with a certificate that the server gives.", WORKER, "$USE_SSL")] = False
    unsecured: Annotated[
        bool,
        Option("Serve requests without a valid signature, too. For development.", WORKER, "$UNSECURED", "--unsecured"),
    ] = False
    require_grant: Annotated[
        bool | None,
        Option(
            "Serve only requests that bring a grant of their own.",
            WORKER,
            "$POSTHOUSE_REQUIRE_GRANT, else if the server gives grants",
        ),
    ] = None

    cors_origins: Annotated[
        tuple[str, ...],
        Option(
            "Origin of a page that may call this worker from a browser, with a proof; * for any, none for none; "
            "repeat for more.",
            WORKER,
            "$POSTHOUSE_CORS_ORIGINS, else * unless --unsecured",
            "--cors-origin",
        ),
    ] = ()

    health: Annotated[
        str | None,
        Option(
            "Path or address on the model server that answers 2xx while it is well.",
            READINESS,
            "$MODEL_HEALTH_ENDPOINT, else /health if there is no --ready-log",
        ),
    ] = "/health"
    ready_log: Annotated[
        str | None, Option("Text in a line of the log file which says that the model is ready.", READINESS)
    ] = None
    error_logs: Annotated[
        tuple[str, ...],
        Option("Text in a line that says that it failed; repeat for more.", READINESS, name="--error-log"),
    ] = ()
    log_file: Annotated[Path | None, Option("What the model server logs to.", READINESS, "$MODEL_LOG")] = None
    loading_timeout_s: Annotated[
        float,
        Option(
            "Longest time, in seconds, until the model is ready, above every other limit on loading; "
            "0: $POSTHOUSE_LOADING_TIMEOUT_S, else as the server says.",
            READINESS,
        ),
    ] = 0.0

    perf: Annotated[
        float | None, Option("Work per second of this worker, if known.", MEASURE, "a benchmark finds out")
    ] = None
    workload: Annotated[str, Option(f"Work of a request: {RULES}.", MEASURE)] = "tokens"
    benchmark: Benchmark = field(default_factory=Benchmark)
    directory: Annotated[Path, Option("Where the benchmark's result is kept over a restart.", MEASURE)] = Path()

    parallel: Annotated[int, Option("Requests that the model server is given at once; 0: all.", LIMITS)] = 0
    max_requests: Annotated[int, Option("Requests accepted at once, running and waiting.", LIMITS)] = 1000
    max_queue_time_s: Annotated[float, Option("Longest wait, in seconds, that a request is accepted into.", LIMITS)] = (
        30.0  # as the peer's worker
    )
    max_body_bytes: Annotated[int, Option("Largest request body, in bytes.", LIMITS)] = 32 * 2**20
    max_connections: Annotated[int, Option("Connections of clients open at once.", LIMITS)] = 2000
    stall_s: Annotated[
        float, Option("Longest time, in seconds, in which a client takes nothing of its answer.", LIMITS)
    ] = 60.0  # nginx's send_timeout
    max_sessions: Annotated[int, Option("Sessions open at once; 0: none.", LIMITS)] = 10  # as the peer's worker
    max_session_s: Annotated[
        float, Option("Longest time, in seconds, that a session stays open without a request.", LIMITS)
    ] = 3600.0
    silence_s: Annotated[float, Option("Longest time, in seconds, without a byte from the model server.", LIMITS)] = (
        600.0  # the known clients give up after it, too; 0: no limit
    )
    drain_s: Annotated[float, Option("How long, in seconds, running requests may go on after a stop.", LIMITS)] = 60.0

    def __post_init__(self) -> None:
        upstream = _address(self.upstream, "upstream")
        _require(upstream.path in {"", "/"}, "upstream", "must have no path", self.upstream)
        _require(bool(self.report_addrs), "report_addrs", "must hold an address", self.report_addrs)
        for address in self.report_addrs:
            _address(address, "report_addrs")
        url = _address(self.url, "url")
        # Plain http where encryption was asked for would send prompts in the clear.
        _require(
            not self.tls or url.scheme == "https", "url", "must begin with https:// where tls (USE_SSL) is on", self.url
        )
        _require(
            not self.require_grant or bool(self.mtoken),
            "require_grant",
            "needs mtoken (MASTER_TOKEN), of which the key for grants is made",
            None,
        )
        _require(1 <= self.listen_port <= 65535, "listen_port", "must be 1 to 65535", self.listen_port)
        _require(
            self.health is not None or self.ready_log is not None,
            "health, ready_log",
            "one of both must say when the model is ready",
            None,
        )
        if self.health is not None and not self.health.startswith("/"):
            _address(self.health, "health")
        if self.ready_log is not None or self.error_logs:
            known = self.log_file is not None or bool(self.command)
            _require(known, "log_file", "must be set for ready_log and error_logs", None)
        _require("" not in (self.ready_log, *self.error_logs), "ready_log, error_logs", "must not be empty", "")
        if self.perf is not None:
            _require(math.isfinite(self.perf) and self.perf > 0, "perf", "must be above 0", self.perf)
        workload_rule(self.workload)
        _require(0 <= self.parallel <= 100_000, "parallel", "must be 0 to 100000", self.parallel)
        _require(1 <= self.max_requests <= 100_000, "max_requests", "must be 1 to 100000", self.max_requests)
        for cors in self.cors_origins:
            _require(bool(_ORIGIN.fullmatch(cors)), "cors_origins", "must be *, none or like https://app.example", cors)
        _require(16 <= self.max_connections <= 100_000, "max_connections", "must be 16 to 100000", self.max_connections)
        _require(0 < self.stall_s < math.inf, "stall_s", "must be above 0 seconds", self.stall_s)
        _require(self.max_body_bytes > 0, "max_body_bytes", "must be above 0", self.max_body_bytes)
        _require(0 <= self.max_sessions <= 1000, "max_sessions", "must be 0 to 1000", self.max_sessions)
        _require(0 <= self.restarts <= 1000, "restarts", "must be 0 to 1000", self.restarts)
        _require(not self.restarts or bool(self.command), "restarts", "needs the COMMAND that is started again", None)
        for name in ("loading_timeout_s", "max_queue_time_s", "max_session_s", "silence_s", "drain_s"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value >= 0, name, "must be 0 or more seconds", value)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], **overrides: Any) -> Self:
        """Return the settings that a worker's environment gives, where `overrides` does not.

        An override that is None counts as not given.

        Raises: ValueError naming the variable or the setting.
        """
        given = {name: value for name, value in overrides.items() if value is not None}

        def read(name: str, from_environment: Callable[[], Any]) -> None:
            if name not in given:
                given[name] = from_environment()

        read("upstream", lambda: f"http://127.0.0.1:{_whole(environ, 'MODEL_PORT', 1, 65535)}")
        read("worker_id", lambda: _whole(environ, "CONTAINER_ID", 0, 2**53))
        read("mtoken", lambda: environ.get("MASTER_TOKEN", "").strip())
        read("report_addrs", lambda: _addresses(environ, "REPORT_ADDR"))
        read("listen_port", lambda: _whole(environ, "WORKER_PORT", 1, 65535))
        read("tls", lambda: _boolean(environ, "USE_SSL"))
        read("url", lambda: _own_url(environ, given["listen_port"], given["tls"]))
        read("listen_host", lambda: environ.get("POSTHOUSE_LISTEN_HOST", "").strip() or _listen_host(given["url"]))
        read("unsecured", lambda: _boolean(environ, "UNSECURED"))
        read("cors_origins", lambda: _origins(environ, given["unsecured"]))
        if environ.get("POSTHOUSE_LOADING_TIMEOUT_S", "").strip():
            read("loading_timeout_s", lambda: _seconds(environ, "POSTHOUSE_LOADING_TIMEOUT_S"))
        if environ.get("POSTHOUSE_REQUIRE_GRANT", "").strip():
            read("require_grant", lambda: _boolean(environ, "POSTHOUSE_REQUIRE_GRANT"))
        if log_file := environ.get("MODEL_LOG"):
            given.setdefault("log_file", Path(log_file))
        # A template that names a log line defines readiness by it; its model server may have no health call.
        read("health", lambda: environ.get("MODEL_HEALTH_ENDPOINT") or (None if "ready_log" in given else "/health"))
        return cls(**given)


def origin(address: str) -> str:
    """Return where an address of the server is, for logs: its path may hold the worker's token."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _require(condition: bool, name: str, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{name}: {rule}" + ("" if value is None else f", not {value!r}"))


def _address(text: str, name: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and _HOST.fullmatch(parts.hostname or "") and parts.port != 0
    except ValueError:  # what is no port, or an open bracket
        good = False
    _require(bool(good), name, "must be an address like http://127.0.0.1:8000", text)
    return parts


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(name, "").strip()  # a market's API gives addresses that end in a newline
    if not value:
        raise ValueError(f"{name}: is not set in the environment")
    return value


def _whole(environ: Mapping[str, str], name: str, low: int, high: int) -> int:
    text = _required(environ, name)
    value = int(text) if text.isdecimal() and len(text) <= 16 else -1
    _require(low <= value <= high, name, f"must be a whole number from {low} to {high}", text)
    return value


def _seconds(environ: Mapping[str, str], name: str) -> float:
    text = _required(environ, name)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}: must be a number of seconds, not {text!r}") from None


def _boolean(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "").strip().lower()
    _require(text in _TRUE | _FALSE, name, "must be true or false", text)
    return text in _TRUE


def _addresses(environ: Mapping[str, str], name: str) -> tuple[str, ...]:
    addresses = tuple(part.strip().rstrip("/") for part in _required(environ, name).split(",") if part.strip())
    for address in addresses:
        _address(address, name)
    return addresses


def _origins(environ: Mapping[str, str], unsecured: bool) -> tuple[str, ...]:
    """Return whose pages may call: any, because each call needs a proof; none where it does not."""
    if text := environ.get("POSTHOUSE_CORS_ORIGINS", "").strip():
        return tuple(part.strip() for part in text.split(","))
    return () if unsecured else ("*",)


def _own_url(environ: Mapping[str, str], listen_port: int, tls: bool) -> str:
    if behind := environ.get("POSTHOUSE_WORKER_URL", "").strip():  # a tunnel or an ingress, which only its maker knows
        return behind.rstrip("/")
    host = _required(environ, "PUBLIC_IPADDR")
    port = _whole(environ, f"VAST_TCP_PORT_{listen_port}", 1, 65535)
    url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    _require(bool(_HOST.fullmatch(host)), "PUBLIC_IPADDR", "must be an IP address or a host name", host)
    return url


def _listen_host(url: str) -> str:
    """Return where to listen so that `url` can be reached: this machine only, if `url` is on it."""
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "127.0.0.1" if host == "localhost" else "0.0.0.0"  # noqa: S104 - reached from outside on purpose
    if address.is_loopback:
        return host
    return "::" if address.version == 6 else "0.0.0.0"  # noqa: S104 - reached from outside on purpose

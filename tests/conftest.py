"""What every test may use: the marker `peer`, by which a test says what it shows of an unmodified peer.

    @pytest.mark.peer("POST /api/v0/endptjobs", "K2", does="`create endpoint`")
    @pytest.mark.peer("DELETE /api/v0/endptjobs/{id}", "K2", does="`delete endpoint`")
    @pytest.mark.peer("POST /worker_status", "W0", "W1", recorded=True)
    @pytest.mark.peer("GET /api/v0/deployments", "K2", does="`show deployments`", works=False)
    @pytest.mark.peer("worker: POST /session/create", "C1", "W4", does="`Endpoint.session`")

The first argument is the call: method and path at the server, which must have it (or must not, with `works=False`); for
a call that goes to a worker, the same after `worker: `. The others are generations of peers, see `GENERATIONS`. `does`:
what the peer does, in its own words, shorter than a line. `recorded`: the peer itself does not run, the test sends what
it was seen to send. `works=False`: the test shows what the peer is told where there is no such call. A test may carry
many of these marks, and `pytest.param(..., marks=...)` too.

`pytest -m peer --peers=FILE` writes each as a row, with what became of its test. `make peers` does so with every test,
and makes docs/reference/peers.md of it; a test fails where a marked test has no row there, or a row no test. A test of
what no package installs notes what it ran, with `record_property("ran", ...)`: where it is skipped, its rows stay.
"""

import gc
import json
import os
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from datetime import date
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

# Tests start hundreds of programs: without bytecode on the disk each would compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# To load the 150 roots that a machine trusts takes each client, and each program that imports aiohttp, 60 ms. Who runs
# among peers at home has named another.
if "PEERS_AUTHORITY_DIR" not in os.environ:
    os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "fixtures" / "root.pem")

# The same cases at every run, and nothing that a slow machine could fail.
settings.register_profile(
    "repeatable", derandomize=True, deadline=None, max_examples=30, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def others_log_as_before() -> Iterator[None]:
    """Fails a test after which the loggers that other tests of this process read write elsewhere, for good."""
    before = structlog.get_config()["cache_logger_on_first_use"]
    yield
    assert structlog.get_config()["cache_logger_on_first_use"] == before, "it called configure_logging"


GENERATIONS = {
    "C0": "plain HTTP clients, as in the published examples",
    "C1": "the client of `vastai`",
    "D": "the deployments of `vastai`",
    "K0": "`vast.py autoscaler`, 2023",
    "K1": "`vast.py`, March 2024 to March 2026",
    "K2": "the command `vastai`",
    "W0": "workers of `vast-pyworker`, 2023 to July 2024",
    "W1": "workers of `pyworker`, September 2024 to October 2025",
    "W2": "workers of `pyworker`, October 2025",
    "W3": "workers of `pyworker` 0.1 and 0.2, and of `vastai-sdk` up to 0.3",
    "W4": "the `Worker` of `vastai`",
}
"""Generations of clients, command lines and workers."""


def shown(call: str, *generations: str, does: str = "", recorded: bool = False, works: bool = True) -> dict[str, Any]:
    """What one marker says."""
    unknown = set(generations) - set(GENERATIONS)
    if unknown or not generations:
        raise pytest.UsageError(f"peer({call!r}, …) must name generations of {', '.join(GENERATIONS)}, not {unknown}")
    call = re.sub(r"\{\w+\}", "{id}", call.rstrip("/"))
    return {"call": call, "generations": list(generations), "does": does, "recorded": recorded, "works": works}


class Record:
    """A row for each marker `peer` of the tests that are collected, with their outcome where they are run."""

    def __init__(self, path: Path, items: Sequence[pytest.Item] = ()) -> None:
        self.path = path
        self._outcomes: dict[str, str] = {}
        self._ran: dict[str, str] = {}
        self._before: dict[str, dict[str, Any]] = {}
        self._items = items

    def rows(self) -> list[dict[str, Any]]:
        """A row for each marker, in an order that does not change."""
        return sorted(self._rows(), key=lambda row: [str(value) for value in row.values()])

    def _rows(self) -> Iterator[dict[str, Any]]:
        for item in self._items:
            for marker in item.iter_markers("peer"):
                row = {**shown(*marker.args, **marker.kwargs), "test": item.nodeid}
                outcome = self._outcomes.get(item.nodeid, "not run")
                became = {"outcome": outcome}
                if item.nodeid in self._ran:
                    became["ran"] = self._ran[item.nodeid]
                yield row | (self._before.get(str(row), became) if outcome == "skipped" else became)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._items = session.items

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[report.nodeid] = report.outcome
            if noted := [str(value) for name, value in report.user_properties if name == "ran"]:
                self._ran[report.nodeid] = f"{', '.join(noted)}; run on {date.today()}"

    def pytest_sessionfinish(self) -> None:
        if self.path.exists():
            for row in json.loads(self.path.read_text(encoding="utf-8"))["rows"]:
                if "ran" in row:
                    became = {name: row.pop(name) for name in ("outcome", "ran")}
                    self._before[str(row)] = became
        record = {"vastai": version("vastai"), "generations": GENERATIONS, "rows": self.rows()}
        self.path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for report in terminalreporter.stats.get("skipped", ()):
            said = f"NOT RUN, its rows are of an earlier run or missing: {report.nodeid}: {report.longrepr[2]}"
            terminalreporter.write_line(said, red=True)


WAITING = (
    "tests/contract/test_provider_docker.py",
    "tests/contract/test_provider_ssh.py",
    "tests/contract/test_peers_at_home.py",
    "tests/e2e/",
    "tests/resilience/",
    "tests/contract/test_vastai_peer.py",
    "tests/contract/test_web_peers.py",
    "tests/contract/",
    "tests/fuzz/",
)
"""Tests that wait for other processes more than they compute, the longest files first."""
COLLECTED = pytest.StashKey[list[pytest.Item]]()
"""Those that are marked `long`, too, where they are not run."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Has files that wait take turns with files that compute, the longest first; in a file nothing moves.

    `make test` begins files in this order, four at a time. Side by side those that wait would leave the processors
    idle, and with a long one that is begun last the others have nothing to do.
    """
    config.stash[COLLECTED] = [*items]
    files = list(dict.fromkeys(file_of(item) for item in items))
    waiting = list(dict.fromkeys(file for start in WAITING for file in files if file.startswith(start)))
    computing = [file for file in files if file not in waiting]
    turns = {file: turn for group in (computing, waiting) for turn, file in enumerate(group)}
    items.sort(key=lambda item: (turns[file_of(item)], file_of(item) in computing))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Has the garbage collector pass over what is collected: half a million objects, which stay to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        if "posthouse.app.wiring" in sys.modules:  # some test may start a server
            import_module("tests.kit.shared").share()
        gc.freeze()
        gc.enable()


def file_of(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--peers", type=Path, metavar="FILE", help="write what the tests show of unmodified peers")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "peer(call, *generations, does, recorded, works): see tests/conftest.py")
    if path := config.getoption("--peers"):
        config.pluginmanager.register(Record(path))

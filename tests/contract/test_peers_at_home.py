"""The unmodified peers over HTTPS with all their defaults: tests of theirs, run where the service's names are here."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from posthouse.signing.authority import Authority

NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""With one of processes, so that a test that is ended leaves none."""
ROOT = Path(__file__).parents[2]
MODULES = ("test_vastai_peer", "test_sessions")
"""Their tests that are marked `peer` have a server that runs, and nothing but peers and workers to ask it."""
SAME = {
    "test_its_worker_whose_model_fails_is_replaced_and_the_next_one_answers",
    "test_its_worker_whose_server_cannot_start_is_replaced",
    "test_its_benchmarks_measure_a_template_and_leave_nothing",
    "test_a_session_of_the_peers_client_ends_by_itself",
}
"""Of these, those that make no call which the others do not make, and have workers that take long to begin."""
CERTIFIED = pytest.mark.peer("POST /api/v0/sign_cert", "W4", does="what its start script calls", recorded=True)


def marks(test: Callable[..., object]) -> Iterator[pytest.MarkDecorator]:
    """What a test says of its peers, for HTTPS."""
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "peer":
            yield pytest.mark.peer(*mark.args, **mark.kwargs | {"does": f"{mark.kwargs['does']}, over HTTPS"})


def over_https() -> Iterator[Any]:
    """Every test of `MODULES` that is marked `peer`, by its path and name."""
    for module in map(import_module, (f"tests.contract.{name}" for name in MODULES)):  # to read their marks
        path = Path(str(module.__file__)).relative_to(ROOT)
        for name, test in vars(module).items():
            if name.startswith("test_") and name not in SAME and (said := list(marks(test))):
                own_worker = name == "test_its_worker_serves_its_client"
                more = CERTIFIED if own_worker else pytest.mark.long
                yield pytest.param(f"{path}::{name}", marks=[*said, more], id=name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an authority, where namespaces may be made."""
    for program in ("unshare", "mount", "openssl", "curl", "flock"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if (refused := subprocess.run([*NAMESPACES, "true"], capture_output=True, text=True)).returncode:
        pytest.skip(f"no namespaces may be made here: {refused.stderr.strip()}")
    directory = tmp_path_factory.mktemp("home")
    (directory / "authority").mkdir(mode=0o700)
    Authority(directory / "authority" / "authority.pem", time.time())
    return directory


@pytest.fixture(scope="module")
def failures(home: Path, request: pytest.FixtureRequest) -> dict[str, str]:
    """What became of every test that was asked for, by its name: empty where it passed. They run together, once."""
    asked = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    tests = [str(item.callspec.params["test"]) for item in asked]
    authority, report = home / "authority", home / "report.xml"
    trust = {"SSL_CERT_FILE": str(authority / "authority.cer"), "PEERS_AUTHORITY_DIR": str(authority)}
    # Of the plugins it has what it needs: to load them all may take longer than a test.
    bare = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-p", "no:cacheprovider", "-p", "asyncio", "-p", "timeout", f"--basetemp={home / 'tests'}"]
    command = [*NAMESPACES, sys.executable, "-m", "tests.kit.peers_at_home", str(home), *options]
    command += [f"--junitxml={report}", *tests]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | trust | bare, capture_output=True, text=True)
    unknown = f"it did not run: {ran.stdout[-20_000:]}{ran.stderr[-5_000:]}"
    return dict.fromkeys((test.partition("::")[2] for test in tests), unknown) | _outcomes(report)


def _outcomes(report: Path) -> dict[str, str]:
    """Of each test of a report in JUnit's form what failed in it, with any of its parameters."""
    failures: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase") if report.exists() else ():
        name = case.attrib["name"].partition("[")[0]
        failures[name] = failures.get(name, "") + "".join(found.text or "failed" for found in case)
    return failures


@pytest.mark.parametrize("test", list(over_https()))
def test_what_peers_can_do_over_http_they_can_do_over_https_with_all_their_defaults(
    failures: dict[str, str], test: str
) -> None:
    failure = failures[test.partition("::")[2]]
    assert not failure, failure

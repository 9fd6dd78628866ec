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

import pytest

from posthouse.signing.authority import Authority

NAMESPACES = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
"""With one of processes, so that a test that is ended leaves none."""
ROOT = Path(__file__).parents[2]
MODULES = ("test_vastai_peer", "test_sessions")
"""Their tests that are marked `peer` have a server that runs, and nothing but peers and workers to ask it."""
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
            if name.startswith("test_") and (said := list(marks(test))):
                own_worker = name == "test_its_worker_serves_its_client"
                yield pytest.param(f"{path}::{name}", marks=[*said, *[CERTIFIED] * own_worker], id=name)


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


@pytest.mark.timeout(240)  # more than the test itself has, for what it says of a failure
@pytest.mark.parametrize("test", list(over_https()))
def test_what_peers_can_do_over_http_they_can_do_over_https_with_all_their_defaults(home: Path, test: str) -> None:
    authority = home / "authority"
    trust = {"SSL_CERT_FILE": str(authority / "authority.cer"), "PEERS_AUTHORITY_DIR": str(authority)}
    # Of the plugins it has what it needs: to load them all may take longer than the test.
    bare = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    options = ["-p", "no:cacheprovider", "-p", "asyncio", "-p", "timeout", f"--basetemp={home / 'tests'}", test]
    command = [*NAMESPACES, sys.executable, "-m", "tests.kit.peers_at_home", str(home), *options]
    ran = subprocess.run(command, cwd=ROOT, env=os.environ | trust | bare, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-20_000:] + ran.stderr[-5_000:]

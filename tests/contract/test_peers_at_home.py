"""The unmodified peers over HTTPS with all their defaults: tests of theirs, run where the service's names are here."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posthouse.signing.authority import Authority
from tests.contract import test_sessions, test_vastai_peer

NAMESPACE = ["unshare", "--mount", "--net"]
ROOT = Path(__file__).parents[2]
MODULES = (test_vastai_peer, test_sessions)
"""Their tests that are marked `peer` have a server that runs, and nothing but peers and workers to ask it."""
CERTIFIED = pytest.mark.peer("POST /api/v0/sign_cert", "W4", does="what its start script calls", recorded=True)


def marks(test: Callable[..., object]) -> Iterator[pytest.MarkDecorator]:
    """What a test says of its peers, for HTTPS."""
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "peer":
            yield pytest.mark.peer(*mark.args, **mark.kwargs | {"does": f"{mark.kwargs['does']}, over HTTPS"})


def over_https() -> Iterator[Any]:
    """Every test of `MODULES` that is marked `peer`, by its path and name."""
    for module in MODULES:
        path = Path(str(module.__file__)).relative_to(ROOT)
        for name, test in vars(module).items():
            if name.startswith("test_") and (said := list(marks(test))):
                own_worker = name == test_vastai_peer.test_its_worker_serves_its_client.__name__
                yield pytest.param(f"{path}::{name}", marks=[*said, *[CERTIFIED] * own_worker], id=name)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What became of each test, by its path and name."""
    for program in ("unshare", "mount", "openssl", "curl", "flock"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if (refused := subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True)).returncode:
        pytest.skip(f"no namespaces may be made here: {refused.stderr.strip()}")
    directory = tmp_path_factory.mktemp("home")
    authority_dir = directory / "authority"
    authority_dir.mkdir(mode=0o700)
    Authority(authority_dir / "authority.pem", time.time())
    seen = directory / "seen.json"
    tests = [str(param.values[0]) for param in over_https()]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--peers={seen}", f"--basetemp={directory / 'tests'}"]
    trust = {"SSL_CERT_FILE": str(authority_dir / "authority.cer"), "PEERS_AUTHORITY_DIR": str(authority_dir)}
    ran = subprocess.run(
        [*NAMESPACE, sys.executable, "-m", "tests.contract.peers_at_home", directory, *options, *tests],
        cwd=ROOT,
        env=os.environ | trust,
        capture_output=True,
        text=True,
    )
    print(ran.stdout[-20_000:], ran.stderr[-5_000:])  # shown with what fails
    found: dict[str, set[str]] = defaultdict(set)
    for row in json.loads(seen.read_bytes())["rows"]:
        found[row["test"].partition("[")[0]].add(row["outcome"])
    return found


@pytest.mark.parametrize("test", list(over_https()))
def test_what_peers_can_do_over_http_they_can_do_over_https_with_all_their_defaults(
    outcomes: dict[str, set[str]], test: str
) -> None:
    assert outcomes[test] == {"passed"}

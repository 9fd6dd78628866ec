"""Restarts in place, and stops. Unmodified clients look on, who give a request up at the first refused call."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest

from posthouse.app.signals import RESTART
from tests.kit.clients import CLIENTS
from tests.kit.marks import long
from tests.kit.site import ONSTART, START_S, Site, until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.environ |= {
        "POSTHOUSE_ENGINE__TICK_S": "0.2",
        "POSTHOUSE_PROVIDERS__PROCESS__POLL_S": "0.2",
        "POSTHOUSE_ENGINE__STABILIZATION_S": "1",
        "POSTHOUSE_PROVIDERS__PROCESS__SLOTS": "8",
        "POSTHOUSE_PROVIDERS__PROCESS__READY_USD_H": "0.4",
    }
    yield made
    made.clear()


def add_endpoint(site: Site, *scaling: str) -> None:
    (site.directory / "onstart.sh").write_text(ONSTART)
    site.json("template", "create", "--name", "llm", "--env", "-p 3000:3000", "--onstart", "onstart.sh")
    site.json("endpoint", "create", "llm", "--cold-workers", "0", "--cold-mult", "1", *scaling)
    site.json("workergroup", "create", "--endpoint", "llm", "--template", "llm")
    until(lambda: "idle" in site.states())


def owner(site: Site) -> int:
    """The process that owns the data directory."""
    return int((site.directory / "posthouse-data" / "lock").read_text() or 0)


def restarted(site: Site) -> None:
    """Restarts the server in place, and waits until the old process has ended well."""
    assert site.server is not None
    assert site.server.stdout is not None
    old = owner(site)
    os.kill(old, RESTART)
    assert json.loads(site.server.stdout.readline())["url"] == site.environ["POSTHOUSE_URL"]
    until(lambda: not psutil.pid_exists(old) or psutil.Process(old).status() == psutil.STATUS_ZOMBIE)
    assert owner(site) != old


def ended(site: Site) -> None:
    """Stops whichever process owns the data directory now."""
    done = site.run("shutdown", "--workers")
    assert done.returncode == 0, done.stderr
    assert site.server is not None
    site.server.communicate(timeout=START_S)
    site.server = None
    assert site.processes() == []


@pytest.mark.parametrize("tls", [long("off"), "self"])
def test_no_client_sees_a_restart_in_place(site: Site, tls: str) -> None:
    facts = site.start("--tls", tls)
    root = site.directory / "posthouse-data" / "authority.cer"
    add_endpoint(site, "--min-load", "1", "--max-workers", "2")
    workers = {p.pid for p in site.processes()}
    trust = {"SSL_CERT_FILE": str(root)} if tls == "self" else {}
    key = Path(facts["admin_key_file"]).read_text().strip()
    clients = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CLIENTS, facts["url"], key, "10", "llm"],
        cwd=site.directory,
        env=site.environ | trust,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert clients.stdout is not None
        assert clients.stdout.readline() == "begins\n"
        restarted(site)
        said, complaint = clients.communicate("", timeout=START_S)
    finally:
        clients.kill()
    assert clients.returncode == 0, complaint
    told = json.loads(said)
    assert told["errors"] == []
    assert told["right"] == told["asked"]
    assert workers <= {p.pid for p in site.processes()}
    ended(site)


def test_a_new_process_that_cannot_start_leaves_the_old_one_at_work(site: Site) -> None:
    site.start()
    (site.directory / "posthouse.toml").write_text("[server]\nport = 1\nhost = 'nowhere'\n")
    before = owner(site)
    os.kill(before, RESTART)
    assert site.server is not None
    assert site.server.stderr is not None
    said = ""
    while "this process goes on" not in said:
        said += site.server.stderr.readline()
    assert "server.host: 'nowhere' is not an address" in said
    assert owner(site) == before
    assert site.json("endpoint", "list") == []


def test_a_supervisor_is_told_which_process_is_the_service_now(site: Site) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(str(site.directory / "notify"))
        supervisor.settimeout(START_S)
        site.environ["NOTIFY_SOCKET"] = str(site.directory / "notify")
        site.start()
        assert supervisor.recv(100) == b"READY=1"
        restarted(site)
        assert {supervisor.recv(100).decode() for _ in range(2)} == {"READY=1", f"MAINPID={owner(site)}"}
        ended(site)
        assert supervisor.recv(100) == b"STOPPING=1"


def test_a_killed_server_is_followed_by_the_one_it_had_begun(site: Site) -> None:
    site.start()
    before = owner(site)
    with socket.create_connection(("127.0.0.1", int(site.environ["POSTHOUSE_URL"].rpartition(":")[2]))):
        os.kill(before, RESTART)  # which waits for this silent connection
        until(lambda: len(psutil.Process(before).children()) == 1)
        time.sleep(0.5)
        os.kill(before, signal.SIGKILL)
    until(lambda: owner(site) != before)
    assert site.json("endpoint", "list") == []
    ended(site)


def test_a_shutdown_with_the_workers_lets_them_finish_and_says_how_it_goes(site: Site) -> None:
    site.start()
    add_endpoint(site, "--min-load", "1")
    asking = subprocess.Popen(
        [sys.executable, "-m", "posthouse", "request", "llm", "Hi", "--max-new-tokens", "2000", "--stream"],  # 4 s
        cwd=site.directory,
        env=site.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asking.stdout is not None
    begun = asking.stdout.read(1)
    done = site.run("shutdown", "--workers", "--json")
    assert done.returncode == 0, done.stderr
    assert site.server is not None
    server, site.server = site.server, None
    said = server.communicate(timeout=START_S)[1]
    assert "1 worker left: 1 idle" in said
    assert "no worker is left" in said
    assert len((begun + asking.communicate(timeout=START_S)[0]).split()) > 900
    assert site.processes() == []
    assert site.run("shutdown").returncode == 4
    late = site.run("shutdown", "--workers")
    assert late.returncode == 4
    assert f"start it first: posthouse serve --data-dir {site.directory}" in late.stderr.replace("\n", "")


@pytest.mark.long
def test_charts_of_an_hour_are_the_same_before_and_after_kill_9(site: Site) -> None:
    site.start()
    site.json("endpoint", "create", "quiet", "--cold-workers", "0")
    key = (site.directory / "posthouse-data" / "admin-key").read_text().strip()

    def charts() -> dict[str, Any]:
        url = f"{site.environ['POSTHOUSE_URL']}/v1/endpoints/quiet/history?last_s=3600"
        with urlopen(Request(url, headers={"Authorization": f"Bearer {key}"}), timeout=START_S) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    until(lambda: len(charts()["at"]) >= 2)
    before = charts()
    until(lambda: len(charts()["at"]) > len(before["at"]))  # by then what was shown is written
    site.stop(signal.SIGKILL)
    site.start()
    after, rows = charts(), len(before["at"])
    for name, column in before.items():
        if name == "looks":
            assert {look: values[:rows] for look, values in after["looks"].items()} == column
        elif name != "step_s":
            assert after[name][:rows] == column

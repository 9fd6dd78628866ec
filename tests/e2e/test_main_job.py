"""What Posthouse is for, with everything real: the server, the workers, the processes, the clients."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from posthouse.client import Client
from tests.kit.rows import needs_file
from tests.kit.site import START_S, Site, until

SLOW_ONSTART = """
"$PYTHON" -m posthouse.demo.model --port "$MODEL_PORT" --tokens-per-s 20 --slots 8 --load-s 0 &
exec "$PYTHON" -m posthouse agent --upstream "http://127.0.0.1:$MODEL_PORT" --perf 160
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.environ |= {
        "POSTHOUSE_ENGINE__TICK_S": "0.2",
        "POSTHOUSE_PROVIDERS__PROCESS__POLL_S": "0.2",
        "POSTHOUSE_PROVIDERS__PROCESS__CATALOG_S": "0.2",
        "POSTHOUSE_ENGINE__STABILIZATION_S": "1",
        "POSTHOUSE_ENGINE__ORPHAN_AFTER_S": "1",
        "POSTHOUSE_PROVIDERS__PROCESS__SLOTS": "8",
        "POSTHOUSE_SERVER__ROUTE_HOLD_S": "0.1",
    }
    yield made
    made.clear()


def add_endpoint(site: Site, *scaling: str) -> str:
    """An endpoint named llm; the key that can route to it."""
    (site.directory / "onstart.sh").write_text(SLOW_ONSTART)
    site.json("template", "create", "--name", "llm", "--env", "-p 3000:3000", "--onstart", "onstart.sh")
    site.json("endpoint", "create", "llm", "--cold-workers", "0", "--cold-mult", "1", *scaling)
    site.json("workergroup", "create", "--endpoint", "llm", "--template", "llm")
    key: str = site.json("endpoint", "show", "llm")["api_key"]
    return key


def post(url: str, body: Any) -> str:
    """What the published example does: a JSON body, no header but its type."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=START_S) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.peer("POST /route", "C0", does="the published example, as printed")
@pytest.mark.peer("worker: POST /ROUTE", "C0", does="the published example, whole and streamed, at our agent")
def test_the_published_example_works_as_printed_and_no_worker_is_stopped_while_a_stream_runs_on_it(site: Site) -> None:
    facts = site.start()
    url = facts["url"]
    key = add_endpoint(site, "--min-load", "0")
    ask = {"endpoint": "llm", "api_key": key, "cost": 256}
    assert set(json.loads(post(f"{url}/route/", ask))) == {"endpoint", "status"}
    until(lambda: site.states() == ["idle"])
    route = json.loads(post(f"{url}/route/", ask))
    assert {"cost", "endpoint", "reqnum", "signature", "url"} <= set(route)
    assert (route["cost"], route["endpoint"]) == (256, "llm")
    route |= {"inputs": "What is Deep Learning?", "parameters": {"max_new_tokens": 4}}
    assert json.loads(post(f"{route['url']}/generate", route))["generated_text"].strip()
    streamed = post(f"{route['url']}/generate_stream", route)  # with the same answer, as the example may be read
    events = [line for line in streamed.splitlines() if line.startswith("data:")]
    assert len(events) > 1
    (worker,) = site.json("worker", "list")
    said = site.run("worker", "logs", str(worker["id"])).stdout
    assert "public key: fetched" in said
    record = site.directory / "posthouse-data" / "workers" / worker["instance_id"] / "instance.json"
    assert json.loads(record.read_text())["env"]["MASTER_TOKEN"] not in said

    tokens: list[str] = []
    with Client(facts["url"], Path(facts["admin_key_file"]).read_text().strip()) as client:
        reading = threading.Thread(
            target=lambda: tokens.extend(
                event["token"]["text"] for event in client.generate_stream("llm", "Hi", max_new_tokens=100)
            )
        )
        reading.start()
        until(lambda: bool(tokens) or site.json("worker", "list")[0]["busy"])
        site.json("endpoint", "delete", "llm")
        reading.join(START_S)
    assert len(tokens) == 100
    until(lambda: site.states() == [])
    assert site.processes() == []


def test_a_killed_server_leaks_nothing_and_finds_its_workers_again(site: Site) -> None:
    url = site.start()["url"]
    add_endpoint(site, "--min-load", "170")
    until(lambda: site.states() == ["idle", "idle"])
    before = {p.pid for p in site.processes()}
    busy = json.loads(post(f"{url}/route/", {"endpoint": "llm", "api_key": admin(site), "cost": 40}))
    busy |= {"inputs": "Hi", "parameters": {"max_new_tokens": 40}}
    answers: list[str] = []
    asking = threading.Thread(target=lambda: answers.append(post(f"{busy['url']}/generate", busy)))
    asking.start()
    # Instances that are ours by label but have no row, as a crash between intent and row would leave; and a stranger's.
    workers = site.directory / "posthouse-data" / "workers"
    label = next(path.name for path in workers.iterdir() if path.name.startswith("posthouse-"))
    stranger = workers / "somebody-elses"
    stranger.mkdir()
    site.stop(signal.SIGKILL)
    assert {p.pid for p in site.processes()} == before

    site.start("--port", url.rpartition(":")[2])
    until(lambda: site.states() == ["idle", "idle"])
    asking.join(START_S)
    assert json.loads(answers[0])["generated_text"].strip()  # what had been routed was served meanwhile
    time.sleep(2.0)  # longer than the calm: had the new server misread the fleet, it would act by now
    assert {p.pid for p in site.processes()} == before
    assert label in {path.name for path in workers.iterdir()}
    assert "url" in json.loads(post(f"{url}/route/", {"endpoint": "llm", "api_key": admin(site), "cost": 1}))

    site.run("endpoint", "delete", "llm", "--wait")
    assert site.processes() == []
    assert stranger.is_dir()


@pytest.mark.long
@needs_file
def test_a_worker_that_a_restored_backup_does_not_know_serves_on_until_an_operator_decides(
    site: Site, tmp_path: Path
) -> None:
    port = str(urlsplit(site.start()["url"]).port)  # where the worker reports after a restart, too
    add_endpoint(site, "--min-load", "0")
    site.stop(signal.SIGTERM)
    database, backup = site.directory / "posthouse-data" / "posthouse.db", tmp_path / "backup.db"
    shutil.copy(database, backup)
    site.start("--port", port)
    site.json("endpoint", "update", "llm", "--min-load", "1")
    until(lambda: site.states() == ["idle"])
    site.stop(signal.SIGTERM)
    orphans = {p.pid for p in site.processes()}
    assert orphans
    shutil.copy(backup, database)
    site.start("--port", port)
    until(lambda: [row["reports"] for row in site.json("orphans", "list")] == [True])
    assert orphans <= {p.pid for p in site.processes()}
    site.json("orphans", "destroy", "--all")
    until(lambda: not orphans & {p.pid for p in site.processes()})


@pytest.mark.long
def test_the_demo_answers_every_request_and_leaves_no_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "posthouse", "demo", "--duration", "15", "--out", str(tmp_path / "out"), "--json"],
        capture_output=True,
        text=True,
        timeout=170,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["answered"] == summary["requests"] > 300
    assert summary["most_hot_workers"] > 1
    assert (tmp_path / "out" / "demo.png").stat().st_size > 10_000
    states_seen = {
        s for sample in json.loads((tmp_path / "out" / "demo.json").read_text())["samples"] for s in sample["states"]
    }
    assert {"stopped", "starting", "idle"} <= states_seen
    assert not [p for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(f"{tmp_path}/")]


def admin(site: Site) -> str:
    return (site.directory / "posthouse-data" / "admin-key").read_text().strip()

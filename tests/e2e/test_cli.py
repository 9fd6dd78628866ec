"""The command line against a server that it started itself, in processes of their own."""

import json
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.site import ONSTART, TIMEOUT_S, Site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site whose server runs."""
    made = Site(tmp_path_factory.mktemp("served"))
    made.start()
    yield made
    made.clear()


def test_the_first_start_shows_the_admin_key_and_keeps_it_for_its_owner(site: Site) -> None:
    first = site.start()
    path = site.directory / "posthouse-data" / "admin-key"
    assert first["admin_key_file"] == str(path)
    assert path.read_text().startswith("ph_")
    assert path.read_text().strip() not in json.dumps(first)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first["docs"] == first["url"] + "/docs"
    assert site.stop(signal.SIGTERM) == (0, "Stopping; no worker is left.\n")
    assert "admin_key_file" not in site.start()
    assert site.run("key", "list").returncode == 0
    assert site.stop(signal.SIGINT)[0] == 0


def test_a_second_server_on_the_same_data_is_refused(served: Site) -> None:
    done = served.run("serve", "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith("error: data_dir: another server is running on ")
    assert done.stderr.count("\n") == 1


def test_a_taken_port_is_named(served: Site) -> None:
    port = served.environ["POSTHOUSE_URL"].rpartition(":")[2]
    done = served.run("serve", "--port", port, "--data-dir", "other")
    assert done.returncode == 1
    wanted = f"server.port: cannot listen on 127.0.0.1:{port}: Address already in use; --port chooses another port"
    assert done.stderr == f"error: {wanted}\n"


def test_things_are_created_shown_changed_and_deleted(served: Site) -> None:
    template = served.json("template", "create", "--name", "noop", "--env", "-p 3000:3000", "--onstart", "sleep 1")
    assert served.json("template", "show", "noop") == template
    assert [row["id"] for row in served.json("template", "list")] == [template["id"]]
    again = served.run("template", "create", "--name", "noop", "--env", "-p 3000:3000")
    assert (again.returncode, "template update" in again.stderr) == (2, True)
    template = served.json("template", "update", "noop", "--onstart", "sleep 2")

    nothing = ["--min-load", "0", "--cold-workers", "0", "--inactivity-timeout", "1", "--max-workers", "1"]
    endpoint_id = served.json("endpoint", "create", "noop", *nothing)["id"]
    group = ["--endpoint", "noop", "--template", template["hash_id"], "--gpu-ram", "8"]
    group_id = str(served.json("workergroup", "create", *group)["id"])
    assert served.json("workergroup", "show", group_id)["gpu_ram"] == 8
    served.json("workergroup", "update", group_id, "--gpu-ram", "16")
    served.json("endpoint", "update", "noop", "--max-workers", "2", "--inactivity-timeout", "none")
    row = served.json("endpoint", "show", str(endpoint_id))
    assert (row["max_workers"], row["inactivity_timeout"], row["cold_workers"]) == (2, None, 0)
    assert [row["gpu_ram"] for row in served.json("workergroup", "list")] == [16]

    explained = served.json("explain", "noop")
    assert (explained["endpoint"], explained["scaling"]["max_workers"]) == ("noop", 2)
    assert "noop (active)" in served.run("explain", "noop").stdout
    assert served.json("worker", "list", "noop") == []
    assert served.run("worker", "list").stdout == "no workers\n"
    assert [row["endpoint"] for row in served.json("status")["standing"]] == ["noop"]
    key = served.json("endpoint", "rotate-key", "noop")["api_key"]
    assert served.json("endpoint", "show", "noop")["api_key"] == key != row["api_key"]

    assert served.run("template", "delete", "noop").returncode == 2  # in use
    served.json("workergroup", "delete", group_id)
    served.json("template", "delete", "noop")
    served.json("endpoint", "delete", "noop", "--wait")
    assert served.run("endpoint", "list").stdout == "no endpoints\n"


def test_a_key_does_what_its_scope_says_until_it_is_revoked(served: Site) -> None:
    key = served.json("key", "create", "looker", "--scope", "read")
    assert served.run("endpoint", "list", "--api-key", key["key"]).returncode == 0
    refused = served.run("endpoint", "create", "x", "--api-key", key["key"])
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "scope read" in refused.stderr
    served.json("key", "revoke", key["id"])
    assert served.run("endpoint", "list", POSTHOUSE_API_KEY=key["key"]).returncode == 3
    shown = {row["id"]: row for row in served.json("key", "list")}[key["id"]]
    assert shown["revoked_at"] >= shown["created_at"]
    assert "key" not in shown


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["endpoint", "list", "--api-key", "wrong"], 3),
        (["endpoint", "show", "nope"], 4),
        (["explain", "nope"], 4),
        (["worker", "show", "99"], 4),
        (["logs", "99"], 4),
        (["workergroup", "show", "99"], 4),
        (["template", "show", "nope"], 4),
        (["request", "nope", "hello"], 4),
        (["endpoint", "list", "--url", "http://127.0.0.1:1"], 5),
    ],
)
def test_an_error_has_its_exit_code_and_one_line(served: Site, argv: list[str], code: int) -> None:
    done = served.run(*argv)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_request_that_finds_no_worker_in_time_times_out(served: Site) -> None:
    served.json("endpoint", "create", "empty", "--cold-workers", "0")
    done = served.run("request", "empty", "hello", "--timeout", "1")
    assert (done.returncode, done.stdout) == (6, "")
    served.json("endpoint", "delete", "empty")


def test_a_request_waits_for_its_worker_which_outlives_the_server_and_goes_with_its_endpoint(site: Site) -> None:
    site.environ["POSTHOUSE_PROVIDERS__PROCESS__READY_USD_H"] = "0.4"
    first = site.start()
    (site.directory / "demo.json").write_text(json.dumps({"name": "demo", "env": "-p 3000:3000", "onstart": ONSTART}))
    site.json("template", "create", "demo.json")
    site.json("endpoint", "create", "demo", "--min-load", "0", "--cold-workers", "0", "--max-workers", "1")
    site.json("workergroup", "create", "--endpoint", "demo", "--template", "demo")

    done = site.run("request", "demo", "Once", "--max-new-tokens", "4", "--timeout", str(TIMEOUT_S))
    assert (done.returncode, done.stdout) == (0, "a demo model: it\n")
    lines = done.stderr.splitlines()  # one for each change of what it waited for
    assert len(lines) == len(set(lines))
    assert all(line.startswith("no worker is free yet") for line in lines)
    streamed = site.run("request", "demo", "-", "--stream", "--max-new-tokens", "4", text="Once")
    assert (streamed.returncode, streamed.stdout) == (0, "a demo model: it\n")
    payload = '{"prompt": "Once", "max_tokens": 3}'
    answer = site.json("request", "demo", payload, "--path", "/v1/completions", "--cost", "3")
    assert answer["answer"]["choices"][0]["text"] == "a demo model:"
    worker = site.json("worker", "list", "demo")[0]
    assert (worker["state"], answer["worker_url"]) == ("idle", worker["url"])
    assert "listens on" in site.run("logs", "demo").stdout

    code, said = site.stop(signal.SIGTERM)
    assert code == 0
    assert said.startswith("Stopping; 1 worker stays, at $0.40 an hour:\n")
    assert f"worker {worker['id']} of demo: idle, $0.40 an hour, posthouse-" in said
    assert "posthouse shutdown --workers" in said
    assert site.processes()
    site.start("--port", first["url"].rpartition(":")[2])
    assert site.run("request", "demo", "Once", "--max-new-tokens", "2").stdout == "a demo\n"
    assert [row["id"] for row in site.json("worker", "list", "demo")] == [worker["id"]]
    site.json("endpoint", "delete", "demo", "--wait", "--timeout", str(TIMEOUT_S))
    assert site.json("worker", "list") == []
    assert site.json("status")["troubles"] == []
    assert site.processes() == []

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin

import pytest

from posthouse import bootstrap
from posthouse.errors import Refused
from posthouse.ports import InstanceSpec

SPEC = InstanceSpec("posthouse-here-7", 7, "image", "run", 10.0, {"A": "x"})


def test_a_worker_is_told_where_it_is() -> None:
    assert bootstrap.variables(7, "203.0.113.9", {3000: 40123, 8000: 40124}) == {
        "CONTAINER_ID": "7",
        "PUBLIC_IPADDR": "203.0.113.9",
        "VAST_TCP_PORT_3000": "40123",
        "VAST_TCP_PORT_8000": "40124",
        "WORKER_PORT": "3000",
        "WORKER_HTTP_PORT": "18288",
        "MODEL_PORT": "18289",
        "MODEL_LOG": "model.log",
    }


def test_without_ports_of_its_own_a_worker_listens_where_it_is_reached() -> None:
    found = bootstrap.variables(7, "127.0.0.1", {3000: 20001}, listen_port=20001, url="https://tunnel.example/w/7")
    assert (found["WORKER_PORT"], found["VAST_TCP_PORT_20001"], found["VAST_TCP_PORT_3000"]) == ("20001",) * 3
    assert found["POSTHOUSE_WORKER_URL"] == "https://tunnel.example/w/7"


def test_a_worker_whose_ports_are_published_is_told_what_to_listen_on() -> None:
    found = bootstrap.variables(7, "127.0.0.1", {3000: 12001}, listen_host="0.0.0.0")
    assert (found["WORKER_PORT"], found["POSTHOUSE_LISTEN_HOST"]) == ("3000", "0.0.0.0")


def test_an_onstart_of_another_systems_editor_is_run() -> None:
    onstart, _ = bootstrap.script("if true; then\r\n  echo $'\\r'\r\nfi\r\n", "")
    assert onstart == bootstrap.FIND_KEY + "if true; then\n  echo $'\\r'\nfi\n"


def test_a_workers_token_survives_however_it_makes_addresses_of_the_one_it_is_given() -> None:
    address = bootstrap.with_token("https://posthouse.example:8443/", "TOKEN")
    assert f"{address}/worker_status/" == "https://worker:TOKEN@posthouse.example:8443/w/TOKEN/worker_status/"
    assert urljoin(address, "/worker_status/") == "https://worker:TOKEN@posthouse.example:8443/worker_status/"


@pytest.mark.parametrize(
    ("asked", "called"),
    [
        ("curl -X GET https://run.vast.ai/pubkey/", ["-X", "GET", "http://here/pubkey/"]),
        ("curl 'https://example.com/a b' -H 'X: $Y'", ["https://example.com/a b", "-H", "X: $Y"]),
        ("curl -s https://run.vast.ai/route/", ["-s", "https://run.vast.ai/route/"]),
    ],
)
def test_curl_asks_this_server_for_the_key_and_is_otherwise_what_it_was(
    asked: str, called: list[str], tmp_path: Path
) -> None:
    real = tmp_path / "bin" / "curl"
    real.parent.mkdir()
    real.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    real.chmod(0o700)
    onstart, _ = bootstrap.script(asked, root_pem="")
    path = f"{real.parent}:{os.environ['PATH']}"
    env = {"PATH": path, "TMPDIR": str(tmp_path), "REPORT_ADDR": "http://here"}
    done = subprocess.run(["bash", "-e", "-c", onstart], env=env, capture_output=True, text=True)
    assert (done.stdout.splitlines(), done.stderr) == (called, "")


def test_a_label_belongs_to_one_installation() -> None:
    pattern = bootstrap.labels("here")
    assert pattern.fullmatch("posthouse-here-7")
    for other in ("posthouse-here", "posthouse-here-", "posthouse-here-x", "posthouse-heres-7", "xposthouse-here-7"):
        assert not pattern.fullmatch(other)
    with pytest.raises(Refused, match="installation"):
        bootstrap.labels("../up")


def test_what_cannot_run_anywhere_is_refused_by_name() -> None:
    bootstrap.check(SPEC, bootstrap.labels("here"))
    for wrong, named in (
        (replace(SPEC, label="posthouse-there-7"), "label"),
        (replace(SPEC, onstart="\0"), "onstart"),
        (replace(SPEC, env={"A B": ""}), "env"),
        (replace(SPEC, ports=(0,)), "ports"),
    ):
        with pytest.raises(Refused, match=named):
            bootstrap.check(wrong, bootstrap.labels("here"))

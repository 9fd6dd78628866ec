from dataclasses import replace

import pytest

from posthouse import bootstrap
from posthouse.domain.errors import Refused
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


def test_an_onstart_of_another_systems_editor_is_run() -> None:
    assert bootstrap.script("if true; then\r\n  echo $'\\r'\r\nfi\r\n", "")[0] == "if true; then\n  echo $'\\r'\nfi\n"


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

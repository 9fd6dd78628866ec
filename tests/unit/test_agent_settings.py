"""The agent's settings: what the environment gives, and how wrong values are refused."""

from pathlib import Path
from typing import Any

import pytest

from posthouse.agent import AgentSettings, Benchmark

ENVIRONMENT = {
    "CONTAINER_ID": "7",
    "MASTER_TOKEN": "token-of-7",
    "REPORT_ADDR": "http://10.0.0.1:8080/, http://10.0.0.2:8080/api/v0",
    "PUBLIC_IPADDR": "203.0.113.9\n",
    "WORKER_PORT": "3000",
    "VAST_TCP_PORT_3000": "40123",
}
UPSTREAM = "http://127.0.0.1:8000"


def read(changes: dict[str, str] | None = None, **overrides: Any) -> AgentSettings:
    return AgentSettings.from_environment(ENVIRONMENT | (changes or {}), **({"upstream": UPSTREAM} | overrides))


def test_the_environment_of_a_worker_is_enough() -> None:
    assert read() == AgentSettings(
        upstream=UPSTREAM,
        worker_id=7,
        mtoken="token-of-7",
        report_addrs=("http://10.0.0.1:8080", "http://10.0.0.2:8080/api/v0"),
        url="http://203.0.113.9:40123",
        listen_host="0.0.0.0",
        listen_port=3000,
        health="/health",
        cors_origins=("*",),
    )


def test_the_token_is_not_shown() -> None:
    assert "token-of-7" not in repr(read())


@pytest.mark.parametrize(
    ("address", "url", "listen_host"),
    [
        ("127.0.0.1", "http://127.0.0.1:40123", "127.0.0.1"),
        ("127.0.0.2", "http://127.0.0.2:40123", "127.0.0.2"),
        ("localhost", "http://localhost:40123", "127.0.0.1"),
        ("::1", "http://[::1]:40123", "::1"),
        ("2001:db8::7", "http://[2001:db8::7]:40123", "::"),
        ("gpu-7.example.org", "http://gpu-7.example.org:40123", "0.0.0.0"),
    ],
)
def test_an_agent_listens_where_its_address_can_be_reached(address: str, url: str, listen_host: str) -> None:
    settings = read({"PUBLIC_IPADDR": address})
    assert (settings.url, settings.listen_host) == (url, listen_host)


def test_an_agent_whose_port_is_published_listens_where_its_provider_says() -> None:
    settings = read({"PUBLIC_IPADDR": "127.0.0.1", "POSTHOUSE_LISTEN_HOST": "0.0.0.0"})
    assert (settings.url, settings.listen_host) == ("http://127.0.0.1:40123", "0.0.0.0")


def test_an_agent_behind_a_tunnel_is_where_its_provider_says() -> None:
    settings = read({"POSTHOUSE_WORKER_URL": "https://tunnel.example/w/7/"})
    assert (settings.url, settings.listen_host, settings.tls) == ("https://tunnel.example/w/7", "0.0.0.0", False)


def test_an_agent_that_serves_https_reports_an_address_with_https() -> None:
    settings = read({"USE_SSL": "true"})
    assert (settings.tls, settings.url) == (True, "https://203.0.113.9:40123")
    with pytest.raises(ValueError, match=r"url: must begin with https:// where tls \(USE_SSL\) is on"):
        read({"USE_SSL": "true"}, url="http://203.0.113.9:40123")
    assert read(url="https://post.example:443").tls is False, "something else in front of it may serve HTTPS"


def test_an_override_replaces_its_variable_and_none_does_not() -> None:
    settings = AgentSettings.from_environment(
        {}, upstream=UPSTREAM, worker_id=1, report_addrs=(UPSTREAM,), listen_port=1, url=UPSTREAM, listen_host="::1"
    )
    assert (settings.worker_id, settings.mtoken, settings.listen_host) == (1, "", "::1")
    assert read(worker_id=None).worker_id == 7


def test_readiness_is_told_by_a_log_line_alone_unless_a_health_call_is_named() -> None:
    log = {"MODEL_LOG": "/var/log/model.log"}
    settings = read(log, ready_log="loaded")
    assert (settings.health, settings.log_file) == (None, Path("/var/log/model.log"))
    assert read(log | {"MODEL_HEALTH_ENDPOINT": "/ok"}, ready_log="loaded").health == "/ok"
    assert read({"MODEL_HEALTH_ENDPOINT": "http://127.0.0.1:9/ok"}).health == "http://127.0.0.1:9/ok"


@pytest.mark.parametrize(("text", "value"), [("true", True), ("1", True), ("False", False), ("", False), ("no", False)])
def test_unsecured_is_a_boolean(text: str, value: bool) -> None:
    assert read({"UNSECURED": text}).unsecured is value


@pytest.mark.parametrize("name", ["CONTAINER_ID", "REPORT_ADDR", "PUBLIC_IPADDR", "WORKER_PORT", "VAST_TCP_PORT_3000"])
def test_a_missing_variable_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: is not set in the environment$"):
        read({name: " "})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"CONTAINER_ID": "seven"}, "CONTAINER_ID: must be a whole number from 0 to 9007199254740992, not 'seven'"),
        ({"CONTAINER_ID": "-7"}, "CONTAINER_ID: must be a whole number"),
        ({"CONTAINER_ID": "9" * 5000}, "CONTAINER_ID: must be a whole number"),
        ({"WORKER_PORT": "70000"}, "WORKER_PORT: must be a whole number from 1 to 65535"),
        ({"VAST_TCP_PORT_3000": "0"}, "VAST_TCP_PORT_3000: must be a whole number from 1 to 65535"),
        ({"REPORT_ADDR": "run.example.org"}, "REPORT_ADDR: must be an address like http"),
        ({"REPORT_ADDR": "ftp://run.example.org"}, "REPORT_ADDR: must be an address like http"),
        ({"PUBLIC_IPADDR": "1.2.3.4/x"}, "PUBLIC_IPADDR: must be an IP address or a host name"),
        ({"PUBLIC_IPADDR": "user@1.2.3.4"}, "PUBLIC_IPADDR: must be an IP address or a host name"),
        ({"PUBLIC_IPADDR": "1.2.3.4?x"}, "PUBLIC_IPADDR: must be an IP address or a host name"),
        ({"REPORT_ADDR": "http://:8080"}, "REPORT_ADDR: must be an address like http"),
        ({"REPORT_ADDR": "http://a b:8080"}, "REPORT_ADDR: must be an address like http"),
        ({"REPORT_ADDR": "http://run.example.org:80800"}, "REPORT_ADDR: must be an address like http"),
        ({"UNSECURED": "perhaps"}, "UNSECURED: must be true or false, not 'perhaps'"),
        ({"USE_SSL": "maybe"}, "USE_SSL: must be true or false, not 'maybe'"),
    ],
)
def test_a_malformed_variable_is_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(changes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"upstream": "127.0.0.1:8000"}, "upstream: must be an address like http"),
        ({"upstream": "http://127.0.0.1:8000/v1"}, "upstream: must have no path"),
        ({"report_addrs": ()}, "report_addrs: must hold an address"),
        ({"health": "health"}, "health: must be an address like http"),
        ({"ready_log": "loaded"}, "log_file: must be set for ready_log and error_logs"),
        ({"error_logs": ("",), "log_file": Path("x")}, "ready_log, error_logs: must not be empty"),
        ({"perf": 0.0}, "perf: must be above 0"),
        ({"workload": "words"}, "workload: must be tokens, cost"),
        ({"parallel": -1}, "parallel: must be 0 to 100000"),
        ({"max_requests": 0}, "max_requests: must be 1 to 100000"),
        ({"max_body_bytes": 0}, "max_body_bytes: must be above 0"),
        ({"drain_s": float("nan")}, "drain_s: must be 0 or more seconds"),
        ({"max_queue_time_s": -1.0}, "max_queue_time_s: must be 0 or more seconds"),
        ({"require_grant": True, "mtoken": ""}, r"require_grant: needs mtoken \(MASTER_TOKEN\)"),
    ],
)
def test_a_wrong_setting_is_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        read(**overrides)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"route": "generate"}, "benchmark.route: must start with /"),
        ({"work": 0.0}, "benchmark.work: must be above 0"),
        ({"concurrency": 0}, "benchmark.concurrency: must be 1 to 1000"),
        ({"runs": 0}, "benchmark.runs: must be 1 to 100"),
    ],
)
def test_a_wrong_benchmark_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Benchmark(**changes)


@pytest.mark.parametrize(("text", "value"), [("", None), (" true\n", True), ("0", False)])
def test_whether_grants_are_required_is_for_the_server_to_say_unless_the_environment_does(
    text: str, value: bool | None
) -> None:
    assert read({"POSTHOUSE_REQUIRE_GRANT": text}).require_grant is value
    assert read({"POSTHOUSE_REQUIRE_GRANT": text}, require_grant=True).require_grant is True

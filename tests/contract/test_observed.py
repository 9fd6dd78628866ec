"""A gateway, the server and workers, each a process of its own, as a Prometheus and a collector of traces see them."""

import gc
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from monitoring.dashboards import expressions

from posthouse import tracing
from posthouse.errors import BadRequest
from tests.kit.collector import Collector, collecting
from tests.kit.gateways import World, add_endpoint, gateway_world, until
from tests.kit.later import Later
from tests.kit.prometheus import asked, needs_prometheus, prometheus, scraped
from tests.kit.site import TIMEOUT_S

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionMessageParam
else:
    openai = Later("openai")

MESSAGES: "list[ChatCompletionMessageParam]" = [{"role": "user", "content": "a-canary-in-a-prompt"}]
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "00f067aa0ba902b7"
CAPS = {"POSTHOUSE_MONEY__MAX_USD_DAY": "1000"}
CHAT = "POST /v1/chat/completions"
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[World]:
    to = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    folders = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("engine")
    with gateway_world(*folders, "--log-format", "json", environ=to | CAPS, worker_environ=to) as made:
        yield made
    gc.collect()


def test_one_trace_leads_from_the_caller_to_the_model(world: World, collector: Collector) -> None:
    headers = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    world.client().chat.completions.create(model="chat", messages=MESSAGES, user="traced", extra_headers=headers)
    until(
        lambda: {"model", "route", CHAT} <= {span.name for span in collector.spans if span.trace == TRACE}, "all came"
    )
    [whole] = collector.named(CHAT)
    assert (whole.parent, whole.service, whole.attributes["posthouse.status"]) == (CALLER, "posthouse-gateway", 200)
    queue, worker = sorted(collector.children(whole), key=lambda span: span.name)
    assert (queue.name, queue.attributes["posthouse.endpoint"]) == ("queue", "chat")
    assert worker.name == "worker"
    [route] = collector.children(queue)
    assert (route.name, route.service) == ("route", "posthouse")
    assert route.attributes["posthouse.outcome"] == "worker"
    assert route.attributes["posthouse.worker"] == worker.attributes["posthouse.worker"]
    [model] = collector.children(worker)
    assert (model.name, model.service) == ("model", "posthouse-agent")
    assert model.attributes["posthouse.request_idx"] == route.attributes["posthouse.request_idx"]
    [seen] = world.seen("traced")
    assert seen["headers"]["traceparent"] == f"00-{TRACE}-{model.id}-01"


def test_a_wait_is_a_span_and_so_is_each_call_that_ends_it(world: World, collector: Collector) -> None:
    add_endpoint(world.manage, "cold", min_load=0, max_workers=1)
    world.client().chat.completions.create(model="cold", messages=MESSAGES)
    until(lambda: bool(collector.named("route", endpoint="cold", outcome="worker")), "it had a worker")
    held = [span for route in collector.named("route", endpoint="cold") for span in collector.children(route)]
    assert {(span.name, span.service) for span in held} == {("queue", "posthouse")}
    until(lambda: bool(collector.named("process create")), "its worker was made")
    [tick] = [tick for tick in collector.named("tick", endpoint="cold") if "Rent" in tick.attributes["posthouse.does"]]
    [rent] = [span for span in collector.children(tick) if span.name == "rent"]
    assert [span.name for span in collector.children(tick) if span.name == "commit"] == ["commit"]
    assert [span.name for span in collector.children(rent)] == ["process create"]
    assert not tick.parent


def test_what_fails_is_a_failed_span(world: World, collector: Collector) -> None:
    with pytest.raises(openai.InternalServerError):
        world.client().chat.completions.create(model="chat", messages=MESSAGES, user="fails:traced")
    until(lambda: any(span.failed for span in collector.named(CHAT)), "the whole")
    until(lambda: any(span.failed for span in collector.named("model")), "the worker's")


def test_one_id_finds_a_request_in_the_logs_of_gateway_and_worker(world: World) -> None:
    headers = {"X-Request-ID": "an-id-to-look-for"}
    world.client().chat.completions.create(model="chat", messages=MESSAGES, extra_headers=headers)
    for files in ("gateway.log", "posthouse-data/workers/*/output.log"):
        until(lambda files=files: bool(lines(world, files, request_id="an-id-to-look-for")), files)  # type: ignore[misc]


def lines(world: World, files: str, **about: str) -> list[dict[str, str]]:
    """The lines of JSON in these logs that have this."""
    texts = [line for path in world.site.directory.glob(files) for line in path.read_text().splitlines()]
    found = [json.loads(text) for text in texts if text.startswith("{")]
    return [row for row in found if about.items() <= row.items()]


def test_no_span_no_line_and_no_metric_has_a_key_or_what_was_said(world: World, collector: Collector) -> None:
    logs = [path.read_bytes() for path in world.site.directory.glob("**/*.log")]
    pages = []
    for url in (world.site.environ["POSTHOUSE_URL"], world.url.removesuffix("/v1")):
        call = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {world.key}"})
        with urllib.request.urlopen(call, timeout=TIMEOUT_S) as page:
            pages.append(page.read())
    assert all((collector.raw, logs, pages))
    for secret in (world.key, "a-canary-in-a-prompt", "so it was"):
        assert not [text for text in (*collector.raw, *logs, *pages) if secret.encode() in text], secret


def test_while_nothing_is_traced_its_library_is_not_even_imported() -> None:
    names = "posthouse.app.wiring, posthouse.gateway.service, posthouse.agent.service"
    program = f"import sys, {names}; print([n for n in sys.modules if n.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert not tracing.on


def test_an_address_without_the_extra_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with (
        pytest.raises(BadRequest, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is set.*pip install 'posthouse\[otel\]'"),
        tracing.traced("x"),
    ):
        pass


# -- metrics -----------------------------------------------------------------------------------------------------------


def load(world: World) -> None:
    """Everything that a panel shows: streams, a further try, a wake from zero, a limit that is reached."""
    client = world.client()
    for user in ("a", "breaks-once:panels"):
        client.chat.completions.create(model="chat", messages=MESSAGES, user=user)
    list(client.chat.completions.create(model="chat", messages=MESSAGES, stream=True))
    add_endpoint(world.manage, "woken", min_load=0, max_workers=1)
    client.chat.completions.create(model="woken", messages=MESSAGES)
    add_endpoint(world.manage, "short", min_load=1e6, max_workers=1)
    until(lambda: _word(world, "short") == "limit.max_workers", "it is stuck")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="none", messages=MESSAGES)


def _word(world: World, name: str) -> str:
    verdict = world.manage.explain(name).verdict
    return verdict.word if verdict is not None else ""


@needs_prometheus
@pytest.mark.long
def test_no_panel_is_empty_and_no_alert_is_wrong(world: World, tmp_path: Path) -> None:
    with prometheus(tmp_path, world.key, world.site.environ["POSTHOUSE_URL"], world.url) as url:
        until(lambda: scraped(url), "both are read")
        load(world)
        until(lambda: not _empty(url), "every panel shows something")
        rules = asked(url, "rules")["groups"][0]["rules"]
        assert len(rules) >= 16
        assert not [rule["lastError"] for rule in rules if rule.get("lastError")]
        assert {rule["health"] for rule in rules} == {"ok"}
        until(lambda: "limit.max_workers" in _alerting(url), "an alert is pending")


def _alerting(url: str) -> set[str]:
    """Why endpoints are stuck for which an alert is pending."""
    rules = asked(url, "rules")["groups"][0]["rules"]
    return {alert["labels"].get("because", "") for rule in rules for alert in rule["alerts"]}


def _empty(url: str) -> list[str]:
    """The panels that show nothing; an expression that Prometheus does not understand raises."""
    time.sleep(1.0)  # it reads no sooner anyway
    at, found = str(time.time()), []
    for where, expression in expressions():
        text = expression.replace("$__rate_interval", "1m").replace("$endpoint", ".*")
        if not asked(url, "query", query=text, time=at)["result"]:
            found.append(where)
    return found

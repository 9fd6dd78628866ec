"""A real Prometheus reads a server and a gateway under load, and answers what dashboards and alerts ask."""

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml
from monitoring.dashboards import FOLDER, expressions
from openai.types.chat import ChatCompletionMessageParam

from tests.kit.agent_world import free_port
from tests.kit.gateways import World, add_endpoint, gateway_world, until
from tests.kit.promtool import needs_prometheus
from tests.kit.site import TIMEOUT_S

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How was it?"}]
CAPS = {"POSTHOUSE_MONEY__MAX_USD_DAY": "1000"}
pytestmark = [needs_prometheus, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@contextmanager
def prometheus(folder: Path, key: str, *targets: str) -> Iterator[str]:
    """A Prometheus that reads the targets each second, with our alerts; its address."""
    port, jobs = free_port(), []
    (folder / "key").write_text(key)
    for number, target in enumerate(targets):
        jobs.append(
            {
                "job_name": f"posthouse{number or ''}",
                "authorization": {"credentials_file": str(folder / "key")},
                "static_configs": [{"targets": [urllib.parse.urlsplit(target).netloc]}],
            }
        )
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({**config, "rule_files": [str(FOLDER / "alerts.yml")]}))
    argv = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


def asked(url: str, path: str, **query: str) -> Any:
    address = f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
        return json.load(answer)["data"]


def scraped(url: str) -> bool:
    try:
        targets = asked(url, "targets")["activeTargets"]
    except OSError:
        return False
    assert not [target["lastError"] for target in targets if target["lastError"]]
    return bool(targets) and all(target["health"] == "up" for target in targets)


def load(world: World) -> None:
    """Everything that a panel shows: streams, a further try, a wake from zero, a limit that is reached."""
    client = world.client()
    for user in ("a", "breaks-once:panels"):
        client.chat.completions.create(model="chat", messages=MESSAGES, user=user)
    list(client.chat.completions.create(model="chat", messages=MESSAGES, stream=True))
    add_endpoint(world.manage, "cold", min_load=0, max_workers=1)
    client.chat.completions.create(model="cold", messages=MESSAGES)
    add_endpoint(world.manage, "short", min_load=1e6, max_workers=1)
    until(lambda: _word(world, "short") == "limit.max_workers", "it is stuck")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="none", messages=MESSAGES)


def _word(world: World, name: str) -> str:
    verdict = world.manage.explain(name).verdict
    return verdict.word if verdict is not None else ""


def test_no_panel_is_empty_and_no_alert_is_wrong(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        gateway_world(tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("engine"), environ=CAPS) as world,
        prometheus(folder, world.key, world.site.environ["POSTHOUSE_URL"], world.url) as url,
    ):
        until(lambda: scraped(url), "both are read")
        load(world)
        until(lambda: not _empty(url), "every panel shows something")
        rules = asked(url, "rules")["groups"][0]["rules"]
        assert len(rules) >= 15
        assert not [rule["lastError"] for rule in rules if rule.get("lastError")]
        assert {rule["health"] for rule in rules} == {"ok"}
        pending = {alert["labels"].get("because") for rule in rules for alert in rule["alerts"]}
        assert "limit.max_workers" in pending


def _empty(url: str) -> list[str]:
    """The panels that show nothing; an expression that Prometheus does not understand raises."""
    at, found = str(time.time()), []
    for where, expression in expressions():
        text = expression.replace("$__rate_interval", "1m").replace("$endpoint", ".*")
        if not asked(url, "query", query=text, time=at)["result"]:
            found.append(where)
    return found

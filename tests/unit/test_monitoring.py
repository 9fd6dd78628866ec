"""Dashboards, alerts and runbooks agree with each other and with the metrics that there are."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from monitoring.dashboards import BOARDS, FOLDER, board, expressions

from posthouse.gateway.metrics import GATEWAY
from posthouse.server.families import SERVER
from tests.kit.prometheus import needs_prometheus, promtool

RUNBOOKS = FOLDER.parent / "docs" / "runbooks"
RULES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
CASES: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
FAMILIES = {family.name: family for family in (*SERVER.all, *GATEWAY.all)}
OF_PROMETHEUS = {"job", "instance", "le"}


def slug(alert: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", alert.removeprefix("Posthouse")).lower()


def all_expressions() -> Iterator[tuple[str, str]]:
    yield from expressions()
    yield from ((rule["alert"], rule["expr"]) for rule in RULES)


@pytest.mark.parametrize("name", list(BOARDS))
def test_a_dashboard_is_what_its_source_makes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == board(name), "run `make dashboards`"


@pytest.mark.parametrize(("where", "expression"), list(all_expressions()))
def test_every_metric_and_label_that_is_asked_for_exists(where: str, expression: str) -> None:
    found = re.findall(r"\b((?:posthouse|process)_\w+)(?:\{([^}]*)\})?", expression)
    assert found or expression.startswith("up{"), where
    for name, matchers in found:
        family = FAMILIES.get(re.sub(r"_(bucket|sum|count)$", "", name)) or FAMILIES[name]
        assert (family.kind == "histogram") == (name != family.name), f"{where}: {name}"
        labels = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", matchers))
        assert labels <= {*family.labels, *OF_PROMETHEUS}, f"{where}: {name}"


def test_every_alert_has_a_runbook_and_a_case_that_fires_and_one_that_does_not() -> None:
    alerts = [rule["alert"] for rule in RULES]
    assert sorted(path.stem for path in RUNBOOKS.glob("*.md") if path.stem != "README") == sorted(map(slug, alerts))
    index = (RUNBOOKS / "README.md").read_text()
    for rule in RULES:
        page = slug(rule["alert"])
        assert rule["annotations"]["runbook_url"].endswith(f"/runbooks/{page}/")
        assert (RUNBOOKS / f"{page}.md").read_text().startswith(f"# {rule['alert']}\n")
        assert f"[{rule['alert']}]({page}.md)" in index
    tested = [(case["alertname"], bool(case["exp_alerts"])) for test in CASES for case in test["alert_rule_test"]]
    assert set(tested) == {(alert, fires) for alert in alerts for fires in (True, False)}


@needs_prometheus
def test_the_rules_do_what_their_cases_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FOLDER)
    promtool("check", "rules", "alerts.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")

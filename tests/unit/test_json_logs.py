"""Log lines of a gateway and an agent, as JSON."""

import json
import logging
import sys

from posthouse.logs import MAX_TEXT, JsonLines, request_id


def line(text: str, *args: object, failed: bool = False) -> dict[str, str]:
    record = logging.LogRecord("posthouse", logging.WARNING, "", 0, text, args, sys.exc_info() if failed else None)
    record.created, record.msecs = 1_700_000_000.25, 250.0
    told: dict[str, str] = json.loads(JsonLines().format(record))
    return told


def test_a_line_says_what_when_and_how_grave() -> None:
    assert line("%s broke", "it") == {"event": "it broke", "level": "warning", "timestamp": "2023-11-14T22:13:20.250Z"}


def test_a_line_about_a_request_has_its_id() -> None:
    token = request_id.set("req_1")
    assert line("x")["request_id"] == "req_1"
    request_id.reset(token)
    assert "request_id" not in line("x")


def test_a_failure_has_its_trace_and_no_text_is_endless() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        told = line("x" * 2 * MAX_TEXT, failed=True)
    assert told["exception"].endswith("ValueError: no")
    assert len(told["event"]) == MAX_TEXT


def test_a_hostile_text_stays_one_line() -> None:
    told = 'a\n{"level": "info"}\x1b[31m\u202e'
    record = logging.LogRecord("posthouse", logging.INFO, "", 0, told, (), None)
    shown = JsonLines().format(record)
    assert "\n" not in shown
    assert json.loads(shown)["event"] == told

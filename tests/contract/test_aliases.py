"""Aliases in the API and the store: what they may say, and what is refused."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.kit.web import Web, served

PATH = "/v1/aliases/"


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        for name in ("large", "small", "org/model"):
            await web.make_endpoint(name)
        yield web


async def put(web: Web, name: str, *targets: str, key: str = "operate", **fields: Any) -> tuple[int, Any]:
    body = {"targets": [{"model": model} for model in targets], **fields}
    answer = await web.call("PUT", PATH + name, body, key=key)
    return answer.status, answer.body if answer.status == 200 else answer.body["msg"]


async def names(web: Web, key: str = "route") -> list[str]:
    return [row["name"] for row in (await web.call("GET", "/v1/aliases", key=key)).body]


async def test_an_alias_is_made_shown_replaced_and_deleted(web: Web) -> None:
    status, made = await put(web, "chat", "large", fallbacks=[{"model": "small", "faults": ["no_worker"]}], wait_s=20)
    assert status == 200
    at = made.pop("created_at")
    assert made == {
        "name": "chat",
        "targets": [{"model": "large", "weight": 1.0}],
        "fallbacks": [{"model": "small", "faults": ["no_worker"]}],
        "wait_s": 20.0,
    }
    assert await web.hub.store.aliases() == web.hub.aliases
    status, made = await put(web, "chat", "org/model")
    assert (made["targets"], made["fallbacks"], made["created_at"]) == ([{"model": "org/model", "weight": 1.0}], [], at)
    assert (await put(web, "a/b", "chat", fallbacks=[{"model": "small"}]))[1]["fallbacks"] == [
        {"model": "small", "faults": ["no_worker", "rate_limited", "failed"]}
    ]
    assert (await put(web, "a/b", "chat", fallbacks=[{"model": "small"}, {"model": "external:openai"}]))[0] == 200
    assert await names(web) == ["chat", "a/b"]
    assert (await web.call("DELETE", PATH + "a/b", key="operate")).body["name"] == "a/b"
    assert await names(web) == ["chat"]
    assert (await web.call("DELETE", PATH + "a/b", key="operate")).status == 404
    assert [list(found) for found in (await web.hub.store.aliases()).values()] == [["chat"]]


async def test_keys_of_one_endpoint_have_no_aliases_and_those_that_read_change_none(web: Web) -> None:
    await put(web, "chat", "large")
    assert await names(web, web.endpoint_key(next(iter(web.hub.endpoints)))) == []
    assert (await put(web, "chat", "small", key="read"))[0] == 403
    assert (await web.call("DELETE", PATH + "chat", key="route")).status == 403


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("small", {}, "name: 'small' is an endpoint; choose another"),
        ("%20x", {}, "name: must have 1 to 255 printable characters, without blanks around them"),
        ("x", {"targets": []}, "targets: must be a list of 1 to 16, not []"),
        (
            "x",
            {"targets": [{"model": "lagre"}]},
            "targets[0].model: lagre: there is no such endpoint or alias. Did you",
        ),
        ("x", {"targets": [{"model": "large", "weight": 0}]}, "targets: one at least must have a weight above 0"),
        (
            "x",
            {"targets": [{"model": "large", "weight": -1}]},
            "targets[0].weight: must be a number from 0 to 1000000, not -1",
        ),
        (
            "x",
            {"targets": [{"model": "large", "wieght": 1}]},
            "targets[0].wieght: there is no such field. Allowed: model, weight",
        ),
        ("x", {"fallbacks": [{"model": "none"}]}, "fallbacks[0].model: none: there is no such endpoint or alias"),
        (
            "x",
            {"fallbacks": [{"model": "small", "faults": ["sunday"]}]},
            "fallbacks[0].faults[0]: must be one of no_worker, rate_",
        ),
        (
            "x",
            {"fallbacks": [{"model": "small", "faults": []}]},
            "fallbacks[0].faults: must be a list of 1 to 4, not []",
        ),
        ("x", {"wait_s": -1}, "wait_s: must be a number from 0 to 86400"),
        ("x", {"targets": [{"model": "external:a"}]}, "targets[0].model: external:NAME can only be the last fallback"),
        (
            "x",
            {"fallbacks": [{"model": "external:a"}, {"model": "small"}]},
            "fallbacks[0].model: external:NAME can only",
        ),
        ("x", {"fallbacks": [{"model": "external:"}]}, "fallbacks[0].model: external:NAME can only be the last"),
        ("x", {"targets": [{"model": "x"}]}, "targets[0].model: leads back to where it began: 'x' -> 'x'"),
    ],
)
async def test_what_is_wrong_is_told_with_its_field(web: Web, name: str, fields: dict[str, Any], words: str) -> None:
    status, said = await put(web, name, "large", **fields)
    assert (status, words in said) == (400, True), said
    assert web.hub.aliases == {}


async def test_aliases_that_would_lead_in_a_circle_are_refused(web: Web) -> None:
    await put(web, "a", "large")
    await put(web, "b", "small", fallbacks=[{"model": "a"}])
    await put(web, "c", "b")
    status, said = await put(web, "a", "large", fallbacks=[{"model": "c"}])
    assert (status, said) == (400, "fallbacks[0].model: leads back to where it began: 'a' -> 'c' -> 'b' -> 'a'")
    assert (await web.call("DELETE", PATH + "a", key="operate")).body["msg"] == (
        "alias 'a' is named by the alias 'b': change that first"
    )


async def test_what_an_alias_names_stays_and_its_name_is_taken(web: Web) -> None:
    await put(web, "chat", "large")
    large = next(e.id for e in web.hub.directory if e.name == "large")
    path, said = f"/api/v0/endptjobs/{large}/", "endpoint 'large' is named by the alias 'chat': change that first"
    assert (await web.call("DELETE", path)).body["msg"] == said
    assert (await web.call("PUT", path, {"endpoint_name": "other"})).body["msg"] == f"endpoint_name: {said}"
    assert (await web.call("PUT", path, {"endpoint_name": "large", "max_workers": 3})).status == 200
    made = await web.call("POST", "/api/v0/endptjobs/", {"endpoint_name": "chat"})
    assert made.body["msg"] == "endpoint_name: 'chat' is an alias; choose another, or delete that"
    await web.call("DELETE", PATH + "chat")
    assert (await web.call("DELETE", path)).status == 200

"""What the console's pages ask of a real server: an endpoint made whole, a request to try, what a change would do."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from posthouse.app.running import Running
from posthouse.cli import main
from tests.kit.live import live_server, states, until

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": True}
DEMO = {"name": "chat", "recipe": "demo-llm", "parameters": {"load_s": "0.2", "tokens_per_s": "200"}}


class Caller:
    """Calls of the management API with the admin's key."""

    def __init__(self, server: Running, session: aiohttp.ClientSession) -> None:
        self.server, self.session = server, session

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self.server.admin_key}"}
        async with self.session.request(method, self.server.url + path, json=body, headers=headers) as answer:
            raw = await answer.read()
        if answer.content_type == "application/x-ndjson":
            return answer.status, [msgspec.json.decode(line) for line in raw.splitlines()]
        return answer.status, msgspec.json.decode(raw)


async def _upgrade_check(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What it prints."""
    capsys.readouterr()
    assert await asyncio.to_thread(main, ["upgrade-check", *argv]) == 0
    return capsys.readouterr().out


async def test_an_endpoint_is_made_whole_tried_foreseen_and_played_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with live_server(tmp_path / "data") as server, aiohttp.ClientSession() as session:
        call, at = Caller(server, session).call, ["--url", server.url, "--api-key", server.admin_key]
        assert "nothing to play: no endpoint" in await _upgrade_check(capsys, *at)
        _, recipes = await call("GET", "/v1/recipes")
        assert {one["name"] for one in recipes} >= {"demo-llm", "vllm"}

        await until(lambda: "process" in server.hub.offers.catalogs, "what can be rented is known")
        _, estimate = await call("POST", "/v1/deployments/estimate", DEMO | {"scaling": {"max_workers": 3}})
        assert estimate["fitting"][0] == {"provider": "process", "offers": 1, "workers": 8, "cheapest_usd_h": 0.4}
        assert (estimate["rest_usd_h"], estimate["one_usd_h"]) == (0.0, 0.4)
        assert estimate["most_usd_h"] == pytest.approx(1.2)
        assert estimate["start"] is None
        status, made = await call("POST", "/v1/deployments", DEMO)
        assert status == 201
        assert (await call("POST", "/v1/deployments", DEMO))[0] == 400  # the name is taken
        assert len(server.hub.templates) == len(server.hub.workergroups) == 1

        # The request is what makes its first worker start.
        _, told = await call("POST", "/v1/endpoints/chat/try", {"path": "/v1/chat/completions", "payload": CHAT})
        assert [told[0]["kind"], told[-1]["kind"]] == ["waits", "ends"], told
        begun = [one["kind"] for one in told].index("begins")
        pieces = [msgspec.json.decode(one["text"]) for one in told[begun + 1 : -1]]
        assert "".join(p["choices"][0]["delta"].get("content", "") for p in pieces if p["choices"])
        assert states(server, "chat") == ["idle"]

        _, refused = await call("POST", "/v1/endpoints/chat/try", {"path": "/nowhere", "payload": {}})
        assert refused[-1]["kind"] == "fails"

        _, outlook = await call("POST", "/v1/endpoints/chat/outlook", {"min_load": 1000, "max_workers": 2})
        assert outlook["after"]["title"] == "Rent 1 worker"
        assert outlook["after"]["usd_h"] == pytest.approx(outlook["before"]["usd_h"] + 0.4)
        assert (outlook["most_before_usd_h"], outlook["most_after_usd_h"]) == (0.4, 0.8)
        _, capped = await call(
            "POST", "/v1/endpoints/chat/outlook", {"min_load": 1000, "max_workers": 2, "max_usd_h": 0.5}
        )
        assert "max_usd_h" in capped["after"]["text"]
        assert capped["most_after_usd_h"] == 0.5
        assert states(server, "chat") == ["idle"]  # nothing was done

        _, played = await call("POST", "/v1/endpoints/chat/what-if", {"change": {"max_workers": 2, "min_load": 200}})
        assert [one["name"] for one in played["runs"]] == ["was", "a", "b"]
        assert played["present"] == {"max_workers": 1, "min_load": 0.0}
        assert all(len(one["at"]) == len(one["spent_usd"]) > 0 for one in played["runs"])
        spent = played["runs"][2]["spent_usd"]
        assert sorted(spent) == spent
        assert spent[-1] <= played["runs"][2]["usd"] * 1.001  # it is looked at now and then
        said = await _upgrade_check(capsys, "chat", *at, "--json", "--allow", "100")
        [checked] = json.JSONDecoder().raw_decode(said[said.index("{\n") :])[0][
            "endpoints"
        ]  # the server's log is there, too
        assert checked["requests"] > 0
        # Of the same version; a moment later, so that the record is a little longer.
        assert checked["new"]["usd"] == pytest.approx(checked["old"]["usd"], rel=0.5)
        assert checked["new"]["rents"] == checked["old"]["rents"]
        for wrong in ({"max_workers": 1}, {"max_workers": -1}, {"nonsense": 1}, {}):
            status, said = await call("POST", "/v1/endpoints/chat/what-if", {"change": wrong})
            assert status == 400, said

        _, estimate = await call("POST", "/v1/deployments/estimate", DEMO | {"name": "other"})
        assert estimate["start"]["starts"] == 1
        assert made["endpoint_id"] == server.hub.fleet_named("chat").endpoint.id  # type: ignore[union-attr]


async def test_what_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server, aiohttp.ClientSession() as session:
        call = Caller(server, session).call
        for wrong in (
            {"recipe": ""},
            {"recipe": "nowhere"},
            {"template_id": 1},
            {"parameters": {"nonsense": "1"}},
            {"parameters": {"slots": "; rm -rf /"}},
            {"scaling": {"max_workers": -1}},
            {"provider": "nobody"},
            {"gpu": "a b"},
            {"name": " chat"},
        ):
            for path in ("/v1/deployments", "/v1/deployments/estimate"):
                status, said = await call("POST", path, DEMO | wrong)
                assert status in (400, 404), (wrong, path, said)
                assert said["msg"]
        assert not server.hub.templates
        assert not list(server.hub.directory)
        assert (await call("POST", "/v1/deployments", DEMO | {"name": "a/b"}))[0] == 201
        await until(lambda: len(server.hub.workergroups) == 1, "it is made")

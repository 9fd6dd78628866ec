"""What older command lines were seen to send on one round, sent again: it works, and means the same."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from posthouse.domain.endpoint import EndpointId, Scaling, WorkergroupId
from tests.kit.web import Web, served, worker

peer = pytest.mark.peer

DEFAULT_FILTERS = {
    "verified": {"eq": True},
    "external": {"eq": False},
    "rentable": {"eq": True},
    "rented": {"eq": False},
}
TEMPLATE: dict[str, Any] = {
    "name": "tgi", "image": "x/tgi", "tag": None, "href": None, "repo": None, "env": "-p 3000:3000",
    "onstart": "echo hi", "jup_direct": False, "ssh_direct": False, "use_jupyter_lab": False, "runtype": "args",
    "use_ssh": False, "jupyter_dir": None, "docker_login_repo": None,
    "extra_filters": {**DEFAULT_FILTERS, "gpu_ram": {"gte": 23000.0}, "num_gpus": {"eq": "1"}},
    "recommended_disk_space": "16", "readme": None, "readme_visible": True, "desc": None, "private": True,
}  # fmt: skip


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        yield web


@peer("POST /api/v0/template", "K1", does="`create template`", recorded=True)
@peer("GET /api/v0/template", "K1", does="`search templates`", recorded=True)
@peer("PUT /api/v0/template", "K1", does="`update template`", recorded=True)
@peer("DELETE /api/v0/template", "K1", does="`delete template`", recorded=True)
@peer("POST /api/v0/endptjobs", "K1", does="`create endpoint`", recorded=True)
@peer("GET /api/v0/endptjobs", "K1", does="`show endpoints`", recorded=True)
@peer("PUT /api/v0/endptjobs/{id}", "K1", does="`update endpoint`", recorded=True)
@peer("DELETE /api/v0/endptjobs/{id}", "K1", does="`delete endpoint`", recorded=True)
@peer("POST /api/v0/autojobs", "K1", does="`create autogroup`", recorded=True)
@peer("GET /api/v0/autojobs", "K1", does="`show autogroups`", recorded=True)
@peer("PUT /api/v0/autojobs/{id}", "K1", does="`update autogroup`", recorded=True)
@peer("DELETE /api/v0/autojobs/{id}", "K1", does="`delete autogroup`", recorded=True)
@peer("GET /api/v0/users/current", "K1", does="`show user`", recorded=True)
async def test_an_older_command_line_does_its_whole_round(web: Web) -> None:
    """That of `vastai` 0.3.1."""
    key = web.keys["admin"]
    itself = {"client_id": "me"}

    async def sent(method: str, path: str, body: object = None) -> Any:
        """It has the key in the query, and in the body of some calls."""
        answer = await web.call(method, f"{path}{'&' if '?' in path else '?'}api_key={key}", body, key=None)
        assert answer.status == 200, answer
        assert answer.headers["content-type"] == "application/json"
        return answer.body

    template = (await sent("POST", "/api/v0/template/", TEMPLATE))["template"]
    named = "%7B%22name%22%3A+%7B%22eq%22%3A+%22tgi%22%7D%7D"
    found = await sent("GET", f"/api/v0/template/?select_cols=%5B%22%2A%22%5D&select_filters={named}")
    assert found["templates"] == [template]

    # fmt: off
    made = await sent("POST", "/api/v0/endptjobs/", itself | {
        "min_load": 10.0, "target_util": 0.9, "cold_mult": 2.5, "cold_workers": 5, "max_workers": 20,
        "endpoint_name": "LLama",
    })
    assert made == {"success": True, "result": 1}
    made = await sent("POST", "/api/v0/autojobs/", itself | {
        "min_load": None, "target_util": None, "cold_mult": None, "test_workers": 2,
        "template_hash": template["hash_id"], "template_id": None,
        "search_params": "verified=True rentable=True rented=False", "launch_args": None, "gpu_ram": 24.0,
        "endpoint_name": "LLama", "endpoint_id": None,
    })
    assert made == {"success": True, "id": 1}
    await sent("PUT", "/api/v0/endptjobs/1/", itself | {
        "endptjob_id": 1, "min_load": None, "target_util": None, "cold_mult": None, "cold_workers": None,
        "max_workers": 3, "endpoint_name": None,
    })
    await sent("PUT", "/api/v0/autojobs/1/", itself | {
        "autojob_id": 1, "min_load": 5.0, "target_util": None, "cold_mult": None, "test_workers": None,
        "template_hash": None, "template_id": None,
        "search_params": "gpu_ram>=40 verified=True rentable=True rented=False", "launch_args": None, "gpu_ram": 32.0,
        "endpoint_name": None, "endpoint_id": None,
    })
    # fmt: on
    scaling = web.hub.managed(EndpointId(1)).fleet.endpoint.scaling
    assert scaling == Scaling(min_load=10.0, cold_mult=2.5, max_workers=3)  # not what it says of the workergroup
    group = web.hub.workergroups[WorkergroupId(1)]
    assert (group.gpu_ram, group.search_params.partition(" ")[0]) == (32.0, "gpu_ram>=40")

    [endpoint] = (await sent("GET", "/api/v0/endptjobs/", itself | {"api_key": key}))["results"]
    assert (endpoint["endpoint_name"], endpoint["max_workers"]) == ("LLama", 3)
    [row] = (await sent("GET", "/api/v0/autojobs/", itself | {"api_key": key}))["results"]
    assert (row["endpoint_id"], row["gpu_ram"]) == (1, 32.0)

    change = TEMPLATE | {"image": "x/other", "env": None, "onstart": None, "recommended_disk_space": None}
    changed = await sent("PUT", "/api/v0/template/", change | {"hash_id": template["hash_id"]})
    assert (changed["template"]["image"], changed["template"]["env"]) == ("x/other", "-p 3000:3000")

    web.staff(worker(1))
    assert (await sent("DELETE", "/api/v0/autojobs/1/", itself | {"autojob_id": 1}))["deleted_workers"] == 1
    await sent("DELETE", "/api/v0/template/", {"hash_id": changed["template"]["hash_id"]})
    await sent("DELETE", "/api/v0/endptjobs/1/", itself | {"endptjob_id": 1})
    assert ([*web.hub.directory], web.hub.workergroups, web.hub.templates) == ([], {}, {})
    assert "api_key" in await sent("GET", "/api/v0/users/current?owner=me")  # it takes this away, and fails without


@peer("POST /api/v0/autojobs", "K0", does="`create autoscaler`, of an endpoint that is there", recorded=True)
@peer("GET /api/v0/autojobs", "K0", does="`show autoscalers`", recorded=True)
@peer("PUT /api/v0/autojobs/{id}", "K0", does="`update autoscaler`", recorded=True)
@peer("DELETE /api/v0/autojobs/{id}", "K0", does="`delete autoscaler`", recorded=True)
@peer("GET /api/v0/users/current", "K0", does="`show user`", recorded=True)
async def test_the_oldest_command_line_does_its_whole_round(web: Web) -> None:
    """That of `vastai` 0.1.8, of October 2023: it has no command for endpoints, and its key is in the query."""
    key = web.keys["admin"]

    async def sent(method: str, path: str, body: object = None, status: int = 200) -> Any:
        answer = await web.call(method, f"{path}{'&' if '?' in path else '?'}api_key={key}", body, key=None)
        assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer
        return answer.body

    template = await web.make_template()
    nothing = dict.fromkeys((
        "min_load", "target_util", "cold_mult", "template_hash", "template_id", "search_params", "launch_args",
        "gpu_ram", "endpoint_name",
    ))  # fmt: skip
    asked = {
        "client_id": "me",
        **nothing,
        "min_load": 10.0,
        "template_hash": template["hash_id"],
        "search_params": "gpu_ram>=23 num_gpus=1",
        "gpu_ram": 24.0,
        "endpoint_name": "LLama",
    }
    refused = await sent("POST", "/api/v0/autojobs/", asked, status=400)
    assert refused["msg"].startswith("endpoint_id or endpoint_name: there is no such endpoint")
    await web.make_endpoint("LLama")
    by_arguments = asked | {"template_hash": None, "launch_args": "--image x/y --disk 64"}
    refused = await sent("POST", "/api/v0/autojobs/", by_arguments, status=400)
    assert refused["msg"].startswith("template_hash or template_id: one of them is required")

    assert await sent("POST", "/api/v0/autojobs/", asked) == {"success": True, "id": 1}
    scaling = web.hub.managed(EndpointId(1)).fleet.endpoint.scaling
    assert scaling == Scaling()  # what it says of the workergroup is not said of the endpoint
    change = {"client_id": "me", "autojob_id": 1, **nothing, "gpu_ram": 32.0}
    assert await sent("PUT", "/api/v0/autojobs/1/", change) == {"success": True}
    [row] = (await sent("GET", "/api/v0/autojobs/", {"client_id": "me", "api_key": key}))["results"]
    assert (row["gpu_ram"], row["search_params"], row["endpoint_name"]) == (32.0, "gpu_ram>=23 num_gpus=1", "LLama")
    web.staff(worker(1))
    assert (await sent("DELETE", "/api/v0/autojobs/1/", {"client_id": "me", "autojob_id": 1}))["deleted_workers"] == 1
    assert "api_key" in await sent("GET", "/api/v0/users/current?owner=me")  # it takes this away, and fails without

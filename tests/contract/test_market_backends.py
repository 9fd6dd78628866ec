"""Unmodified backends of other tools for Vast.ai at the simulated market: SkyPilot's provisioner, and dstack's client
with the catalogue it rents from.

SKYPILOT names a Python that has `skypilot[vast]`, DSTACK one that has `dstack` and `gpuhunt`; without them nothing is
run. Nothing of their code is changed: the market's kit, which SkyPilot uses, reads VAST_URL; dstack's client and
catalogue are given another address.
"""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from posthouse.market.server import Api
from tests.kit.market import KEY, market

LIMIT_S = 300.0
SKYPILOT = """
import json, time
from sky.provision import common
from sky.provision.vast import instance as vast

vast.POLL_INTERVAL = 0.2
name, told = "ours", {}
node = {"InstanceType": "1x-RTX_4090-16-65536", "DiskSize": 20, "Preemptible": False, "ImageId": "demo/image"}
wanted = common.ProvisionConfig({}, {}, {}, node, 1, {}, resume_stopped_nodes=True, ports_to_open_on_launch=None)

def status():
    return [found[0].value for found in vast.query_instances(name, name, {}).values()]

def until(wanted):
    while status() != wanted:
        time.sleep(0.1)
    return wanted

told["rented"] = vast.run_instances("DE", name, name, wanted).created_instance_ids
told["again"] = vast.run_instances("DE", name, name, wanted).created_instance_ids
told["runs"] = status()
told["head"] = vast.get_cluster_info("DE", name).head_instance_id
vast.stop_instances(name, {})
told["rests"] = until(["STOPPED"])
told["resumed"] = vast.run_instances("DE", name, name, wanted).created_instance_ids
told["runs again"] = status()
vast.terminate_instances(name, {})
told["gone"] = until([])
print(json.dumps(told))
"""
DSTACK = """
import json, os, time
import gpuhunt
from gpuhunt.providers import vastai
from dstack._internal.core import consts
from dstack._internal.core.backends.vastai import api_client

url = os.environ["VAST_URL"]
vastai.bundles_url = f"{url}/api/v0/bundles/"
client = api_client.VastAIAPIClient(os.environ["VAST_API_KEY"])
client.s.base_url = f"{url}/api/"
told = {"key": client.auth_test()}
filters = {  # those of its backend
    "direct_port_count": {"gte": 1},
    "reliability2": {"gte": 0.9},
    "inet_down": {"gt": 128},
    "verified": {"eq": True},
    "cuda_max_good": {"gte": 12.8},
    "compute_cap": {"gte": 600},
}
offers = vastai.VastAIProvider(extra_filters=filters).get(gpuhunt.QueryFilter(gpu_name=["RTX4090"], min_gpu_memory=20))
told["offers"] = sorted({(offer.gpu_name, offer.spot) for offer in offers})
ask = offers[0].instance_name
made = client.create_instance("ours", ask, "demo/image", "echo hi", 20)
while (found := client.get_instance(made))["actual_status"] != "running":
    time.sleep(0.1)
told["port"] = int(found["ports"][f"{consts.DSTACK_RUNNER_SSH_PORT}/tcp"][0]["HostPort"]) > 0
try:
    client.create_instance("ours too", ask, "demo/image", "echo hi", 20)
except api_client.VastAICreateInstanceError as error:
    told["taken"] = error.created_instance_id
client.destroy_instance(made)
client.destroy_instance(made)
told["gone"] = client.get_instance(made)
print(json.dumps(told))
"""
pytestmark = pytest.mark.long


def python(variable: str, *modules: str) -> str:
    """The Python that a variable names. Skips the test unless it has the modules."""
    named = Path(os.environ.get(variable, "/nowhere"))
    finds = f"import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, {modules})))"
    if not named.is_file() or subprocess.run([named, "-c", finds], check=False).returncode:
        pytest.skip(f"NOT RUN: {variable} names no Python with {' and '.join(modules)}")
    return str(named)


async def told(api: Api, python: str, program: str, home: Path) -> Any:
    """What the program prints, as JSON."""
    own = {"HOME": str(home), "PATH": os.defpath, "VAST_URL": api.url, "VAST_API_KEY": KEY}
    quiet = {"VAST_NO_UPDATE_CHECK": "1", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(python, "-c", program, cwd=home, env=own | quiet, stdout=pipe)
    async with asyncio.timeout(LIMIT_S):
        printed, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(printed.splitlines()[-1])


async def test_skypilot_s_provisioner_rents_stops_resumes_and_ends_here(tmp_path: Path) -> None:
    program = python("SKYPILOT", "sky", "vastai_sdk")
    async with market() as api:
        found = await told(api, program, SKYPILOT, tmp_path)
        assert found == {
            "rented": [20_000_000],
            "again": [],
            "runs": ["UP"],
            "head": "20000000",
            "rests": ["STOPPED"],
            "resumed": [],
            "runs again": ["UP"],
            "gone": [],
        }
        [rental] = api.market.gone.values()
        assert (rental.label, rental.disk_gb) == ("ours-head", 20.0)
        assert rental.launch.env["__SOURCE"] == "skypilot"
        assert not api.market.rentals


async def test_dstack_s_client_finds_offers_and_rents_here(tmp_path: Path) -> None:
    program = python("DSTACK", "dstack", "gpuhunt")
    async with market(offers=20) as api:
        found = await told(api, program, DSTACK, tmp_path)
        assert found == {
            "key": True,
            "offers": [["RTX4090", False], ["RTX4090", True]],
            "port": True,
            "taken": None,
            "gone": None,
        }
        [rental] = api.market.gone.values()
        assert (rental.launch.runtype, rental.launch.args) == ("args", ["-c", "echo hi"])

"""The provider at a real API server of SkyPilot, as far as one goes without a cloud account, and the double beside it.

SKYPILOT names a Python that has `skypilot` 0.14.1; without it nothing is run. The catalogue is ours, so that the server
fetches none.
"""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from posthouse.errors import NotFound, Refused
from posthouse.ports import Provider
from posthouse.providers.skypilot import listing
from posthouse.providers.skypilot.provider import SkypilotProvider
from tests.kit.ports import free_port
from tests.kit.provider_contract import opened_provider, spec
from tests.kit.skypilot import sky_server

PYTHON = Path(os.environ.get("SKYPILOT", "/nowhere"))
START_S = 300.0
GPU = "{'Gpus': [{'Name': 'L4', 'MemoryInfo': {'SizeInMiB': 24576}}]}"
CATALOG = {
    "aws/vms.csv": "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,"
    f'AvailabilityZone\ng6.xlarge,L4,1,4,16,"{GPU}",0.80,0.30,us-east-1,us-east-1a\n',
    "common/accelerators.csv": "AcceleratorName,Clouds\nL4,[AWS]\n",
}

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON.is_file(), reason="NOT RUN: SKYPILOT names no Python with skypilot"),
]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server that has no cloud."""
    home = tmp_path_factory.mktemp("sky")
    for name, text in CATALOG.items():
        file = home / ".sky" / "catalogs" / "v8" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    port = free_port()
    command = [str(PYTHON), "-m", "sky.server.server", "--port", str(port), "--metrics-port", str(free_port())]
    environ = {"HOME": str(home), "PATH": f"{PYTHON.parent}:{os.defpath}", "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    with (home / "out").open("wb") as out:
        server = subprocess.Popen(command, cwd=home, env=environ, stdout=out, stderr=out, start_new_session=True)
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"{url}/api/health", timeout=10):
                break
            assert server.poll() is None, (home / "out").read_text()[-2000:]
            assert time.monotonic() < until, (home / "out").read_text()[-2000:]
            time.sleep(0.5)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture(params=["real", "double"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Provider]:
    if request.param == "real":
        url = request.getfixturevalue("real")
        async with opened_provider("skypilot", {"url": url, "call_s": 120.0, "launch_s": 60.0}) as provider:
            yield provider
        return
    async with sky_server(tmp_path, clouds=()) as double:
        double.token = False
        double.catalog = {"L4": [["AWS", "g6.xlarge", "L4", 1.0, 4, 24.0, 16, 0.8, 0.3, "us-east-1"]]}
        double.fails["/launch"] = "NoCloudAccessError", "Cloud access is not set up. Run: sky check"
        async with opened_provider("skypilot", {"url": double.url}) as provider:
            yield provider


async def test_what_is_not_there_is_not_there(shop: Provider) -> None:
    assert (list(await shop.catalog()), list(await shop.instances())) == ([], [])
    with pytest.raises(NotFound):
        await shop.start("posthouse-test-1")
    await shop.stop("posthouse-test-1")
    await shop.destroy("posthouse-test-1")
    assert await shop.logs("posthouse-test-1", 5) == ""
    assert shop.troubles() == []


async def test_its_catalogue_is_read_and_a_launch_without_a_cloud_is_refused_in_words(shop: Provider) -> None:
    inner: object = shop
    while not isinstance(inner, SkypilotProvider):
        inner = inner.inner  # type: ignore[attr-defined]
    asked = {"clouds": ["aws"], "gpus_only": True, "require_price": True, "all_regions": True}
    found = await inner._client.call("/list_accelerators", asked)
    rows = [*listing.offers(found, frozenset({"aws"}), "skypilot", room=4, disk_usd_gb_month=0.0, with_spot=True)]
    assert {offer.id: (offer.price.ready_usd_h, offer.gpu_ram_mb) for offer, _ in rows} == {
        "aws/us-east-1/g6.xlarge/L4:1": (0.8, 24_000.0),
        "aws/us-east-1/g6.xlarge/L4:1/spot": (0.3, 24_000.0),
    }
    inner._machines = {offer.id: (offer, machine) for offer, machine in rows}  # as if the cloud were enabled
    with pytest.raises(Refused, match="NoCloudAccessError: Cloud access is not set up"):
        await shop.create(rows[0][0].id, spec(1), 1.0)
    assert "no cloud is set up" in shop.troubles()[0]
    assert list(await shop.instances()) == []

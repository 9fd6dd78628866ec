"""The unmodified command line `vastai` 1.9.1 at the simulated market: what it prints, once read and found right.

Tables are printed at a width where they need no second block; colours are left out.
"""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.market.server import Api
from tests.kit.commandline import Commandline
from tests.kit.market import KEY, go_wrong, market


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with market() as api:
        yield api


@pytest.fixture
def vastai(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commandline:
    monkeypatch.setenv("COLUMNS", "300")
    return Commandline(api.url, KEY, tmp_path / "home")


def plain(printed: str) -> list[str]:
    """The lines without colours, and without what only fills a table."""
    return [" ".join(line.split()) for line in re.sub(r"\x1b\[[0-9;]*[mK]", "", printed).splitlines() if line.strip()]


async def test_offers_are_searched_in_its_language_and_printed(vastai: Commandline) -> None:
    head = (
        "# ID CUDA N Model PCIE cpu_ghz vCPUs RAM VRAM Disk $/hr DLP DLP/$ score NV Driver Net_up Net_down R Max_Days "
        "mach_id status host_id ports country"
    )
    rtx_5090 = (
        "10000002 12.8 2x RTX_5090 24.0 2.8 32.0 131.1 32.6 500 0.8750 276.0 315.43 315.4 570.86.15 800.0 900.0 97.0 "
        "30.0 30002 verified 3000 64 Quebec,_CA"
    )
    rtx_4090 = (
        "10000001 12.8 4x RTX_4090 24.0 2.8 64.0 262.1 24.6 500 1.5762 384.0 243.63 243.6 570.86.15 800.0 900.0 99.7 "
        "30.0 30001 verified 3000 64 Germany,_DE"
    )
    h100 = (
        "10000004 12.8 1x H100_SXM 24.0 2.8 16.0 65.5 81.6 500 1.5608 420.0 269.09 269.1 570.86.15 800.0 900.0 99.9 "
        "30.0 30004 verified 3000 64 Sweden,_SE"
    )
    assert plain(await vastai("search", "offers", "num_gpus>=2")) == [head, f"1 {rtx_5090}", f"2 {rtx_4090}"]
    assert plain(await vastai("search", "offers", "gpu_name=RTX_4090 geolocation in [DE]")) == [head, f"1 {rtx_4090}"]
    assert plain(await vastai("search", "offers", "-i", "--new", "gpu_ram>40", "--limit", "1")) == [head, f"1 {h100}"]
    assert plain(await vastai("search", "offers", "gpu_name=RTX_4090 geolocation notin [DE]")) == [head]


async def test_an_instance_is_created_shown_and_destroyed(vastai: Commandline, api: Api) -> None:
    order = ["--image", "demo/image", "--disk", "20", "--label", "mine", "--env", "-e A=b -p 3000:3000"]
    assert await vastai("create", "instance", "10000001", *order, "--onstart-cmd", "echo hi") == (
        "Started. {'success': True, 'new_contract': 20000000}\n"
    )
    rental = api.market.rentals[20_000_000]
    assert rental.launch.env == {"A": "b", "-p 3000:3000": "1"}
    assert (rental.launch.onstart, rental.launch.runtype, rental.disk_gb) == ("echo hi", "ssh", 20.0)
    shown = [re.sub(r" 0\.0\d -$", "", line) for line in plain(await vastai("show", "instance", "20000000"))]
    assert shown == [
        "# ID Machine Status Num Model Util. % vCPUs RAM Storage SSH Addr SSH Port $/hr Image Net up Net down R Label "
        "age(hours) uptime(mins)",
        "1 20000000 30001 running 4x RTX_4090 0.0 64.0 262.1 20 ssh5.market.invalid 10000 1.5804 demo/image 800.0 "
        "900.0 99.7 mine",
    ]
    assert await vastai("show", "instances", "-q") == "20000000\n"
    listed = plain(await vastai("show", "instances"))
    assert "│ Total: 1 instances │" in listed
    assert "│ Labels: mine: 1 │" in listed
    assert [re.sub(r"\d+[ms] │", "AGE │", line) for line in listed if "demo/image" in line] == [
        "║ 20000000 │ running │ mine │ 4x RTX 4090 (0%) │ 0.1/20 GB │ $1.5804 │ demo/image │ AGE │ verified ║"
    ]
    assert await vastai("logs", "20000000", "--tail", "5") == "demo/image runs on a simulated machine\n\n"
    assert await vastai("create", "instance", "10000001", "--image", "x") == (
        "Failed with error 404: ask 10000001 is no longer available\n"
    )
    assert await vastai("destroy", "instance", "20000000", "-y") == "destroying instance 20000000.\n"
    assert await vastai("show", "instance", "20000000") == "Instance 20000000 not found or no longer exists.\n"
    assert await vastai("destroy", "instance", "20000000", "-y") == (
        "Failed with error 404: Instance 20000000 not found.\n"
    )


async def test_an_instance_is_managed(vastai: Commandline, api: Api) -> None:
    await vastai("create", "instance", "10000001", "--image", "demo/image", "--label", "mine")
    await vastai("create", "instance", "10000002", "--image", "demo/image", "--bid_price", "5")
    rental = api.market.rentals[20_000_000]
    assert await vastai("label", "instance", "20000000", "other") == "label for 20000000 set to other.\n"
    assert await vastai("reboot", "instance", "20000000") == "Rebooting instance 20000000.\n"
    assert await vastai("recycle", "instance", "20000000") == "Recycling instance 20000000.\n"
    assert await vastai("update", "instance", "20000000", "--image", "new/image") == (
        "Instance 20000000 updated successfully.\n"
    )
    assert (rental.label, rental.launch.image) == ("other", "new/image")
    assert await vastai("stop", "instance", "20000000") == "stopping instance 20000000.\n"
    assert await vastai("start", "instance", "20000000") == "starting instance 20000000.\n"
    assert rental.intended == "running"
    assert await vastai("change", "bid", "20000001", "--price", "6") == "Per gpu bid price changed\n"
    assert await vastai("change", "bid", "20000000", "--price", "6") == (
        "Failed with error 400: the instance is no bid, or the price is not above 0\n"
    )
    assert await vastai("stop", "instances", "20000000", "20000001") == "stopping instance [20000000, 20000001].\n"
    assert await vastai("destroy", "instances", "-y", "20000000", "20000001") == (
        "destroying instance [20000000, 20000001].\n"
    )
    assert not api.market.rentals


async def test_what_the_market_refuses_is_printed(vastai: Commandline, api: Api, tmp_path: Path) -> None:
    go_wrong(api, credit_usd=0.0)
    assert await vastai("create", "instance", "10000001", "--image", "x") == (
        "Failed with error 400: Your account lacks credit; see the billing page.\n"
    )
    go_wrong(api, searches_per_day=1)
    await vastai("search", "offers")
    told = await vastai("search", "offers")
    assert re.fullmatch(
        r"Failed with error 429: Daily search quota exceeded\. Resets at \d{4}-\d\d-\d\d 00:00 UTC\.\n", told
    )
    stranger = Commandline(api.url, "stranger", tmp_path / "other")
    assert (await stranger("show", "instances", "-q")).startswith("Failed with error 401: Invalid user key\n")

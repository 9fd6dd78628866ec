"""Pictures of every page of the console, for the documentation: `python -m tests.e2e.pictures [--out FOLDER]`.

A server with four endpoints that are asked all the while, two minutes of it; then every page in four views, at 1280 and
390 pixels, light and dark. Look at each of them before you show a change.
"""

import argparse
import asyncio
import random
import tempfile
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path

from posthouse.client import AsyncClient
from posthouse.client.errors import ClientError
from posthouse.wire import spent
from tests.kit.console import VIEWS, Visit, browser, visit
from tests.kit.live import AGENT, add_endpoint, live_server, ready, until

OUT = Path(__file__).parents[2] / "docs" / "images" / "console"
BREAKS = "echo 'torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB'; exit 1\n"
LOUD = "seq -f 'INFO layer %.0f of 280 is loaded' 280\necho 'WARNING no flash attention: slower'\n"
WARM_S = 120.0


async def ask_on(client: AsyncClient, name: str, seed: int) -> None:
    """Asks an endpoint forever, in waves."""
    rng = random.Random(seed)
    while True:
        with suppress(ClientError, OSError, TimeoutError):
            async with asyncio.timeout(30):
                await client.generate(name, "Tell me of the horses.", max_new_tokens=rng.randint(10, 120))
        await asyncio.sleep(rng.expovariate(1.5))


async def look(seen: Visit, key: str, out: Path, worker_id: int) -> None:
    """Leaves a picture of every page."""
    page = seen.page

    async def shot(name: str) -> None:
        await seen.picture(out.with_name(f"{name}-{out.name}"))

    await seen.open("", "#key")
    await shot("sign-in")
    await page.get_by_role("button", name="Account key").click()
    await page.locator("#key").fill(key)
    await page.keyboard.press("Enter")
    await page.locator(".endpoints tbody tr").first.wait_for()
    await shot("overview")
    await page.keyboard.press("Control+k")
    await shot("find")
    await page.keyboard.press("Escape")
    pages = {
        "endpoint": ("endpoints/chat", ".workers tbody tr"),
        "parameters": ("endpoints/chat/parameters", "main .card"),
        "use": ("endpoints/chat/use", "main .card"),
        "bill": ("endpoints/chat/bill", ".table"),
        "workers": ("workers", ".workers tbody tr"),
        "worker": (f"workers/{worker_id}", ".log li"),
        "costs": ("costs?by=state", ".table"),
        "costs-by-key": ("costs?by=key", ".table"),
        "create": ("create?recipe=demo-llm", ".facts"),
        "templates": ("templates", ".rows summary"),
        "offers": ("offers?endpoint=chat", ".table"),
        "keys": ("keys", ".table"),
        "audit": ("audit", ".rows"),
    }
    for name, (path, shows) in pages.items():
        await seen.open(path, shows)
        await shot(name)
    await seen.open("endpoints/chat/try", "main .card")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("In all").wait_for()
    await shot("try")
    await seen.open("endpoints/chat/what-if?target_util=0.5&last=3600", "main .card")
    await page.get_by_text("Side by side").wait_for()
    await page.get_by_text("Side by side").scroll_into_view_if_needed()
    await shot("what-if")


async def main_in(out: Path, warm_s: float) -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with spent.file_of(folder / "externals.toml").open("wb") as kept:
            spent.write(kept, {"other": spent.Spent(datetime.now(UTC).date().isoformat(), 0.03, 5.0)})
        settings = {"money.max_usd_day": 20.0, "gateway.externals": folder / "externals.toml"}
        server = await stack.enter_async_context(live_server(folder / "data", **settings))
        client = await stack.enter_async_context(AsyncClient(server.url, server.admin_key))
        await add_endpoint(client, "chat", LOUD + AGENT, max_workers=4, cold_workers=1, max_usd_h=2.0)
        await add_endpoint(client, "embed", AGENT, min_load=0, max_workers=2)
        await add_endpoint(client, "images", AGENT, max_workers=2, min_load=500)
        await add_endpoint(client, "vision", BREAKS, max_workers=2, max_usd_h=1.0)
        website = await client.create_key("website", "route")
        await client.create_key("nightly batch", "route", requests_per_minute=600, at_once=32)
        await client.create_key("anna", "read")
        await client.create_user("bruno", "correct horse battery", "operate")
        await ready(server, "chat")
        for number, key in enumerate((website.key, website.key, server.admin_key)):
            caller = await stack.enter_async_context(AsyncClient(server.url, key))
            for name in ("chat", "chat", "images"):
                asking = asyncio.create_task(ask_on(caller, name, number))
                stack.callback(asking.cancel)
        await asyncio.sleep(warm_s)
        fleet = server.hub.fleet_named("chat")
        assert fleet is not None
        await until(lambda: any(w.status() for w in fleet.workers.values()), "a worker is there")
        worker_id = min(fleet.workers)
        started = await stack.enter_async_context(browser())
        for theme, width in VIEWS:
            async with visit(started, server, theme, width) as seen:
                await look(seen, server.admin_key, out / f"{theme}-{width}", worker_id)
                print(f"{theme} {width}: done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--warm-s", type=float, default=WARM_S, help="how long it is asked before, in seconds")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(main_in(options.out, options.warm_s))


if __name__ == "__main__":
    main()

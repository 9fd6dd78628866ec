"""The console in a real browser: sign in, an endpoint, a worker, its log, its acts. Skipped where there is no browser.

With POSTHOUSE_PICTURES=FOLDER it leaves a picture of every page there.
"""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from tests.kit.live import AGENT, add_endpoint, live_server, ready, until

async_api = pytest.importorskip("playwright.async_api", reason="NOT CHECKED: the console, as playwright is missing")
axe_package = pytest.importorskip("axe_playwright_python", reason="NOT CHECKED: the console, as axe is missing")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
pytestmark = pytest.mark.skipif(not BROWSER, reason="NOT CHECKED: the console, as there is no chromium on the PATH")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
PICTURES = os.environ.get("POSTHOUSE_PICTURES", "")
HOSTILE = "<img src=x onerror=alert(1)>\u202egpj.exe"
"""The name of an endpoint: markup, and a mark that turns what follows round."""
LOUD = """\
printf 'ERROR \\033[31mred\\033[0m <script>alert(1)</script> \\342\\200\\256gpj.exe\\n'
seq -f 'INFO line %.0f of the loader' 300
"""
WAIT_MS = 60_000
VIEWS = [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)]


class Visit:
    """A browser that looks at the console, and what it had to complain of."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda said: self.complaints.append(said.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._requested)

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((self.url, f"blob:{self.url}")):
            self.complaints.append(f"a request to {request.url}")

    async def sign_in(self, key: str) -> None:
        await self.page.goto(self.url)  # which leads to the console
        await self.page.get_by_label("Account key").fill(key)
        await self.page.keyboard.press("Enter")

    async def open(self, path: str, shows: str) -> None:
        await self.page.goto(f"{self.url}/console/{path}")
        await self.page.locator(shows).first.wait_for()

    async def settle(self) -> None:
        await self.page.wait_for_timeout(1500)

    async def looks_right(self, name: str) -> None:
        """No fault that axe knows, nothing that stands out at the side, and a picture if it is wanted."""
        wide = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{name} is {wide} px wider than the window"
        if PICTURES:
            await self.settle()
            await self.page.screenshot(path=Path(PICTURES) / f"{name}.png")
        found = await self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        faults = [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found["violations"]]
        assert not faults, f"{name}: {faults}"


@asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    async with async_api.async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        try:
            yield started
        finally:
            await started.close()


@asynccontextmanager
async def visit(started: Any, server: Running, theme: str = "light", width: int = 1280, axe: bool = False) -> Any:
    """`axe`: with that in the page, which then has no policy."""
    context = await started.new_context(
        viewport={"width": width, "height": 844 if width < 500 else 800}, color_scheme=theme, bypass_csp=axe
    )
    if axe:
        await context.add_init_script(path=Path(axe_package.__file__).parent / "axe.min.js")
    try:
        yield Visit(await context.new_page(), server.url)
    finally:
        await context.close()


@asynccontextmanager
async def site(data: Path) -> AsyncIterator[tuple[Running, AsyncClient]]:
    """A server with one endpoint that serves, one with a hostile name, and one whose workers fail."""
    async with live_server(data) as server, AsyncClient(server.url, server.admin_key) as client:
        await add_endpoint(client, "chat", LOUD + AGENT, max_workers=2, max_usd_h=2.0)
        await add_endpoint(client, HOSTILE.replace("\u202e", ""), "exit 1", min_load=0, max_workers=1)
        await ready(server, "chat")
        assert await client.generate("chat", "Hello", max_new_tokens=5)
        yield server, client


async def test_a_person_signs_in_sees_a_fleet_reads_a_log_and_drains_a_worker(tmp_path: Path) -> None:
    async with site(tmp_path / "data") as (server, _), browser() as started, visit(started, server) as seen:
        page = seen.page
        await seen.sign_in("ph_00000000_" + "x" * 43)
        await page.get_by_text("This key is wrong or revoked").wait_for()
        seen.complaints.clear()  # the browser notes that the answer was 401
        await seen.sign_in(server.admin_key)

        row = page.locator(".endpoints tbody tr", has_text="chat")
        await row.get_by_text("1 hot").first.wait_for()
        assert await page.locator("img").count() == 0  # a name is text
        await page.get_by_role("status").get_by_text("Live").wait_for()
        await page.get_by_role("link", name="chat", exact=True).click()
        await page.get_by_text("1 hot worker is enough").wait_for()
        await page.get_by_text("Rent 1 worker").wait_for()  # a decision, in words

        await page.get_by_role("button", name="Suspend…").click()
        await page.get_by_role("button", name="Suspend", exact=True).click()
        await page.get_by_text("Suspended: nothing is rented").wait_for()
        assert str(server.hub.fleet_named("chat").endpoint.state) == "suspended"  # type: ignore[union-attr]
        await page.get_by_role("button", name="Resume").click()
        await page.get_by_text("1 hot worker is enough").wait_for()

        await page.locator(".workers a.row").first.click()
        log = page.get_by_role("log")
        await log.get_by_text("Success, status 200").first.wait_for()
        await page.get_by_label("Find in the log").fill("red")
        await log.get_by_text("<script>alert(1)</script>").wait_for()  # shown, and not run
        assert await log.locator(".ctl").all_inner_texts() == ["ESC", "ESC", "U+202E"]

        await page.get_by_role("button", name="Destroy…").click()
        destroy = page.get_by_role("button", name="Destroy", exact=True)
        assert await destroy.is_disabled()
        await page.keyboard.press("Escape")
        await page.get_by_role("button", name="Drain…").click()
        await page.get_by_role("button", name="Drain", exact=True).click()
        await page.get_by_text("drains.").wait_for()
        chat = next(e for e in server.hub.endpoints.values() if e.fleet.endpoint.name == "chat")
        await until(lambda: any("to stopping" in line.text for line in chat.history.lines()), "it drained")

        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Account key").wait_for()
        assert not seen.complaints


@pytest.mark.long
async def test_every_page_is_accessible_and_fits(tmp_path: Path) -> None:
    async with site(tmp_path / "data") as (server, _), browser() as started:
        for theme, width in VIEWS:
            async with visit(started, server, theme, width, axe=True) as seen:
                await _look_at_every_page(seen, server.admin_key, f"{theme}-{width}")


async def _look_at_every_page(seen: Visit, key: str, name: str) -> None:
    await seen.open("", "#key")
    await seen.looks_right(f"sign-in-{name}")
    await seen.sign_in(key)
    await seen.page.locator(".endpoints tbody tr").first.wait_for()
    await seen.looks_right(f"overview-{name}")
    await seen.open("endpoints/chat", ".workers tbody tr")
    await seen.looks_right(f"endpoint-{name}")
    await seen.page.get_by_role("button", name="Suspend…").click()
    await seen.looks_right(f"suspend-{name}")
    await seen.open("workers", ".workers tbody tr")
    await seen.looks_right(f"workers-{name}")
    await seen.page.locator(".workers a.row").first.click()
    await seen.page.locator(".log li").first.wait_for()
    await seen.looks_right(f"worker-{name}")
    await seen.open("nowhere", ".empty")
    await seen.looks_right(f"nowhere-{name}")


@pytest.mark.skipif(not shutil.which("npx"), reason="NOT CHECKED: that the bundle is built from these sources: no Node")
def test_the_build_gives_the_bundle_that_is_committed(tmp_path: Path) -> None:
    console = Path(__file__).parents[2] / "console"
    if not (console / "node_modules" / "vite").exists():
        pytest.skip("NOT CHECKED: that the bundle is built from these sources: `npm ci` was not run in console/")
    argv = ["npx", "vite", "build", "--logLevel", "error", "--outDir", str(tmp_path)]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(argv, cwd=console, check=True, timeout=300)
    committed = Path(__file__).parents[2] / "src/posthouse/server/console/bundle"
    built = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert built == {p.relative_to(committed): p.read_bytes() for p in committed.rglob("*") if p.is_file()}

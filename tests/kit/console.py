"""A browser that looks at the console, for its tests and its pictures."""

import io
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from posthouse.app.running import Running

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
WAIT_MS = 180_000
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
        page.on("response", self._answered)

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((self.url, f"blob:{self.url}")):
            self.complaints.append(f"a request to {request.url}")

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status} for {response.url}")

    async def sign_in(self, key: str) -> None:
        await self.page.goto(self.url)  # which leads to the console
        await self.page.get_by_label("Account key").fill(key)
        await self.page.keyboard.press("Enter")

    async def open(self, path: str, shows: str) -> None:
        await self.page.goto(f"{self.url}/console/{path}")
        await self.page.locator(shows).first.wait_for()

    async def picture(self, path: Path) -> None:
        """Leaves a picture of the window, small: lossy, as its 256 colours would be no smaller."""
        from PIL import Image

        await self.page.wait_for_timeout(1500)
        Image.open(io.BytesIO(await self.page.screenshot())).save(path.with_suffix(".webp"), quality=82, method=6)

    async def looks_right(self, name: str) -> None:
        """No fault that axe knows, and nothing that stands out at the side. Themes differ in nothing but contrast."""
        wide = await self.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{name} is {wide} px wider than the window"
        asks = {"resultTypes": ["violations"]} | ({"runOnly": ["color-contrast"]} if "-dark-" in name else {})
        found = await self.page.evaluate("asks => axe.run(document, asks)", asks)
        faults = [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found["violations"]]
        assert not faults, f"{name}: {faults}"


@asynccontextmanager
async def browser() -> AsyncIterator[Any]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        try:
            yield started
        finally:
            await started.close()


@asynccontextmanager
async def visit(started: Any, server: Running, theme: str = "light", width: int = 1280, axe: bool = False) -> Any:
    """`axe`: with that in the page, which then has no policy, and no motion: a colour that fades is a fault to it."""
    context = await started.new_context(
        viewport={"width": width, "height": 844 if width < 500 else 800},
        color_scheme=theme,
        bypass_csp=axe,
        reduced_motion="reduce" if axe else "no-preference",
    )
    if axe:
        import axe_playwright_python

        await context.add_init_script(path=Path(axe_playwright_python.__file__).parent / "axe.min.js")
    try:
        yield Visit(await context.new_page(), server.url)
    finally:
        await context.close()

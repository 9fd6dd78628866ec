"""The console in a real browser: sign in, an endpoint, a worker, its log, its acts. Skipped where there is none."""

import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from posthouse.app.running import Running
from posthouse.client import AsyncClient
from posthouse.wire import spent
from tests.kit.console import BROWSER, VIEWS, Visit, browser, visit
from tests.kit.live import AGENT, add_endpoint, live_server, ready, until

pytest.importorskip("playwright.async_api", reason="NOT CHECKED: the console, as playwright is missing")
pytest.importorskip("axe_playwright_python", reason="NOT CHECKED: the console, as axe is missing")
pytestmark = pytest.mark.skipif(not BROWSER, reason="NOT CHECKED: the console, as there is no chromium on the PATH")

HOSTILE = "<img src=x onerror=alert(1)>\u202egpj.exe"
"""The name of an endpoint: markup, and a mark that turns what follows round."""
LOUD = """\
printf 'ERROR \\033[31mred\\033[0m <script>alert(1)</script> \\342\\200\\256gpj.exe\\n'
seq -f 'INFO line %.0f of the loader' 300
"""


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
        # The browser notes that the answer was 401, be it later than the page shows it.
        await until(lambda: any("Failed to load resource" in said for said in seen.complaints), "it is noted")
        seen.complaints.clear()
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

        assert not seen.complaints
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_label("Account key").wait_for()
        assert not [said for said in seen.complaints if "401" not in said]  # what was asked for may come too late


@pytest.mark.long
async def test_a_person_makes_an_endpoint_asks_it_lets_it_grow_to_its_cap_and_deletes_all(tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server, browser() as started, visit(started, server) as seen:
        await seen.sign_in(server.admin_key)
        page = seen.page
        await page.get_by_role("link", name="Create from a recipe").click()
        await _make_and_ask(page)
        await _grow_to_the_cap(page, server)
        await _look_into_a_worker(page, server)
        await _suppose(page)
        await _make_and_revoke_a_key(page)
        await page.get_by_role("link", name="Audit").click()
        await page.get_by_text("Endpoint made").wait_for()
        await page.get_by_role("button", name="Check the record").click()
        await page.get_by_text("are as they were written").wait_for()

        assert not seen.complaints
        await seen.open("endpoints/chat", ".tabs")
        await _typed(page, "Delete…", "Delete", "chat")
        await page.get_by_text("No endpoint yet").wait_for()
        await seen.open("templates", ".rows summary")
        await page.locator(".rows summary").click()
        await _typed(page, "Delete…", "Delete", "chat")
        await page.get_by_text("No template yet").wait_for()
        await until(lambda: not server.hub.endpoints, "its workers are gone")
        assert not [said for said in seen.complaints if "404" not in said]  # its page may ask for it once more


@pytest.mark.long
async def test_by_the_keyboard_one_finds_and_does_and_takes_back(tmp_path: Path) -> None:
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as client:
        for name in ("chat", "embed"):
            await add_endpoint(client, name, AGENT, min_load=0, max_workers=2)
        async with browser() as started, visit(started, server) as seen:
            await seen.sign_in(server.admin_key)
            page = seen.page
            await page.locator(".endpoints tbody tr").first.wait_for()
            await _find(page, "nothing of the kind")
            await page.get_by_text("Nothing has “nothing of the kind”").wait_for()
            await page.keyboard.press("Escape")
            await _find(page, "emb", "embed endpoint")
            await page.get_by_role("heading", name="embed").wait_for()

            await _find(page, "susp", "Suspend… embed")  # an act of the page, which asks first
            await page.get_by_role("dialog").get_by_role("button", name="Suspend").click()
            await page.get_by_text("embed is suspended.").wait_for()
            embed = server.hub.fleet_named("embed")
            assert embed is not None
            assert str(embed.endpoint.state) == "suspended"
            await page.keyboard.press("u")
            await page.get_by_text("It is as it was before.").wait_for()
            assert str(embed.endpoint.state) == "active"

            await _find(page, "param", "Parameters embed")
            await page.get_by_label("Most workers").fill("7")
            await page.get_by_label("Cap per hour").fill("3")
            await page.get_by_role("button", name="Save").click()
            await page.get_by_text("embed is changed.").wait_for()
            assert (embed.endpoint.scaling.max_workers, embed.endpoint.scaling.max_usd_h) == (7, 3.0)
            await _find(page, "undo", "Undo just now")
            await page.get_by_text("It is as it was before.").nth(1).wait_for()
            assert (embed.endpoint.scaling.max_workers, embed.endpoint.scaling.max_usd_h) == (2, None)
            assert not seen.complaints


async def _find(page: Any, text: str, title: str = "") -> None:
    """Types what is looked for; and chooses this, which is the first that is found."""
    await page.keyboard.press("Control+k")
    await page.get_by_label("Find a page, an endpoint").fill(text)
    if title:
        await page.get_by_role("option", name=title, selected=True).wait_for()
        await page.keyboard.press("Enter")
        await page.get_by_label("Find a page, an endpoint").wait_for(state="detached")


@pytest.mark.long
async def test_what_servers_of_others_were_paid_is_shown(tmp_path: Path) -> None:
    paid = spent.Spent(datetime.now(UTC).date().isoformat(), 0.25, 5.0, {})
    file = tmp_path / "externals.toml"
    with spent.file_of(file).open("wb") as kept:
        spent.write(kept, {"other": paid})
    async with (
        live_server(tmp_path / "data", **{"gateway.externals": file}) as server,
        browser() as started,
        visit(started, server) as seen,
    ):
        await until(lambda: next(server.hub.external.left(time.time()), None) is not None, "the file is read")
        await seen.sign_in(server.admin_key)
        await seen.page.get_by_text("No endpoint yet").wait_for()
        await seen.open("costs?by=state", ".table")
        await seen.page.get_by_text("$0.25 external").wait_for()
        chart = seen.page.get_by_role("img", name="External went from $0.00 to $0.25")
        await chart.wait_for()
        await seen.page.locator("tr", has_text="paid by the request").get_by_text("$0.25").wait_for()
        assert not seen.complaints


async def _make_and_ask(page: Any) -> None:
    await page.locator(".cards label", has_text="demo-llm").click()
    await page.get_by_label("Load s").fill("0.2")
    await page.get_by_label("Tokens per s").fill("200")
    create = page.get_by_role("button", name="Create", exact=True)
    assert await create.is_disabled()  # it has no name yet
    await page.get_by_label("Name", exact=True).fill("chat")
    await page.get_by_text("process: 1 offer, room for 8 workers").wait_for()
    await create.click()
    await page.get_by_text("It is made").wait_for()
    await page.get_by_label("Longest answer").fill("20")
    await page.get_by_role("button", name="Send").click()
    await page.get_by_text("In all").wait_for()  # the first worker started for it
    answer = await page.get_by_role("log", name="Answer of chat").inner_text()
    assert len(answer.split()) >= 10, answer
    await page.get_by_role("link", name="Open chat").click()
    await page.get_by_text("1 hot worker is enough").wait_for()


async def _grow_to_the_cap(page: Any, server: Running) -> None:
    """The fleet grows as its parameters say, and stops where the cap says so."""
    tabs = page.get_by_role("navigation", name="Of this endpoint")
    await tabs.get_by_role("link", name="Parameters").click()
    await page.get_by_label("Lowest load to plan for").fill("1000")
    await page.get_by_label("Most workers").fill("4")
    await page.get_by_label("Capacity in all, per hot").fill("1")
    await page.get_by_text(re.compile(r"Rent \d worker")).wait_for()  # what would be decided, before anything is
    assert len(server.hub.fleet_named("chat").workers) == 1  # type: ignore[union-attr]
    await page.get_by_role("button", name="Save").click()
    await page.get_by_text("Nothing is changed").wait_for()
    await tabs.get_by_role("link", name="Now").click()
    await page.get_by_text(re.compile(r"[23] hot workers are enough")).wait_for()
    there = len(server.hub.fleet_named("chat").workers)  # type: ignore[union-attr]
    await tabs.get_by_role("link", name="Parameters").click()
    await page.get_by_label("Lowest load to plan for").fill("9000")
    await page.get_by_label("Cap per hour").fill(f"{0.4 * there + 0.1:.1f}")
    await page.locator(".named small", has_text="max_usd_h").wait_for()  # the preview names the cap
    await page.get_by_role("button", name="Save").click()
    await tabs.get_by_role("link", name="Now").click()
    await page.locator(".verdict .tag", has_text="cap.endpoint.max_usd_h").wait_for()
    await tabs.get_by_role("link", name="Use").click()
    await page.get_by_text("/chat/completions").first.wait_for()


async def _look_into_a_worker(page: Any, server: Running) -> None:
    await page.get_by_role("link", name="Workers").first.click()
    await page.locator(".workers a.row").first.click()
    await page.get_by_role("log").locator("li").first.wait_for()
    chat = server.hub.named("chat")
    assert chat is not None
    await page.get_by_role("button", name="Drain…").click()
    await page.get_by_role("button", name="Drain", exact=True).click()
    await page.get_by_text("drains.").wait_for()
    await until(lambda: any("to stopping" in line.text for line in chat.history.lines()), "it drained")


async def _suppose(page: Any) -> None:
    await page.get_by_role("link", name="What if").first.click()
    await page.locator(".picks a").click()
    await page.get_by_label("Most workers").fill("1")
    await page.get_by_role("button", name="Play both").click()
    await page.get_by_text("Side by side").wait_for()
    await page.get_by_role("button", name="Apply B…").click()
    await page.get_by_role("button", name="Apply", exact=True).click()
    await page.get_by_text("chat is changed.").first.wait_for()


async def _make_and_revoke_a_key(page: Any) -> None:
    await page.get_by_role("link", name="Keys").click()
    await page.get_by_role("button", name="Make a key…").click()
    await page.get_by_label("Name").fill("team")
    await page.get_by_label("Requests per minute").fill("60")
    await page.get_by_role("button", name="Make it").click()
    key = await page.locator("code.secret").inner_text()
    assert key.startswith("ph_")
    await page.get_by_role("button", name="I have it").click()
    await page.get_by_text("60 requests/min").wait_for()
    await page.locator("tr", has_text="admin").locator("[data-name='This month']", has_text="$").wait_for()
    assert key not in await page.content()  # it was shown once
    await _typed(page, "Revoke… team", "Revoke", "team")
    await page.get_by_text("60 requests/min").wait_for(state="detached")


async def _typed(page: Any, opens: str, verb: str, text: str) -> None:
    """Does what must be confirmed by typing."""
    await page.get_by_role("button", name=opens).click()
    act = page.get_by_role("dialog").get_by_role("button", name=verb, exact=True)
    assert await act.is_disabled()
    await page.get_by_role("dialog").get_by_role("textbox").fill(text)
    await act.click()


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_a_person_signs_in_at_a_provider_and_comes_back_to_the_page(tmp_path: Path) -> None:
    import oidc_provider_mock as mock

    claims = [
        {"email": f"{name}@{host}", "email_verified": True} for name, host in (("anna", "example.com"), ("eve", "b"))
    ]
    users = [mock.User(sub=str(each["email"]), claims=each) for each in claims]
    with mock.run_server_in_thread(user_claims=users) as provider:
        oidc = {"issuer": f"http://localhost:{provider.server_port}", "client_id": "posthouse"}
        oidc |= {"client_secret": "s", "name": "Example"}
        settings = {f"oidc.{name}": value for name, value in oidc.items()} | {"oidc.admit": ["@example.com = operate"]}
        async with (
            live_server(tmp_path / "data", **settings) as server,
            browser() as started,
            visit(started, server) as seen,
        ):
            page, enter = seen.page, seen.page.get_by_role("link", name="Continue with Example")
            await page.goto(f"{server.url}/console/costs?by=gpu")
            await enter.click()
            await page.get_by_role("button", name="eve@b").first.click()
            await page.get_by_text("nobody admits you here").wait_for()
            await page.goto(f"{server.url}/console/costs?by=gpu")
            await enter.click()
            await page.get_by_role("button", name="anna@example.com").first.click()
            await page.locator(".who", has_text="anna@example.com").wait_for()
            assert page.url == f"{server.url}/console/costs?by=gpu"


HOSTILE_TEXT = "<img src=x onerror=alert(1)> \033[31mred\033[0m \u202egpj.exe " + "w" * 300
"""Markup, terminal escapes, a mark that turns what follows round, and a word that nothing can break."""


@pytest.mark.long
async def test_hostile_text_is_shown_as_text_and_leaves_the_layout(tmp_path: Path) -> None:
    name = "<b onmouseover=alert(1)>" + "w" * 230
    async with live_server(tmp_path / "data") as server, AsyncClient(server.url, server.admin_key) as client:
        loud = "while :; do printf '%s\\n' \"$TEXT\"; printf '%200000s\\n' x; sleep 1; done & "
        template = await client.create_template(
            name=name, env="-p 3000:3000", desc=HOSTILE_TEXT, onstart=f"TEXT='{HOSTILE_TEXT}'\n{loud}\n{AGENT}"
        )
        endpoint_id = await client.create_endpoint(name, min_load=1, cold_workers=0, max_workers=1)
        await client.create_workergroup(endpoint_id=endpoint_id, template_hash=template.hash_id)
        await client.create_key(name, "route")
        await ready(server, name)
        worker_id = next(iter(server.hub.fleet_named(name).workers))  # type: ignore[union-attr]
        there = quote(name, safe="")
        tabs = [f"endpoints/{there}{tab}" for tab in ("", "/parameters", "/use", "/try", "/what-if", "/bill")]
        pages = [
            "",
            *tabs,
            "workers",
            f"workers/{worker_id}",
            "what-if",
            "create",
            "templates",
            "offers",
            "keys",
            "audit",
        ]
        async with browser() as started:
            for _, width in VIEWS[1:3]:
                async with visit(started, server, width=width) as seen:
                    await seen.sign_in(server.admin_key)
                    await seen.page.locator(".endpoints tbody tr").first.wait_for()
                    for path in pages:
                        await seen.open(path, "main .card")
                        await seen.page.wait_for_timeout(700)
                        for summary in await seen.page.locator(".rows summary").all():
                            await summary.click()
                        wide = await seen.page.evaluate("document.documentElement.scrollWidth - innerWidth")
                        assert wide <= 0, f"{path} at {width} is {wide} px wider than the window"
                        assert await seen.page.locator("img, main b[onmouseover]").count() == 0
                    await seen.open(f"workers/{worker_id}", ".log li .ctl")
                    assert not seen.complaints


@pytest.mark.long
@pytest.mark.parametrize(("theme", "width"), VIEWS)
async def test_every_page_is_accessible_and_fits(tmp_path: Path, theme: str, width: int) -> None:
    async with (
        site(tmp_path / "data") as (server, _),
        browser() as started,
        visit(started, server, theme, width, axe=True) as seen,
    ):
        await _look_at_every_page(seen, server.admin_key, f"{theme}-{width}")


async def _look_at_every_page(seen: Visit, key: str, name: str) -> None:
    await seen.open("", "#key")
    await seen.looks_right(f"sign-in-{name}")
    await seen.sign_in(key)
    await seen.page.locator(".endpoints tbody tr").first.wait_for()
    await seen.looks_right(f"overview-{name}")
    await seen.page.keyboard.press("Control+k")
    await seen.page.get_by_role("option", name="chat").wait_for()
    await seen.looks_right(f"palette-{name}")
    await seen.open("endpoints/chat", ".workers tbody tr")
    await seen.looks_right(f"endpoint-{name}")
    await seen.page.get_by_role("button", name="Suspend…").click()
    await seen.looks_right(f"suspend-{name}")
    for tab in ("parameters", "use", "try", "bill"):
        await seen.open(f"endpoints/chat/{tab}", "main .card")
        await seen.looks_right(f"{tab}-{name}")
    await seen.open("endpoints/chat/what-if?min_load=100&last=3600", "main .card")
    await seen.page.get_by_text("Side by side").wait_for()
    await seen.looks_right(f"what-if-{name}")
    await seen.open("create?recipe=demo-llm", ".facts")
    await seen.looks_right(f"create-{name}")
    for page, shows in (
        ("templates", ".rows summary"),
        ("offers", ".table"),
        ("costs", ".table"),
        ("costs?by=key", ".table"),
        ("keys", ".table"),
        ("audit", ".rows"),
    ):
        await seen.open(page, shows)
        await seen.looks_right(f"{page}-{name}")
    await seen.open("keys", ".table")
    await seen.page.get_by_role("button", name="Make a key…").click()
    await seen.looks_right(f"make-a-key-{name}")
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

"""`posthouse top`: at 80 columns, through a restart of the server, with whatever workers say."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from posthouse.cli import main, top
from posthouse.client.errors import Unreachable
from posthouse.wire import rows
from tests.kit.web import Web, served, worker

HOSTILE = "\x1b]0;owned\x07[red]\u202egnp.exe\n" + "x" * 10_000


@pytest.fixture
async def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Web]:
    async with served(tmp_path) as web:
        monkeypatch.setenv("POSTHOUSE_URL", web.url)
        monkeypatch.setenv("POSTHOUSE_API_KEY", web.keys["read"])
        yield web


def printed(*shown: Any, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(*shown, sep="\n")
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


async def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = await asyncio.to_thread(main, ("top", *words))
    return code, capsys.readouterr().out


async def test_once_prints_all_endpoints_or_one_with_its_workers(web: Web, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no endpoints" in (await told(capsys, "--once"))[1]
    endpoint_id = await web.make_endpoint("llama")
    web.staff(replace(worker(7, endpoint_id), message=HOSTILE))
    code, text = await told(capsys, "--once")
    assert code == 0
    assert "llama" in text
    assert "1h" in text
    code, text = await told(capsys, "llama", "--once")
    assert (code, "RTX 4090" in text) == (0, True)
    assert not {"\x1b", "\u202e", "\x07"} & set(text)
    assert "[red]" in text  # text, and no markup
    assert (await told(capsys, "nobody", "--once"))[0] == 4
    code, text = await told(capsys, "llama", "--json")
    assert json.loads(text)["endpoint"] == "llama"


def standing(name: str = "llama", **looks: int) -> rows.Standing:
    figures = rows.Figures(load=123_456.0, need=120_000.0, hot=90_000.0, waiting=1234, p95_wait_s=12.3, looks=looks)
    verdict = rows.Verdict(word="crash_loop", title="cannot start", text="It fails.", said=HOSTILE[:300])
    told: dict[str, Any] = {"workers": {}, "waiting": 1, "oldest_wait_s": 1.0, "why": "", "spent_usd": 123.0}
    return rows.Standing(
        endpoint=name, state="active", usd_h=12.5, condition="short", verdict=verdict, figures=figures, **told
    )


def status(*standing: rows.Standing) -> rows.Status:
    return rows.Status(
        version="1",
        installation="abc",
        providers=[],
        default_provider="",
        endpoints=len(standing),
        uptime_s=90_000.0,
        troubles=[HOSTILE[:300]],
        usd_h=12.5,
        spent_usd=123.0,
        standing=list(standing),
        caps=[],
        gateway="",
    )


def test_it_fits_into_80_columns_and_loses_no_number() -> None:
    text = printed(*top.overview(status(standing("n" * 255, hot=12, loading=3, cold=5, failed=1), standing())))
    assert max(map(len, text.splitlines())) <= 80
    assert "123k" in text
    assert "12h 3l 5c 1f" in text
    assert "crash_loop" in text
    assert not {"\x1b", "\u202e", "\x07"} & set(text)


def test_bars_are_as_high_as_their_share() -> None:
    assert top.bars([0.0, 1.0, 50.0, 100.0], 100.0).strip(" ") == "▁▄█"
    assert top.bars([0.0, 0.0], 0.0).strip() == ""


class Enough(Exception):
    pass


def test_while_the_server_is_away_the_last_page_stays_and_then_it_goes_on() -> None:
    answers: list[Any] = [["first"], Unreachable("refused"), Unreachable("refused"), ["second"]]
    shown: list[list[Any]] = []

    def look() -> list[Any]:
        if not answers:
            raise Enough
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        found: list[Any] = answer
        return found

    with pytest.raises(Enough):
        top.watch(look, shown.append, lambda: None)
    assert shown[0] == ["first"]
    assert "no answer" in str(shown[1][0])
    assert [page[-1] for page in shown] == ["first", "first", "first", "second"]
    assert len(shown[3]) == 1


def test_a_server_that_never_answered_is_an_error() -> None:
    def look() -> list[Any]:
        raise Unreachable("refused")

    with pytest.raises(Unreachable):
        top.watch(look, print, lambda: None)

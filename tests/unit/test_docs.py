"""What the documents say is so: generated parts are current, links lead somewhere, commands exist."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import typer
from docs.generate import PARTS, PEERS, filled

from posthouse.cli import app
from posthouse.server.fastpath import ROUTES
from posthouse.server.policies import POLICIES
from tests.conftest import COLLECTED, GENERATIONS, Record

ROOT = Path(__file__).parents[2]
PREFIXES = {"exec", "time", "nohup"}
"""Words that a command may follow."""


def test_every_generated_part_is_in_one_page() -> None:
    found = [name for path in pages() for name in re.findall(r"^<!-- generated: (\w+) -->$", text(path), re.M)]
    assert sorted(found) == sorted(PARTS)


def test_generated_parts_are_as_they_would_be_generated_now() -> None:
    assert [path for path in pages() if text(path) != filled(text(path))] == [], "run `make docs`"


def test_every_relative_link_leads_somewhere() -> None:
    for path in pages():
        prose = re.sub(r"```.*?```|`[^`\n]*`", "", text(path), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            file, _, anchor = target.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            there = (path.parent / file).resolve() if file else path
            assert there.exists(), f"{path}: {target} is not there"
            if anchor:
                assert anchor in anchors(there), f"{path}: {target}: there is no such heading"


def test_every_posthouse_command_in_a_shell_block_exists() -> None:
    for path in pages():
        for block in re.findall(r"^ *```sh\n(.*?)^ *```", text(path), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                for words in calls(line):
                    check(words, path)


def test_the_record_of_peers_is_of_the_tests_as_they_are(request: pytest.FixtureRequest) -> None:
    tests = request.config.stash[COLLECTED]
    # A file that does not say the word marks no test with it.
    missing = {path for path in (ROOT / "tests").rglob("test_*.py") if "peer" in text(path)} - {t.path for t in tests}
    if missing:
        pytest.skip("NOT CHECKED: the record of peers, as only some of the tests were collected")
    shown, recorded = Record(PEERS, tests).rows(), json.loads(text(PEERS))
    assert {row["outcome"] for row in recorded["rows"]} == {"passed"}
    for row in recorded["rows"]:
        row.pop("ran", None)
    for row in shown:
        row["outcome"] = "passed"
    assert recorded == {"vastai": version("vastai"), "generations": GENERATIONS, "rows": shown}, "run `make peers`"


def test_a_call_of_peers_works_if_there_is_such_a_route() -> None:
    routes = {f"{method} {re.sub(r'{[^}]+}', '{id}', path)}" for method, path in [*POLICIES, *ROUTES]}
    for row in json.loads(text(PEERS))["rows"]:
        if not row["call"].startswith("worker: "):
            assert (row["call"].replace("/api/v0", "", 1) in routes or row["call"] in routes) is row["works"], row


@cache
def pages() -> list[Path]:
    """Those that are ours."""
    found: list[Path] = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "node_modules"]
        found += [Path(folder, name) for name in files if name.endswith(".md") and not name.startswith(".")]
    return sorted(found)


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text(path), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def calls(line: str) -> Iterator[list[str]]:
    """What each call of `posthouse` in a line of shell is given."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        words = list(lexer)
    except ValueError:  # a quotation that goes on in the next line
        words = line.split()
    command: list[str] = []
    for word in [*words, ";"]:
        if word and set(word) <= set("();<>|&"):
            while command and (command[0] in PREFIXES or re.match(r"\w+=", command[0])):
                command.pop(0)
            if command[1:3] == ["-m", "posthouse"]:
                command = command[2:]
            if command and command[0].rpartition("/")[2] == "posthouse":
                yield command[1:]
            command = []
        else:
            command.append(word)


@cache
def program() -> Any:
    return typer.main.get_command(app)


def check(words: list[str], path: Path = ROOT) -> None:
    """Fails if the words do not name a command, or give it an option that it does not have."""
    command = program()
    rest = list(words)
    while inner := getattr(command, "commands", None):
        if rest and rest[0].startswith("--"):
            break
        name = rest.pop(0) if rest else "nothing more"
        assert name in inner, f"{path}: posthouse {shlex.join(words)}: there is no such command"
        command = inner[name]
    options = {option for param in command.params for option in param.opts + param.secondary_opts} | {"--help"}
    rest = rest[: rest.index("--")] if "--" in rest else rest  # what follows is another program's
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert given <= options, f"{path}: posthouse {shlex.join(words)}: there is no {given - options}"


def test_the_check_of_commands_finds_what_is_wrong() -> None:
    line = """K=1 .venv/bin/posthouse request llm "a b" --stream | tee x; exec "$PYTHON" -m posthouse agent --upstream http://x"""
    assert list(calls(line)) == [["request", "llm", "a b", "--stream"], ["agent", "--upstream", "http://x"]]
    check(["endpoint", "create", "llm", "--max-workers", "4"])
    for wrong in (["endpoint"], ["endpoint", "make"], ["serve", "--prot", "80"]):
        with pytest.raises(AssertionError):
            check(wrong)

"""What the documents say is so: generated parts are current, links lead somewhere, commands exist."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from docs.generate import PARTS, PEERS, filled

from posthouse.cli import app
from posthouse.server.fastpath import ROUTES
from posthouse.server.policies import POLICIES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part == "node_modules" for part in path.relative_to(ROOT).parts)
)
PREFIXES = {"exec", "time", "nohup"}
"""Words that a command may follow."""

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def test_every_generated_part_is_in_one_page() -> None:
    found = [name for path in PAGES for name in re.findall(r"^<!-- generated: (\w+) -->$", text(path), re.M)]
    assert sorted(found) == sorted(PARTS)


@each_page
def test_generated_parts_are_as_they_would_be_generated_now(path: Path) -> None:
    assert text(path) == filled(text(path)), "run `make docs`"


@each_page
def test_every_relative_link_leads_somewhere(path: Path) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text(path), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(there), f"{target}: there is no such heading"


@each_page
def test_every_posthouse_command_in_a_shell_block_exists(path: Path) -> None:
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", text(path), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            for words in calls(line):
                check(words)


def test_the_record_of_peers_is_of_the_tests_as_they_are(tmp_path: Path) -> None:
    now = tmp_path / "now.json"
    options = ["--collect-only", "-p", "no:cacheprovider", "-m", "peer", f"--peers={now}"]
    # A file that does not say the word marks no test with it, and to collect all the others takes longest.
    files = sorted(str(path) for path in (ROOT / "tests").rglob("test_*.py") if "peer" in text(path))
    collect = [sys.executable, "-m", "pytest", *options, *files]
    collected = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, check=False, timeout=150)
    assert collected.returncode == 0, collected.stdout + collected.stderr
    shown, recorded = json.loads(text(now)), json.loads(text(PEERS))
    assert {row["outcome"] for row in recorded["rows"]} == {"passed"}
    for row in recorded["rows"]:
        row.pop("ran", None)
    for row in shown["rows"]:
        row["outcome"] = "passed"
    assert recorded == shown, "run `make peers`"


def test_a_call_of_peers_works_if_there_is_such_a_route() -> None:
    routes = {f"{method} {re.sub(r'{[^}]+}', '{id}', path)}" for method, path in [*POLICIES, *ROUTES]}
    for row in json.loads(text(PEERS))["rows"]:
        if not row["call"].startswith("worker: "):
            assert (row["call"].replace("/api/v0", "", 1) in routes or row["call"] in routes) is row["works"], row


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


def check(words: list[str]) -> None:
    """Fails if the words do not name a command, or give it an option that it does not have."""
    command = program()
    rest = list(words)
    while inner := getattr(command, "commands", None):
        if rest and rest[0].startswith("--"):
            break
        name = rest.pop(0) if rest else "nothing more"
        assert name in inner, f"posthouse {shlex.join(words)}: there is no such command"
        command = inner[name]
    options = {option for param in command.params for option in param.opts + param.secondary_opts} | {"--help"}
    rest = rest[: rest.index("--")] if "--" in rest else rest  # what follows is another program's
    given = {word.partition("=")[0] for word in rest if word.startswith("--")}
    assert given <= options, f"posthouse {shlex.join(words)}: there is no {given - options}"


def test_the_check_of_commands_finds_what_is_wrong() -> None:
    line = """K=1 .venv/bin/posthouse request llm "a b" --stream | tee x; exec "$PYTHON" -m posthouse agent --upstream http://x"""
    assert list(calls(line)) == [["request", "llm", "a b", "--stream"], ["agent", "--upstream", "http://x"]]
    check(["endpoint", "create", "llm", "--max-workers", "4"])
    for wrong in (["endpoint"], ["endpoint", "make"], ["serve", "--prot", "80"]):
        with pytest.raises(AssertionError):
            check(wrong)

"""How large a file, a class and a function of `src` may be; the pure core as a whole; a committed file."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "src" / "posthouse"
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
MAX_FILE, MAX_CLASS, MAX_FUNCTION = 400, 300, 60
"""In lines, with blank ones, comments and docstrings."""
CORE, MAX_CORE = ("domain", "policy", "fleet"), 4_911  # 2_900 in the end
MAX_COMMITTED_BYTES = 300_000
MAX_WORDS = 35
"""Of the glossary: our own words beside the field's."""


def modules() -> Iterator[Path]:
    """Every module whose size is a choice: migrations are written once and never read again."""
    return (path for path in sorted(SOURCE.rglob("*.py")) if "migrations" not in path.parts)


def lines(node: ast.AST) -> int:
    """How many lines it takes; of a function without its list of parameters, for that of a command is a table."""
    assert isinstance(node, ast.ClassDef | FUNCTIONS)
    first = node.lineno if isinstance(node, ast.ClassDef) else node.body[0].lineno
    return (node.end_lineno or 0) - first + 1


def is_table(node: ast.AST) -> bool:
    """Whether a function is a table: beside its docstring it has one statement, which is read row by row."""
    assert isinstance(node, FUNCTIONS)
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return len(body) == 1 and isinstance(body[0], ast.Return | ast.Expr)


def too_large(text: str, name: str) -> Iterator[str]:
    """What is too large in a module."""
    if (length := len(text.splitlines())) > MAX_FILE:
        yield f"{name}: {length} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and lines(node) > MAX_CLASS:
            yield f"{name}: class {node.name}: {lines(node)} lines"
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and lines(node) > MAX_FUNCTION
            and not is_table(node)
        ):
            yield f"{name}: {node.name}: {lines(node)} lines"


def test_no_file_no_class_and_no_function_is_too_large() -> None:
    found = [
        large
        for path in modules()
        for large in too_large(path.read_text(encoding="utf-8"), str(path.relative_to(SOURCE)))
    ]
    assert not found, "\n".join(found)


def test_the_pure_core_can_be_read_in_an_evening() -> None:
    core = {part: sum(_lines(path) for path in (SOURCE / part).rglob("*.py")) for part in CORE}
    assert sum(core.values()) <= MAX_CORE, core


def test_the_glossary_is_short() -> None:
    words = [
        line for line in (ROOT / "GLOSSARY.md").read_text(encoding="utf-8").splitlines() if line.startswith("| **")
    ]
    assert len(words) <= MAX_WORDS


def test_no_committed_file_is_large_but_the_lists_of_locked_packages() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not in a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name and not name.endswith(".lock")]
    large = {str(path): path.stat().st_size for path in files if path.exists()}
    large = {name: size for name, size in large.items() if size > MAX_COMMITTED_BYTES}
    assert not large, large


def test_the_measure_finds_what_is_too_large() -> None:
    body = "\n".join(f"    x = {n}" for n in range(MAX_FUNCTION + 1))
    assert list(too_large(f"def long():\n{body}\n", "a.py")) == ["a.py: long: 61 lines"]
    rows = "\n".join(f"        {n}," for n in range(MAX_FUNCTION))
    assert not list(too_large(f"def table():\n    return [\n{rows}\n    ]\n", "a.py"))
    many = "\n\n".join(f"    def f{n}(self): ..." for n in range(150))
    assert list(too_large(f"class Large:\n{many}\n", "a.py")) == []
    more = "\n\n".join(f"    def f{n}(self): ..." for n in range(151))
    assert list(too_large(f"class Large:\n{more}\n", "a.py")) == ["a.py: class Large: 302 lines"]
    assert list(too_large("\n" * 401, "a.py")) == ["a.py: 401 lines"]


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())

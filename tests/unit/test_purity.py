"""What the pure core may import: an allow-list, so that nothing gets in unseen."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent.parent / "src" / "posthouse"
CORE = ("domain", "policy", "fleet")
ALLOWED = {
    *("abc", "bisect", "collections", "dataclasses", "enum", "functools", "heapq", "itertools", "math", "operator"),
    *("array", "statistics", "types", "typing"),
    *("msgspec", "numpy"),
    *(f"posthouse.{part}" for part in (*CORE, "errors")),
}
"""No clock, no socket, no randomness, no file; of libraries numpy, and msgspec for values that each request makes."""


def imported(text: str) -> Iterator[str]:
    """Every module that the text imports, as far as the list tells them apart."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            names = [node.module or ""] if node.module != "posthouse" else [f"posthouse.{a.name}" for a in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            yield ".".join(parts[:2]) if parts[0] == "posthouse" else parts[0]


@pytest.mark.parametrize("part", CORE)
def test_the_pure_core_imports_nothing_but_what_is_listed(part: str) -> None:
    for path in sorted((SOURCE / part).rglob("*.py")):
        assert set(imported(path.read_text(encoding="utf-8"))) <= ALLOWED, path


def test_the_check_finds_what_is_not_listed() -> None:
    text = "import os.path\nfrom time import time\nfrom posthouse import ports\nfrom posthouse.domain.worker import W\n"
    assert list(imported(text)) == ["os", "time", "posthouse.ports", "posthouse.domain"]
    assert set(imported(text)) - ALLOWED == {"os", "time", "posthouse.ports"}
    assert list(imported("def f():\n    import zlib\n")) == ["zlib"]

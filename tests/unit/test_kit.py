"""What tests share: `tests/kit`, and beside it what one folder alone needs."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def imported(path: Path) -> Iterator[str]:
    """Every module, and every name of one, that a module imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_test(name: str) -> bool:
    """Whether a name, as it is imported, is that of a test module or of something in one."""
    return name.startswith("tests.") and any(part.startswith("test_") for part in name.split("."))


def test_no_module_imports_a_test_module() -> None:
    assert is_test("tests.unit.test_fleet.worker")
    assert not is_test("tests.kit.fleets.worker")
    modules = [path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    found = [f"{path.relative_to(ROOT)}: {name}" for path in modules for name in imported(path) if is_test(name)]
    assert not found, found


def test_the_kit_needs_no_folder_of_tests() -> None:
    found = [
        f"{path.name}: {name}"
        for path in (ROOT / "tests" / "kit").glob("*.py")
        for name in imported(path)
        if name.startswith("tests.") and not name.startswith("tests.kit.")
    ]
    assert not found, found

"""What tests share: `tests/kit`, and beside it what one folder alone needs."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


TEST = re.compile(
    r"^ *(from|import) tests\.(\w+\.)*test_|^ *from tests[\w.]* import (\([^)]*|[^(\n]*)\btest_\w", re.MULTILINE
)
"""How a test module, or something in one, is imported."""


def test_no_module_imports_a_test_module() -> None:
    for text in ("from tests.unit.test_fleet import x", "import tests.a.test_b", "from tests.a import (b,\n test_c)"):
        assert TEST.search(text)
    assert not TEST.search("from tests.kit.fleets import worker\nfrom tests.kit import (a, b)\ntest_c = 1")
    modules = [path for folder in ("src", "tests", "benchmarks", "docs") for path in (ROOT / folder).rglob("*.py")]
    found = [path for path in modules if TEST.search(path.read_text(encoding="utf-8"))]
    assert not found, found


def test_the_kit_needs_no_folder_of_tests() -> None:
    found = [
        f"{path.name}: {name}"
        for path in (ROOT / "tests" / "kit").glob("*.py")
        for name in re.findall(r"^ *(?:from|import) (tests\..*)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if not name.startswith("tests.kit")
    ]
    assert not found, found

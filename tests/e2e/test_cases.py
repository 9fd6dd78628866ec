"""Programs that show a fault, from the folder that CASES names, each against a server of its own: all say `ok`.

`tests/cases.py` says what a program is. None is kept here; without the folder they are skipped.
"""

import os
from pathlib import Path

import pytest

from tests import cases
from tests.kit.marks import long

FOLDER = Path(os.environ.get("CASES", "/nowhere"))
QUICK = frozenset({"b03", "b15", "b21", "b29", "b31", "b35", "b37", "b40", "b41"})
"""Those that take a few seconds."""


@pytest.mark.skipif(not FOLDER.is_dir(), reason="NOT RUN: CASES names no folder with programs that show a fault")
@pytest.mark.parametrize("name", [n if n.partition("_")[0] in QUICK else long(n) for n in cases.names(FOLDER)])
def test_a_program_that_shows_a_fault_finds_none(name: str) -> None:
    assert cases.run(FOLDER / f"{name}.py")

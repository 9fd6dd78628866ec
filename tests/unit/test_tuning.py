"""Every number of ours that shapes a decision is in one place, and there are few."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from posthouse.policy.tuning import Tuning

SOURCE = Path(__file__).parent.parent.parent / "src" / "posthouse"
MAX_SIZE_NUMBERS, MAX_FAULT_NUMBERS = 15, 8
FIRST_OF_FAULTS = "backoff_s"
OTHERS = {
    # Exactness of arithmetic, and ties.
    "policy/headroom.py": {"WIDEST"},
    # Which of several workers a request goes to.
    "policy/route.py": {"IN_SERVICE_SHARE", "WARM_SHARE"},
    # An estimate's quantile, and how many machines are remembered.
    "fleet/load.py": {"SERVICE_RANK"},
    "fleet/estimator.py": {"MAX_MACHINES"},
    # What is believed of a client's word on one request; what workers do of late moves it by itself.
    "fleet/claims.py": {"BEYOND", "FORGETS", "LEARNED"},
    "fleet/requests.py": {"UNSEEN_S", "UNSEEN_WORK_S"},
    # How often there is a round, and what is written down.
    "fleet/controller.py": {"MIN_GAP_S", "PHASE_SPREAD", "QUIET_S", "STORY"},
    # How a new version is compared with the old one.
    "policy/trial.py": {
        "CANARY_SHARE",
        "HELD_BACK_S",
        "REQUESTS",
        "UNASKED",
        "TRIES",
        "SIGMAS",
        "ERROR_SHARE",
        "SLOW_SHARE",
    },
    # How long a state may last.
    "domain/lifecycle.py": {"MAX_PROGRESS_FACTOR"},
    # When what a worker says of itself is disproved: of an honest one it never is.
    "fleet/throughput.py": {"CROWD", "QUEUES"},
}
"""Numbers of modules that decide, which change no size. Add none that does."""
REMEMBERED = ("KEPT", "_DRAIN_S", "MAX_", "MIN_GROWTH_GB", "UNCLEAR_S", "HOLDS_APART_S")
"""Of the fleet: how long what is open is remembered, and how much. They follow from the protocol's own times."""
SHOWN = ("fleet/history.py", "fleet/ledger.py", "fleet/worker_stats.py")
"""What is remembered to be shown, not to decide."""


def _numbers(path: Path) -> Iterator[str]:
    """Names of numeric constants of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if value is None or not isinstance(target, ast.Name | ast.Tuple):
            continue
        leaves = [n.value for n in ast.walk(value) if isinstance(n, ast.Constant)]
        constant = isinstance(value, ast.Constant | ast.BinOp | ast.UnaryOp | ast.Tuple)
        if constant and leaves and all(isinstance(leaf, int | float) for leaf in leaves):
            yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))


def test_there_are_at_most_fifteen_numbers_for_sizes_and_eight_for_faults() -> None:
    names = [field.name for field in fields(Tuning)]
    first = names.index(FIRST_OF_FAULTS)
    assert len(names[:first]) <= MAX_SIZE_NUMBERS
    assert len(names[first:]) <= MAX_FAULT_NUMBERS


def test_no_other_module_that_decides_has_a_number_of_its_own() -> None:
    found = set()
    for path in [*(SOURCE / "policy").glob("*.py"), *(SOURCE / "fleet").glob("*.py"), SOURCE / "domain/lifecycle.py"]:
        name = str(path.relative_to(SOURCE))
        for number in _numbers(path):
            kept = name in SHOWN or (name.startswith("fleet/") and any(word in number for word in REMEMBERED))
            if number not in OTHERS.get(name, ()) and not kept:
                found.add(f"{name}: {number}")
    assert not found, sorted(found)


def test_each_number_has_a_unit_a_meaning_and_a_source() -> None:
    body = ast.parse((SOURCE / "policy/tuning.py").read_text(encoding="utf-8")).body
    table = next(node for node in body if isinstance(node, ast.ClassDef))
    said = {}
    for number, text in zip(table.body, table.body[1:], strict=False):
        if isinstance(number, ast.AnnAssign) and isinstance(number.target, ast.Name) and isinstance(text, ast.Expr):
            said[number.target.id] = ast.unparse(text).strip("'\"").split("; ")
    assert set(said) == {field.name for field in fields(Tuning)}
    assert all(len(parts) == 3 and all(parts) for parts in said.values()), said

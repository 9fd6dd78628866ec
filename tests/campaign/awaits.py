"""Every place where the engine waits: at each of them the server may die."""

import ast
import asyncio
import importlib
import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

CHANGES = ("management.endpoints", "management.workergroups", "management.templates")
MODULES = ("hub", "loop", "executor", "observer", *CHANGES)
"""Of the engine, those whose parts live in the campaign."""


@dataclass(frozen=True, slots=True)
class Await:
    """A place where a coroutine can be suspended. As text, what the record calls it."""

    module: str
    function: str
    text: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} {self.function}: {self.text}"


def _places(module: str) -> Iterator[tuple[Await, int]]:
    """Each with its last line."""
    loaded = importlib.import_module(f"posthouse.engine.{module}")
    source, file = inspect.getsource(loaded), str(loaded.__file__)
    lines = source.splitlines()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.AsyncWith):
                # To enter the context of a timeout is no wait.
                entered = [ast.unparse(item.context_expr) for item in node.items]
                if all(text.startswith("asyncio.timeout") for text in entered):
                    continue
                last = node.items[-1].context_expr.end_lineno
            elif isinstance(node, ast.Await | ast.AsyncFor):
                last = node.end_lineno
            else:
                continue
            yield Await(module, function.name, lines[node.lineno - 1].strip(), file, node.lineno), last or node.lineno


_AT = {
    # Of two on one line the outer: it is suspended as long as the inner one is.
    (place.file, line): place
    for module in MODULES
    for place, last in reversed(list(_places(module)))
    for line in range(place.line, last + 1)
}
AWAITS: tuple[Await, ...] = tuple(sorted(set(_AT.values()), key=lambda place: (place.module, place.line)))


def suspended(tasks: Iterable["asyncio.Task[Any]"]) -> set[Await]:
    """Where these tasks wait, with all that waits for it within each."""
    found = set()
    for task in tasks:
        work: Any = task.get_coro()
        while (frame := getattr(work, "cr_frame", None)) is not None:
            place = _AT.get((frame.f_code.co_filename, frame.f_lineno))
            if place is not None:
                found.add(place)
            work = work.cr_await
    return found

"""Modules that are dear to import: each of the runner's processes collects every test, and runs few of them."""

from importlib import import_module
from typing import Any


class Later:
    """A module that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest asks everything that it finds for such
            raise AttributeError(name)
        return getattr(import_module(self._name), name)

"""A parameter of a recipe: what it is, and what it may be."""

import json
import os
import re
from typing import Final, Literal

from msgspec import Struct

from posthouse.errors import BadRequest

_MODEL: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95}){0,2}(:[\w.-]{1,64})?", re.ASCII)
_WORD: Final = re.compile(r"[^\s\"'\\`$]{1,255}")
_FLAGS: Final = re.compile(r"[^\n\"'\\`$*?\[\]]{0,1000}")
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Parameter(Struct, frozen=True, forbid_unknown_fields=True):
    """A parameter of a recipe. A worker finds it in its environment, under its name in capitals."""

    help: str
    kind: Literal["file", "model", "whole", "number", "choice", "word", "flags", "json"]
    """
    file      the path of a file where the workers are
    model     a name at a hub, like ORG/NAME, or the absolute path of a file or a folder where the workers are
    word      a text without blanks, quotes, \\ and $
    flags     further arguments of the engine, parted by blanks
    json      a JSON object
    """
    default: str | int | float | None = None
    """None: it must be given. The empty text: it is left to the engine."""
    least: float = 1
    most: float = 2**31
    choices: tuple[str, ...] = ()
    begins: str = ""
    """What a file begins with."""

    @property
    def required(self) -> bool:
        return self.default is None

    @property
    def allowed(self) -> str:
        """The values that it may have, in words."""
        match self.kind:
            case "whole":
                return f"a whole number from {self.least:.10g} to {self.most:.10g}"
            case "number":
                return f"a number from {self.least:.10g} to {self.most:.10g}"
            case "choice":
                return f"one of {', '.join(self.choices)}"
            case "model":
                return "like ORG/NAME, or an absolute path"
            case "word":
                return "text without blanks, quotes, \\ and $"
            case "flags":
                return "arguments parted by blanks, without quotes, \\, $, *, ? and brackets"
            case "json":
                return "a JSON object"
        return "the path of a file"

    def checked(self, name: str, said: str, force: bool) -> str:
        """The value as the environment has it. `force`: a file need not be here. Raises: BadRequest."""
        if said == "" and self.default == "":
            return ""
        if self.kind == "file":
            path = os.path.abspath(said)
            if not said or not (force or os.path.isfile(path)):
                raise BadRequest(f"{name}: there is no file {said[:255]!r}; --force takes it as a path at the workers")
            if self.begins and not force and not self._is_one(path):
                raise BadRequest(f"{name}: must be {self.help}, and {said[:255]!r} does not begin with {self.begins}")
            return path
        if not self._fits(said):
            raise BadRequest(f"{name}: must be {self.allowed}, not {said[:80]!r}")
        return said

    def _is_one(self, path: str) -> bool:
        try:
            with open(path, "rb") as file:
                return file.read(len(self.begins)) == self.begins.encode()
        except OSError:
            return True  # that of another user, or gone: the worker says so

    def _fits(self, said: str) -> bool:
        match self.kind:
            case "whole":
                digits = said.isascii() and said.isdigit() and len(said) < 20
                return digits and self.least <= int(said) <= self.most
            case "number":
                return bool(_NUMBER.fullmatch(said)) and self.least <= float(said) <= self.most
            case "choice":
                return said in self.choices
            case "model":
                return bool(_MODEL.fullmatch(said) or (os.path.isabs(said) and _WORD.fullmatch(said)))
            case "flags":
                return bool(_FLAGS.fullmatch(said))
            case "json":
                return _is_object(said)
        return bool(_WORD.fullmatch(said))


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False

"""A value of a manifest that knows where it stands, so that a refusal can say it."""

from dataclasses import dataclass
from typing import Any

from posthouse.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Value:
    """A value, and where it stands."""

    plain: Any
    """Text, a number, true, false, None; a dict or a list of `Value`."""
    path: str = ""
    file: str = ""
    """Empty: it came by HTTP."""
    line: int = 0

    @classmethod
    def of(cls, plain: Any, path: str = "") -> "Value":
        """What JSON says."""
        if isinstance(plain, dict):
            plain = {name: cls.of(one, f"{path}.{name}" if path else name) for name, one in plain.items()}
        elif isinstance(plain, list):
            plain = [cls.of(one, f"{path}[{number}]") for number, one in enumerate(plain)]
        return cls(plain, path)

    def bare(self) -> Any:
        """The same as JSON has it."""
        if isinstance(self.plain, dict):
            return {name: one.bare() for name, one in self.plain.items()}
        return [one.bare() for one in self.plain] if isinstance(self.plain, list) else self.plain

    def other(self, plain: Any, field: str = "") -> "Value":
        """Another value in the same place, or of a field that is not there."""
        return Value(plain, f"{self.path}.{field}" if field else self.path, self.file, self.line)

    def wrong(self, why: str) -> BadRequest:
        """The refusal of this value."""
        return self.refused(f"{self.path}: {why}" if self.path else why)

    def refused(self, text: str) -> BadRequest:
        """A refusal that says itself which field it is about."""
        return BadRequest(f"{self.file}:{self.line}: {text}" if self.file else text)

    def at(self, text: str) -> BadRequest:
        """A refusal that begins with the path of a value in here, in its place."""
        inner: list[Value] = [*self.plain.values()] if isinstance(self.plain, dict) else []
        for one in self.plain if isinstance(self.plain, list) else inner:
            if text.startswith(one.path) and text[len(one.path) : len(one.path) + 1] in (":", ".", "["):
                return one.at(text)
        return self.refused(text)

    def mapping(self) -> "dict[str, Value]":
        """Raises: BadRequest where it is no mapping."""
        if not isinstance(self.plain, dict):
            raise self.wrong(f"must be fields with values, not {self.shown}")
        return self.plain

    def items(self) -> "list[Value]":
        """Raises: BadRequest where it is no list."""
        if not isinstance(self.plain, list):
            raise self.wrong(f"must be a list, not {self.shown}")
        return self.plain

    def text(self) -> str:
        """A text, or a number as text. Raises: BadRequest where it is neither."""
        if isinstance(self.plain, bool) or not isinstance(self.plain, str | int | float):
            raise self.wrong(f"must be text, not {self.shown}")
        return str(self.plain)

    def number(self) -> float:
        """Raises: BadRequest where it is no number."""
        if isinstance(self.plain, bool) or not isinstance(self.plain, int | float):
            raise self.wrong(f"must be a number, not {self.shown}")
        return self.plain

    @property
    def shown(self) -> str:
        """What it is, in a few words."""
        match self.plain:
            case None:
                return "nothing"
            case dict():
                return "fields"
            case list():
                return "a list"
            case bool():
                return "true" if self.plain else "false"
        text = repr(self.plain)
        return text if len(text) <= 60 else f"{text[:57]}..."

"""YAML from outside: values that know in which line they stand, or a refusal that names the line."""

from collections.abc import Iterator
from typing import Any, Final

import yaml

from posthouse.errors import BadRequest
from posthouse.manifest.value import Value

MAX_TEXT: Final = 2**20
"""Longest file, in characters."""
_MAX_NODES: Final = 20_000  # an alias counts as all that it stands for
_MAX_DEPTH: Final = 20
_SCALARS: Final = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")}


def documents(text: str, file: str) -> list[Value]:
    """The documents of a file in YAML, without empty ones. Raises: BadRequest with the line."""
    if len(text) > MAX_TEXT:
        raise BadRequest(f"{file}: has {len(text)} characters, at most {MAX_TEXT} are allowed")
    try:
        nodes = [node for node in _composed(text) if node is not None]
        walk = _Walk(file)
        found = [walk.value(node, "", 0) for node in nodes]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise BadRequest(f"{file}{line}: is not YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
        raise BadRequest(f"{file}: is not YAML that can be read: {why}") from None
    return [value for value in found if value.plain is not None]


def _composed(text: str) -> Iterator[Any]:
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            yield loader.get_node()
    finally:
        loader.dispose()


class _Walk:
    """Turns nodes into values, no more of them than a file may have."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._left = _MAX_NODES

    def value(self, node: yaml.Node, path: str, depth: int) -> Value:
        line = node.start_mark.line + 1
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            raise BadRequest(f"{self._file}:{line}: {path}: has too many values, or is nested too deep")
        plain: Any
        if isinstance(node, yaml.MappingNode):
            plain = self._mapping(node, path, depth)
        elif isinstance(node, yaml.SequenceNode):
            plain = [self.value(item, f"{path}[{number}]", depth + 1) for number, item in enumerate(node.value)]
        else:
            plain = self._scalar(node, path, line)
        return Value(plain, path, self._file, line)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key, item in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or not key.value or key.value == "<<":
                raise BadRequest(f"{self._file}:{line}: {path}: the name of a field must be text")
            if key.value in found:
                raise BadRequest(f"{self._file}:{line}: {path}: {key.value} is there twice")
            value = self.value(item, f"{path}.{key.value}" if path else key.value, depth + 1)
            # What is wrong with a field is told by the line of its name.
            found[key.value] = Value(value.plain, value.path, self._file, line)
        return found

    def _scalar(self, node: yaml.Node, path: str, line: int) -> Any:
        if node.tag not in _SCALARS:
            raise BadRequest(f"{self._file}:{line}: {path}: the tag {node.tag[:80]} is not allowed")
        if node.tag.endswith(("str", "timestamp")):
            return node.value
        constructor = yaml.constructor.SafeConstructor()
        return constructor.construct_object(node)

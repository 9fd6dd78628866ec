"""A template's environment and ports, as the docker flags in which the protocol writes them."""

import re
import shlex
from collections.abc import Mapping

from posthouse.errors import BadRequest

MAX_TEXT = 16_384
"""Longest text, in characters. Our choice; real ones are below 2,000."""
MAX_VARIABLES = 256
"""Most variables, and most ports. Our choice."""

_VARIABLE_FLAGS = ("-e", "--env")
_PORT_FLAGS = ("-p", "--publish")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORT = re.compile(r"(?:([0-9]{1,5}):)?([0-9]{1,5})(?:/tcp)?")


def parse_env(env: str | Mapping[str, object]) -> tuple[dict[str, str], tuple[int, ...]]:
    """The variables and the ports inside the instance that `env` states, in its order; a later variable wins.

    `env` is `-e NAME=VALUE -p 3000:3000` (also `--env`, `--publish`, and a flag joined to its value by `=`), quoted as
    for a shell, which never sees it; or an object `{"NAME": "VALUE", "-p 3000:3000": "1"}`. The outer one of two ports
    says nothing: where a port is reached is up to the provider.
    Raises: BadRequest, which names the flag and what is allowed.
    """
    variables: dict[str, str] = {}
    ports: dict[int, None] = {}
    words = iter(_words(env_text(env)))
    for word in words:
        flag, joined, value = word.partition("=")
        if flag not in _VARIABLE_FLAGS + _PORT_FLAGS:
            raise BadRequest(f"env: unknown flag {_shown(word)}; allowed are -e NAME=VALUE and -p PORT:PORT")
        if not joined and (value := next(words, "")) == "":
            raise BadRequest(f"env: {flag} at the end has no value")
        if flag in _VARIABLE_FLAGS:
            name, said, text = value.partition("=")
            if not said or not _NAME.fullmatch(name):
                raise BadRequest(
                    f"env: {flag} {_shown(value)} must be NAME=VALUE, with letters, digits and _ in the name"
                )
            variables[name] = text
        else:
            ports[_port(flag, value)] = None
    if max(len(variables), len(ports)) > MAX_VARIABLES:
        raise BadRequest(f"env: has {len(variables)} variables and {len(ports)} ports, at most {MAX_VARIABLES} each")
    return variables, tuple(ports)


def env_text(env: str | Mapping[str, object]) -> str:
    """`env` as text, whichever of the two forms it has. Raises: BadRequest."""
    if isinstance(env, Mapping):
        words: list[str] = []
        for name, value in env.items():
            if not isinstance(value, str):
                raise BadRequest(f"env: {_shown(name)} must have text as its value")
            words += name.split(maxsplit=1) if name.startswith("-") else ["-e", f"{name}={value}"]
        env = shlex.join(words)
    if not isinstance(env, str):
        raise BadRequest("env: must be text or an object of texts")
    if len(env) > MAX_TEXT:
        raise BadRequest(f"env: has {len(env)} characters, at most {MAX_TEXT} are allowed")
    if "\0" in env:
        raise BadRequest("env: must not contain the character NUL")
    return env


def without_values(env: str) -> str:
    """The same with `***` for the value of each variable: these may be secrets."""
    variables, ports = parse_env(env)
    words = [word for name in variables for word in ("-e", f"{name}=***")]
    return " ".join([*words, *(word for port in ports for word in ("-p", f"{port}:{port}"))])


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BadRequest(f"env: {str(error).lower()}") from None


def _port(flag: str, value: str) -> int:
    match = _PORT.fullmatch(value)
    if match is None or not all(0 < int(port) < 65_536 for port in match.groups() if port is not None):
        raise BadRequest(f"env: {flag} {_shown(value)} must be PORT:PORT, each from 1 to 65535, tcp only")
    return int(match[2])


def _shown(text: str) -> str:
    """The beginning of `text`, quoted, without what may be a secret: the value of a variable."""
    text = text.partition("=")[0]
    return repr(text if len(text) <= 40 else f"{text[:37]}...")

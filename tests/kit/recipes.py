"""What a recipe starts, found by running its script where every program that it calls is a stand-in."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from posthouse.agent.settings import AgentSettings
from posthouse.cli import main
from posthouse.recipes import recipe
from posthouse.wire.env import parse_env

# Runs modules of the recipes, and notes what an agent is started with in place of one.
PYTHON = """#!/bin/sh
case "$2" in
posthouse) exec {python} -c '
import json, os, sys
json.dump([sys.argv[1:], dict(os.environ)], open("agent", "w"))' "$@" ;;
esac
exec {python} "$@"
"""
WORKER = {
    "CONTAINER_ID": "7",
    "MASTER_TOKEN": "token",
    "REPORT_ADDR": "http://127.0.0.1:9",
    "PUBLIC_IPADDR": "127.0.0.1",
    "VAST_TCP_PORT_3000": "3000",
    "WORKER_PORT": "3000",
    "WORKER_HTTP_PORT": "28000",
    "MODEL_PORT": "28001",
    "MODEL_LOG": "model.log",
}


@dataclass(frozen=True)
class Started:
    settings: AgentSettings
    environment: dict[str, str]
    """Of the model server."""


def given(name: str, folder: Path) -> dict[str, str]:
    """Parameters that a recipe must be given."""
    file = folder / "it's a model"
    file.write_bytes(b"GGUF")
    values = {"file": str(file), "model": "ORG/NAME", "word": "horse.safetensors"}
    return {key: values[parameter.kind] for key, parameter in recipe(name).parameters.items() if parameter.required}


def started(name: str, given: Mapping[str, str], folder: Path, shell: str = "sh") -> Started:
    """What the script of a recipe starts in `folder`."""
    python = folder / "python"
    python.write_text(PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    (folder / "comfyui").mkdir(exist_ok=True)
    (folder / "comfyui" / "installed").touch()
    fields = recipe(name).template(given, endpoint="chat")
    env = {
        **WORKER,
        **parse_env(fields["env"])[0],
        "PATH": os.environ["PATH"],
        "PYTHON": str(python),
        "TMPDIR": str(folder),
        "SPEACHES_HOME": str(folder),
    }
    subprocess.run([shell, "-c", fields["onstart"]], env=env, cwd=folder, check=True)
    arguments, environment = json.loads((folder / "agent").read_text())
    assert arguments[:3] == ["-m", "posthouse", "agent"]
    with _captured(environment) as settings:
        assert main(arguments[2:]) == 0, arguments
    return Started(settings[0], environment)


@contextmanager
def _captured(environment: Mapping[str, str]) -> Iterator[list[AgentSettings]]:
    found: list[AgentSettings] = []

    async def run(settings: AgentSettings) -> Any:
        found.append(settings)
        await asyncio.sleep(0)

    with mock.patch("posthouse.agent.run", run), mock.patch.dict(os.environ, environment, clear=True):
        yield found

"""The templates among the examples can be used as they are."""

import json
import subprocess
from pathlib import Path

import pytest

from posthouse.wire.env import parse_env

TEMPLATES = sorted((Path(__file__).parents[2] / "examples").glob("*/template.json"))
ONSTART_LIMIT = 4048  # characters, on the marketplace of the protocol


def test_there_are_templates() -> None:
    assert {path.parent.name for path in TEMPLATES} >= {"demo-llm", "ocr"}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.parent.name)
def test_a_template_publishes_the_agents_port_and_its_script_is_sound(path: Path) -> None:
    template = json.loads(path.read_text(encoding="utf-8"))
    assert template["name"] == path.parent.name
    variables, ports = parse_env(template["env"])
    assert ports == (3000,)
    assert all(f"${name}" in template["onstart"] for name in variables)
    assert len(template["onstart"]) <= ONSTART_LIMIT
    subprocess.run(["bash", "-n"], input=template["onstart"], text=True, check=True)

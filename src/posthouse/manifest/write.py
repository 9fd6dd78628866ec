"""Writes manifests as YAML."""

from collections.abc import Iterable, Mapping
from typing import Any

import yaml


def dumped(manifests: Iterable[Mapping[str, Any]], head: str = "") -> str:
    """The manifests as a file in YAML, after the comment `head`."""
    texts = [
        yaml.dump(dict(one), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
        for one in manifests
    ]
    return head + "---\n".join(texts)


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = "\n" in text and all(char.isprintable() or char == "\n" for char in text)
    style = "|" if plain and not any(line.endswith(" ") for line in text.split("\n")) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)

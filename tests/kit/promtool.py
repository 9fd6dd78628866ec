"""Prometheus' own tools, where they are installed: Debian's package `prometheus` has both."""

import shutil
import subprocess

import pytest

WHY = "needs `promtool` and `prometheus` on PATH: apt-get install prometheus"
needs_prometheus = pytest.mark.skipif(not (shutil.which("promtool") and shutil.which("prometheus")), reason=WHY)


def promtool(*words: str, said: bytes = b"") -> str:
    """What it says; an assertion fails where it is not content."""
    done = subprocess.run(["promtool", *words], input=said, capture_output=True, check=False, timeout=60)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    return text

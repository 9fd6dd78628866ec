"""Prometheus' own tools, where they are installed: Debian's package `prometheus` has both."""

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring.dashboards import FOLDER

from tests.kit.ports import free_port
from tests.kit.site import TIMEOUT_S

WHY = "needs `promtool` and `prometheus` on PATH: apt-get install prometheus"
needs_prometheus = pytest.mark.skipif(not (shutil.which("promtool") and shutil.which("prometheus")), reason=WHY)


def promtool(*words: str, said: bytes = b"") -> str:
    """What it says; an assertion fails where it is not content."""
    done = subprocess.run(["promtool", *words], input=said, capture_output=True, check=False, timeout=60)
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, text
    return text


@contextmanager
def prometheus(folder: Path, key: str, *targets: str) -> Iterator[str]:
    """A Prometheus that reads the targets each second, with our alerts; its address."""
    port, jobs = free_port(), []
    (folder / "key").write_text(key)
    for number, target in enumerate(targets):
        jobs.append(
            {
                "job_name": f"posthouse{number or ''}",
                "authorization": {"credentials_file": str(folder / "key")},
                "static_configs": [{"targets": [urllib.parse.urlsplit(target).netloc]}],
            }
        )
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(yaml.safe_dump({**config, "rule_files": [str(FOLDER / "alerts.yml")]}))
    argv = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(TIMEOUT_S)


def asked(url: str, path: str, **query: str) -> Any:
    address = f"{url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:
        return json.load(answer)["data"]


def scraped(url: str) -> bool:
    try:
        targets = asked(url, "targets")["activeTargets"]
    except OSError:
        return False
    assert not [target["lastError"] for target in targets if target["lastError"]]
    return bool(targets) and all(target["health"] == "up" for target in targets)

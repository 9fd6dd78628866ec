"""`posthouse up`, `apply`, `diff`, `export` and `delete` on a real server, with a worker that answers."""

import io
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import pytest

from posthouse.cli import main
from tests.kit.site import Site, until

NONE = ("--max-workers", "0", "--cold-workers", "0")
"""Options of an endpoint that gets no worker."""
DEMO = """
endpoint: demo
scaling: {min_load: 0, cold_workers: 0, max_workers: 2}
recipe: demo-llm
parameters: {load_s: 0, tokens_per_s: 1000}
workergroups:
- {}
- {provider: process, search: num_gpus=0}
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Quick(Site):
    """Runs commands in this process, which begins sooner than one of their own."""

    stdin: type[io.StringIO] = io.StringIO

    def run(self, *argv: str, text: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            redirect_stdout(out),
            redirect_stderr(err),
            chdir(self.directory),
            mock.patch.dict(os.environ, self.environ | environ, clear=True),
            mock.patch("sys.stdin", self.stdin(text or "")),
        ):
            code = main(argv)
        return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quick]:
    site = Quick(tmp_path_factory.mktemp("site"))
    site.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    try:
        site.start()
        yield site
    finally:
        site.clear()


def changes(site: Site, file: str) -> list[str]:
    """What `diff` tells of a file."""
    done = site.run("diff", "-f", file, "--json")
    told = [f"{change['how']} {change['what']}" for one in json.loads(done.stdout) for change in one["changes"]]
    assert done.returncode == bool(told), done.stderr
    return told


def test_a_file_is_applied_and_what_drifts_is_shown_and_mended(site: Site) -> None:
    file = site.directory / "demo.yaml"
    file.write_text(DEMO)
    asked = site.run("apply", "-f", "demo.yaml")
    assert (asked.returncode, "--yes: is needed" in asked.stderr) == (2, True)
    assert "+ endpoint demo\n" in asked.stdout
    assert "at most: $0 an hour: 2 workers" in asked.stdout
    assert changes(site, "demo.yaml") == [
        "create template demo",
        "create endpoint demo",
        "create workergroup of the default provider",
        "create workergroup of process",
    ]
    done = site.run("apply", "-f", "demo.yaml", "--yes")
    assert done.returncode == 0, done.stderr
    assert site.run("apply", "-f", "demo.yaml", "--yes").stdout == "nothing to do\n"
    assert changes(site, "demo.yaml") == []
    answer = site.run("request", "demo", "hello", "--max-new-tokens", "3")
    assert answer.returncode == 0, answer.stderr

    site.json("endpoint", "update", "demo", "--max-workers", "3")
    site.json("template", "update", "demo", "--env", "-p 3000:3000 -e TOKENS_PER_S=1")
    [group, _] = site.json("workergroup", "list")
    site.json("workergroup", "delete", str(group["id"]))
    drift = site.run("diff", "-f", "demo.yaml")
    assert drift.returncode == 1
    assert "    max_workers: 3 -> 2\n" in drift.stdout
    assert "    env.TOKENS_PER_S: '1' -> '1000'\n" in drift.stdout
    assert "+ workergroup of the default provider\n" in drift.stdout
    assert site.run("apply", "-f", "-", "--yes", text=DEMO).returncode == 0
    assert changes(site, "demo.yaml") == []

    exported = site.run("export", "demo").stdout
    (site.directory / "exported.yaml").write_text(exported)
    assert changes(site, "exported.yaml") == []


def test_who_sits_at_a_terminal_is_asked(site: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    none = "endpoint: asked\nscaling: {max_workers: 0, cold_workers: 0}\ntemplate: {}\n"
    (site.directory / "asked.yaml").write_text(none)
    monkeypatch.setattr(site, "stdin", Terminal)
    refused = site.run("apply", "-f", "asked.yaml", text="n\n")
    assert refused.returncode == 130
    assert "Apply? [y/N]" in refused.stdout
    assert len(changes(site, "asked.yaml")) == 3
    assert site.run("apply", "-f", "asked.yaml", text="y\n").returncode == 0
    assert changes(site, "asked.yaml") == []
    assert site.run("delete", "-f", "asked.yaml", text="y\n").returncode == 0
    assert len(changes(site, "asked.yaml")) == 3


def test_what_is_wrong_begins_nothing_and_what_was_half_done_is_ended(site: Site) -> None:
    site.json("template", "create", "--name", "taken", "--desc", "of another", "--env", "-p 3000:3000")
    site.json("endpoint", "create", "other", "--template", "taken", *NONE)
    before = site.run("export", "other").stdout
    file = site.directory / "two.yaml"
    wrong = "endpoint: other\ntemplate: taken\nscaling: {max_workers: 1}\n---\nendpoint: fine\ntemplate: nowhere\n"
    file.write_text(wrong)
    refused = site.run("apply", "-f", "two.yaml", "--yes")
    assert refused.returncode == 2
    assert "two.yaml:6: template: nowhere: there is no such template" in refused.stderr
    assert site.run("export", "other").stdout == before, "nothing is begun where a part cannot be right"
    # The server alone knows its signature schemes.
    fine = "endpoint: fine\nscaling: {max_workers: 0, cold_workers: 0}\ntemplate: {desc: x}\n"
    file.write_text(fine + "workergroups: [{signature_scheme: none}]\n")
    refused = site.run("apply", "-f", "two.yaml", "--yes")
    assert (refused.returncode, "two.yaml:4: workergroups[0].signature_scheme: must be one" in refused.stderr) == (
        2,
        True,
    )
    site.json("template", "create", "--name", "fine", "--env", "-p 3000:3000")  # as half an apply leaves it
    file.write_text(fine)
    assert changes(site, "two.yaml") == [
        "change template fine",
        "create endpoint fine",
        "create workergroup of the default provider",
    ]
    assert site.run("apply", "-f", "two.yaml", "--yes").returncode == 0
    gone = site.run("delete", "-f", "two.yaml", "--yes")
    assert (gone.returncode, gone.stdout.endswith("endpoint fine deleted\ntemplate fine deleted\n")) == (0, True)
    assert site.run("delete", "-f", "two.yaml", "--yes").stdout == "nothing to do\n"
    names = [row["name"] for row in site.json("template", "list")]
    assert "taken" in names
    assert "fine" not in names


def test_up_writes_a_file_and_applies_it(site: Site) -> None:
    (site.directory / "model.gguf").write_bytes(b"GGUF")
    up = ("up", "chat", "--recipe", "llama.cpp", "--model", "model.gguf")
    made = site.json(*up, "--param", "slots=2")
    assert {"endpoint_id", "template_id", "workergroup_id"} < set(made)
    assert changes(site, "chat.yaml") == []
    text = (site.directory / "chat.yaml").read_text()
    assert "max_workers: 1\n" in text
    assert "slots: '2'\n" in text
    again = site.run(*up, "--param", "slots=2")
    assert "everything is as it was\n" in again.stdout
    more = site.json(*up, "--max-workers", "2", "--max-usd-h", "3")
    assert more["workergroup_id"] == made["workergroup_id"]
    assert more["usd_h_at_most"].startswith("$0 an hour: 2 workers")
    assert site.json("endpoint", "show", "chat")["max_usd_h"] == 3
    site.json(*up, "--min-load", "0")
    assert "max_usd_h: 3.0\n" in (site.directory / "chat.yaml").read_text(), "what was said before stays"
    before = (site.directory / "chat.yaml").read_text()
    refused = site.run(*up, "--provider", "nowhere")
    assert (refused.returncode, "there is no provider, type or class" in refused.stderr) == (2, True)
    assert (site.directory / "chat.yaml").read_text() == before
    (site.directory / "mine.yaml").write_text("endpoint: mine\ntemplate: chat\n")
    refused = site.run("up", "mine", "--recipe", "demo-llm")
    assert (refused.returncode, "was not written by `posthouse up`" in refused.stderr) == (2, True)
    assert "mine" not in [row["endpoint_name"] for row in site.json("endpoint", "list")]


def test_up_works_out_which_gpus_a_model_needs(site: Site, tmp_path: Path) -> None:
    config = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    config |= {"intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = site.run("up", "big", "--recipe", "vllm", "--model", str(tmp_path), "--max-model-len", "8192", "--gpu", "L4")
    assert done.returncode == 0, done.stderr
    # (14.96 + 1 + 2.5) / 0.92 = 20.06 GiB = 20.5 thousand MiB
    assert "each GPU must have 20.6 GB\n" in done.stdout
    assert "at most: nothing is offered now that fits; 1 worker\n" in done.stdout
    [group] = [row for row in site.json("workergroup", "list") if row["endpoint_name"] == "big"]
    assert group["search_params"] == "num_gpus=1 gpu_ram>=20.6 cuda_max_good>=13.0 gpu_name=L4"
    assert changes(site, "big.yaml") == []
    done = site.run("up", "hub", "--recipe", "vllm", "--model", "ORG/NAME")
    assert "--gpu-ram-gb says it" in done.stdout
    assert "refused" in done.stdout


def test_an_endpoint_is_created_with_its_workergroup_or_not_at_all(site: Site) -> None:
    site.json("template", "create", "--name", "plain", "--env", "-p 3000:3000")
    made = site.json("endpoint", "create", "whole", "--template", "plain", "--search", "num_gpus=0", *NONE)
    assert made["workergroup_id"] in [row["id"] for row in site.json("workergroup", "list")]
    elsewhere = ("--template", "plain", "--provider", "nowhere")
    for wrong in (("--template", "nowhere"), elsewhere, ("--search", "num_gpus=0")):
        assert site.run("endpoint", "create", "half", *wrong, *NONE).returncode in {2, 4}
    until(lambda: "half" not in [row["endpoint_name"] for row in site.json("endpoint", "list")])

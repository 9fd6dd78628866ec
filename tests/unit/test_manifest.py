"""Manifests: what they may say, and that what is wrong is told with its line."""

import json
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from posthouse.cli import main
from posthouse.domain.endpoint import PARAMETERS, Endpoint, EndpointId, WorkergroupId
from posthouse.engine.management.plan import Found, deletion, plan
from posthouse.errors import BadRequest
from posthouse.keys import KeyRecord
from posthouse.manifest import AliasManifest, Manifest, alias, whole
from posthouse.manifest.actual import described
from posthouse.manifest.alias import described_alias
from posthouse.manifest.describe import FIELDS, GROUP, TEMPLATE
from posthouse.manifest.read import documents
from posthouse.manifest.schema import schema
from posthouse.manifest.write import dumped
from posthouse.recipes import recipe
from posthouse.template import Template, TemplateId, Workergroup
from posthouse.wire import rows
from posthouse.wire.env import parse_env

WHOLE = """
endpoint: chat
scaling:
  min_load: 0
  max_workers: 4
  max_usd_h: none
  slo_mode: auto
recipe: vllm
parameters:
  model: Qwen/Qwen3-8B
  tensor_parallel: 2
  gpu_memory_utilization: 0.9
gpu_ram_gb: 24
workergroups:
  - provider: vast
    gpu: RTX_4090
    gpu_ram: 20
  - search: gpu_ram>=48
keys:
  website: {requests_per_minute: 600, at_once: 0}
"""
OWN = """
endpoint: echo
template:
  image: python:3.12-slim
  env: {GREETING: hello there, COUNT: 3}
  ports: [3000, 8443]
  disk_gb: 5
  search: num_gpus=0
  loading_timeout_s: 60
  desc: says it again
  onstart: |
    exec "$PYTHON" -m posthouse agent
---
endpoint: other
template: echo
"""


def manifests(text: str, file: str) -> list[Manifest]:
    """Those of endpoints."""
    return [one for one in whole(text, file) if isinstance(one, Manifest)]


def test_a_manifest_is_an_endpoint_whole() -> None:
    [one] = manifests(WHOLE, "chat.yaml")
    assert one.name == "chat"
    assert one.scaling == {"min_load": 0.0, "max_workers": 4, "max_usd_h": None, "slo_mode": "auto"}
    said = {"model": "Qwen/Qwen3-8B", "tensor_parallel": "2", "gpu_memory_utilization": "0.9"}
    made = recipe("vllm").template(said, endpoint="chat", gpu_ram_gb=24)
    assert one.template is not None
    assert made.items() <= one.template.items()
    assert one.template["name"] == "chat"
    filters = "num_gpus=2 gpu_ram>=24 cuda_max_good>=13.0"
    assert [(group.template, group.fields) for group in one.groups] == [
        ("chat", {"provider": "vast", "search_params": f"{filters} gpu_name=RTX_4090", "gpu_ram": 20}),
        ("chat", {"provider": "", "search_params": "gpu_ram>=48"}),
    ]


def test_a_manifest_has_a_template_of_its_own_or_names_one() -> None:
    own, other = manifests(OWN, "echo.yaml")
    assert own.template is not None
    assert parse_env(own.template["env"]) == ({"GREETING": "hello there", "COUNT": "3"}, (3000, 8443))
    assert own.template["extra_filters"] == "num_gpus=0"
    assert own.template["onstart"] == 'exec "$PYTHON" -m posthouse agent\n'
    assert own.groups[0].fields == {"provider": "", "search_params": ""}
    assert (other.template, other.groups[0].template) == (None, "echo")


ALIAS = """
alias: fast
targets:
  - {model: chat, weight: 95}
  - model: echo
    weight: 5
fallbacks:
  - model: small
    faults: [no_worker, too_long]
wait_s: 20
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("endpoint: chat", "endpiont: chat"), "x.yaml:2: endpiont: there is no such field. Did you mean endpoint?"),
        (("min_load: 0", "minload: 0"), "x.yaml:4: scaling.minload: there is no such scaling parameter. Did you mean"),
        (("max_workers: 4", "max_workers: 4.5"), "x.yaml:5: scaling.max_workers: must be a whole number from 0 to"),
        (("max_workers: 4", "max_workers: [4]"), "x.yaml:5: scaling.max_workers: must be a whole number"),
        (("max_workers: 4", "max_workers: true"), "x.yaml:5: scaling.max_workers: must be a whole number"),
        (("recipe: vllm", "recipe: vlm"), "x.yaml:8: recipe: there is no recipe 'vlm'; there are: "),
        (("model: Qwen/Qwen3-8B", "modle: x"), "x.yaml:10: parameters.modle: there is no such parameter. Did you mean"),
        (("model: Qwen/Qwen3-8B", "model: a b"), "x.yaml:10: parameters.model: must be like ORG/NAME"),
        (("model: Qwen/Qwen3-8B", "quantization: fp8"), "x.yaml:8: recipe: model: is not given"),
        (
            ("tensor_parallel: 2", "tensor_parallel: 99"),
            "x.yaml:11: parameters.tensor_parallel: must be a whole number",
        ),
        (("recipe: vllm", "recipe: vllm\ntemplate: x"), "x.yaml:2: recipe, template: one of them says"),
        (("gpu_ram_gb: 24", "gpu_ram_gb: much"), "x.yaml:13: gpu_ram_gb: must be a number, not 'much'"),
        (
            ("provider: vast", "provder: vast"),
            "x.yaml:15: workergroups[0].provder: there is no such field. Did you mean",
        ),
        (("gpu_ram>=48", "gpu_memory>=48"), "x.yaml:18: workergroups[1].search: gpu_memory: there is no such"),
        (("gpu_ram>=48", "'gpu_ram >< 48'"), "x.yaml:18: workergroups[1].search: "),
        (("endpoint: chat", "endpoint: [chat]"), "x.yaml:2: endpoint: must be text, not a list"),
        (("endpoint: chat", "endpoint: "), "endpoint: is not given"),
        (("scaling:\n", "scaling: 5\nx:\n"), "x.yaml:4: x: there is no such field"),
        (("recipe: vllm", "recipe: vllm\nrecipe: vllm"), "x.yaml:9: : recipe is there twice"),
        (("recipe: vllm", "recipe: !!python/name:os.system vllm"), "the tag tag:yaml.org,2002:python/name:os.system"),
        (("recipe: vllm", "recipe: 'vllm"), "x.yaml:"),
        (("endpoint: chat", "endpoint: \x00"), "x.yaml: is not YAML that can be read"),
        (("recipe: vllm", "<<: {recipe: vllm}"), "the name of a field must be text"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(change: tuple[str, str], words: str) -> None:
    assert change[0] in WHOLE
    with pytest.raises(BadRequest) as refused:
        manifests(WHOLE.replace(*change), "x.yaml")
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "describes no endpoint"),
        ("# nothing\n---\n", "describes no endpoint"),
        ("- a", "must be fields with values, not a list"),
        ("endpoint: a\ntemplate: b\n---\nendpoint: a\ntemplate: b", "x.yaml:4: endpoint: 'a' is described twice"),
        ("endpoint: a\ntemplate: b\nparameters: {}", "x.yaml:3: parameters: is of a recipe"),
        ("endpoint: a\ntemplate: b\nworkergroups: []", "x.yaml:3: workergroups: must be 1 to 100 workergroups"),
        ("endpoint: a\ntemplate:\n  env: '-x 1'", "x.yaml:3: template.env: env: unknown flag"),
        ("endpoint: a\ntemplate:\n  env: {'1A': x}", "x.yaml:3: template.env: env: "),
        ("endpoint: a\ntemplate:\n  env: ''\n  ports: [1]", "x.yaml:4: template.ports: env is text"),
        ("endpoint: a\ntemplate:\n  ports: [99999]", "template.env: env: -p '99999:99999' must be PORT:PORT"),
        ("endpoint: a\ntemplate:\n  disk_gb: -1", "x.yaml:3: template.disk_gb: must be 0 or more"),
        ("a: &a [*a]", "nested too deep"),
        ("a: " + "[" * 5000, "x.yaml"),
        ("a: " + "[" * 100 + "]" * 100, "nested too deep"),
        ("[" + "x," * 30_000 + "]", "has too many values"),
        ("x" * 2_000_000, "at most 1048576 are allowed"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        manifests(text, "x.yaml")
    assert words in str(refused.value)


def test_aliases_count_as_all_that_they_stand_for() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    with pytest.raises(BadRequest, match="too many values"):
        documents(bomb, "x.yaml")


@given(text=st.text(max_size=200) | st.text(alphabet="[]{}:,-&*!|>'\"\n ab1", max_size=200))
def test_any_text_is_a_manifest_or_a_refusal(text: str) -> None:
    with suppress(BadRequest):
        manifests(text, "x.yaml")


def test_editors_know_what_a_manifest_may_say(capsys: pytest.CaptureFixture[str]) -> None:
    check = jsonschema_rs.validator_for(schema())
    for text in (WHOLE, *OWN.split("---\n"), ALIAS):
        assert check.is_valid(yaml.safe_load(text)), list(check.iter_errors(yaml.safe_load(text)))
    good: dict[str, Any] = {"endpoint": "a", "template": "b"}
    for wrong in (
        {"endpoint": "a"},
        good | {"recipe": "vllm"},
        good | {"x": 1},
        good | {"scaling": {"max_workers": 1.5}},
        good | {"scaling": {"x": 1}},
        good | {"workergroups": []},
        good | {"keys": {"web": {"at_once": -1}}},
        {"endpoint": "a", "recipe": "none"},
        {"alias": "a"},
        {"alias": "a", "targets": []},
        {"alias": "a", "targets": [{"weight": 1}]},
        {"alias": "a", "targets": [{"model": "b"}], "fallbacks": [{"model": "c", "faults": ["x"]}]},
        {"alias": "a", "targets": [{"model": "b"}], "scaling": {}},
    ):
        assert not check.is_valid(wrong), wrong
    told = schema()["else"]["properties"]
    assert set(told) == set(FIELDS)
    assert set(told["scaling"]["properties"]) == set(PARAMETERS)
    assert set(told["template"]["anyOf"][1]["properties"]) == set(TEMPLATE)
    assert set(told["workergroups"]["items"]["properties"]) == set(GROUP)
    told = schema()["then"]["properties"]
    assert set(told) == set(alias.ALIAS)
    assert set(told["targets"]["items"]["properties"]) == set(alias.TARGET)
    assert set(told["fallbacks"]["items"]["properties"]) == set(alias.FALLBACK)
    assert main(["apply", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()


def test_a_file_is_refused_before_any_server_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTHOUSE_URL", "http://127.0.0.1:9")
    file = tmp_path / "x.yaml"
    file.write_text("endpoint: a\nrecipe: none\n")
    for command in ("apply", "diff", "delete"):
        assert main([command, "-f", str(file)]) == 2
        assert f"{file}:2: recipe: there is no recipe" in capsys.readouterr().err
    assert main(["apply"]) == 2
    assert "--file: is not given" in capsys.readouterr().err


# What a server has.


def provided(name: str) -> None:
    if name not in ("", "one", "two"):
        raise BadRequest(f"provider: there is no provider, type or class {name!r}; allowed: one, two")


def found(**more: Any) -> Found:
    plain = Template(TemplateId(5), "", "a", env="-p 3000:3000")
    templates = [replace(plain, **more.get("template", {})), replace(plain, id=TemplateId(6), name="b")]
    blank = Workergroup(WorkergroupId(0), EndpointId(1), TemplateId(5))
    groups = more.get("groups", {7: {}})
    return Found(
        endpoints=[Endpoint(EndpointId(1), "a"), Endpoint(EndpointId(2), "z")],
        templates={template.id: template for template in templates},
        groups=[replace(blank, id=WorkergroupId(number), **said) for number, said in groups.items()],
        aliases={},
        keys=(),
        check_provider=provided,
        foresee=lambda before, changes: None,
    )


def planned(text: str, **more: Any) -> list[tuple[str, str, set[str]]]:
    made = plan(manifests(text, "x.yaml")[0], found(**more))
    return [(change.how, change.what, set(change.fields)) for change in made.changes]


SAME = "endpoint: a\ntemplate: {}\n"


def test_what_is_as_it_should_be_is_left() -> None:
    assert planned(SAME) == []
    assert planned("endpoint: a\ntemplate: a\nscaling: {max_workers: 16, max_usd_h: none}") == []
    same = {"search_params": '{"gpu_ram":{"gte":24000.0}}'}
    assert planned(SAME + "workergroups: [{search: gpu_ram>=24}]", groups={7: same}) == []
    assert planned("endpoint: a\ntemplate: {env: {A: 1}}", template={"env": "-e A=1 -p 3000:3000"}) == []


def test_what_differs_is_named() -> None:
    changes = planned(
        "endpoint: a\ntemplate: {env: {A: 1}, search: num_gpus=1}\nscaling: {max_workers: 3, min_load: 1}"
    )
    assert changes == [("change", "template a", {"env.A", "search"}), ("change", "endpoint a", {"max_workers"})]
    assert planned(SAME + "workergroups: [{search: num_gpus=1}]") == [("change", "workergroup 7", {"search"})]
    assert planned("endpoint: a\ntemplate: b") == [("change", "workergroup 7", {"template"})]
    assert planned("endpoint: new\ntemplate: b") == [
        ("create", "endpoint new", set()),
        ("create", "workergroup of the default provider", {"template"}),
    ]


def test_what_looks_like_a_secret_is_not_shown() -> None:
    said = "endpoint: a\ntemplate: {env: {HF_TOKEN: new, COUNT: 2}}"
    [change] = plan(
        manifests(said, "x.yaml")[0], found(template={"env": "-e HF_TOKEN=old -e COUNT=1 -p 3000:3000"})
    ).changes
    assert change.fields == {"env.HF_TOKEN": ("***", "***"), "env.COUNT": ("1", "2")}


def test_workergroups_are_told_apart_by_provider_template_and_search() -> None:
    groups = {7: {"provider": "one"}, 8: {"provider": "two"}, 9: {"provider": "one", "search_params": "num_gpus=2"}}
    said = SAME + "workergroups:\n- {provider: one, search: num_gpus=2}\n- {provider: one}\n- {provider: two}"
    assert planned(said, groups=groups) == []
    assert planned(SAME + "workergroups: [{provider: two}, {provider: one, search: num_gpus=4}]", groups=groups) == [
        ("change", "workergroup 7", {"search"}),
        ("delete", "workergroup 9 of one", set()),
    ]
    assert planned(SAME + "workergroups: [{provider: two}]") == [
        ("create", "workergroup of two", {"template", "provider"}),
        ("delete", "workergroup 7 of the default provider", set()),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            SAME + "workergroups: [{provider: tow}]",
            "x.yaml:3: workergroups[0].provider: there is no provider, type or class 'tow'",
        ),
        ("endpoint: a\ntemplate: bb", "x.yaml:2: template: bb: there is no such template. Did you mean b?"),
        (SAME + "workergroups: [{template: bb}]", "x.yaml:3: workergroups[0].template: bb: there is no such template"),
    ],
)
def test_what_is_named_must_be_there(text: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        planned(text)
    assert words in str(refused.value)


def test_a_template_that_others_use_is_told_and_is_not_deleted() -> None:
    groups = {7: {}, 8: {"endpoint_id": 2}}
    [one] = manifests("endpoint: a\ntemplate: {desc: x}", "x.yaml")
    [change] = plan(one, found(groups=groups)).changes
    assert change.note == "also of the endpoints z"
    assert [c.what for c in deletion("a", found(groups=groups)).changes] == ["endpoint a"]
    assert [c.what for c in deletion("a", found()).changes] == ["endpoint a", "template a"]
    assert [c.what for c in deletion("a", found(groups={7: {"template_id": 6}})).changes] == ["endpoint a"]
    assert deletion("gone", found()).changes == ()


def actual(there: Found) -> dict[str, Any]:
    [endpoint, _] = there.endpoints
    return described(endpoint, there.groups_of(endpoint), there.templates)


def test_what_is_exported_is_what_is_there() -> None:
    there = found(
        template={
            "onstart": "a\n  b\n",
            "env": "-e 'A=1 2' -p 3000:3000 -p 80:80",
            "extra_filters": {"num_gpus": {"eq": "1"}},
        },
        groups={7: {"provider": "one", "gpu_ram": 8.0}, 8: {"search_params": "num_gpus=2"}},
    )
    text = dumped([actual(there)])
    [one] = manifests(text, "x.yaml")
    assert plan(one, there).changes == ()
    assert "onstart: |\n" in text
    mixed = found(groups={7: {"template_id": 6}, 8: {}})
    [one] = manifests(dumped([actual(mixed)]), "x.yaml")
    assert plan(one, mixed).changes == ()


def key(key_id: str, name: str, **fields: Any) -> KeyRecord:
    return KeyRecord(key_id, name, "route", "", 1.0, **fields)


def test_limits_of_keys_become_what_a_manifest_says() -> None:
    [one] = manifests("endpoint: a\ntemplate: b\nkeys: {web: {requests_per_minute: 60, at_once: 0}}", "x.yaml")
    there = replace(found(), keys=[key("1", "web", at_once=4), key("2", "web", revoked_at=2.0), key("3", "other")])
    [change] = [change for change in plan(one, there).changes if change.what == "key web"]
    assert (change.how, change.fields) == ("change", {"requests_per_minute": (0, 60), "at_once": (4, 0)})
    done = replace(there, keys=[key("1", "web", requests_per_minute=60)])
    assert not [change for change in plan(one, done).changes if change.what == "key web"]
    for keys, words in (
        ([], "x.yaml:3: keys.web: there is no key of this name; make it: posthouse key create web"),
        ([key("1", "web"), key("2", "web")], "there are 2 keys of this name; give each a name of its own"),
    ):
        with pytest.raises(BadRequest, match=re.escape(words)):
            plan(one, replace(there, keys=keys))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ("{at_one: 1}", "keys.web.at_one: there is no such field. Did you mean at_once?"),
        ("{at_once: -1}", "keys.web.at_once: must be a whole number from 0 to 1000000000000, not -1"),
        ("{at_once: true}", "keys.web.at_once: must be a whole number from 0 to 1000000000000, not true"),
        ("{at_once: 1.5}", "keys.web.at_once: must be a whole number"),
        ("7", "keys.web: must be fields with values, not 7"),
    ],
)
def test_wrong_limits_are_told_with_their_line(limits: str, words: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(words)):
        manifests(f"endpoint: a\ntemplate: b\nkeys: {{web: {limits}}}", "x.yaml")


def test_an_alias_is_read_planned_and_written_as_it_is() -> None:
    [wanted] = whole(ALIAS, "x.yaml")
    row = rows.Alias(
        name="fast",
        targets=[rows.AliasTarget(model="chat", weight=95), rows.AliasTarget(model="echo", weight=5)],
        fallbacks=[rows.AliasFallback(model="small", faults=["no_worker", "too_long"])],
        wait_s=20,
    )
    assert isinstance(wanted, AliasManifest)
    assert (wanted.name, wanted.fields) == ("fast", alias.alias_fields(row))
    [made] = plan(wanted, found()).changes
    assert (made.how, made.what, dict(made.fields)) == (
        "create",
        "alias fast",
        {
            "targets": (None, "chat=95, echo=5"),
            "fallbacks": (None, "small=no_worker+too_long"),
            "wait_s": (None, 20.0),
        },
    )
    there = replace(found(), aliases={"fast": row})
    assert plan(wanted, there).changes == ()
    assert whole(dumped([described_alias(row)]), "x.yaml") == [wanted]
    [changed] = plan(wanted, replace(there, aliases={"fast": replace(row, wait_s=None)})).changes
    assert (changed.how, dict(changed.fields)) == ("change", {"wait_s": (None, 20.0)})
    [gone] = deletion("fast", there).changes
    assert (gone.how, gone.what) == ("delete", "alias fast")


def test_what_names_others_comes_after_them() -> None:
    text = f"{ALIAS}---\nendpoint: chat\nrecipe: llama.cpp\nparameters: {{model: x}}"
    assert [one.name for one in whole(text, "x.yaml", True)] == ["chat", "fast"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("wait_s: 20", "wait: 20"), "x.yaml:10: wait: there is no such field. Did you mean wait_s?"),
        (
            ("too_long", "to_long"),
            "x.yaml:9: fallbacks[0].faults[1]: to_long: there is no such class of errors. Did you",
        ),
        (("weight: 5", "weight: -5"), "x.yaml:6: targets[1].weight: must be 0 or more, not -5"),
        (("  - model: small\n    faults", "  - faults"), "x.yaml:8: fallbacks[0]: model: is not given"),
        (("alias: fast", "alias: fast\nrecipe: vllm"), "x.yaml:3: recipe: there is no such field"),
        (("wait_s: 20", "---\nalias: fast\ntargets: [{model: chat}]"), "alias: 'fast' is described twice"),
    ],
)
def test_what_is_wrong_with_an_alias_is_told_with_its_line(change: tuple[str, str], words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        whole(ALIAS.replace(*change), "x.yaml")
    assert words in str(refused.value)

"""What Posthouse is installed with elsewhere: the Dockerfile, the compose files, the Helm chart."""

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from posthouse import __version__
from posthouse.config import load_settings

CHART = Path("deploy/helm/posthouse")
SHARED = {"replicas": 2, "database": {"existingSecret": "db"}}
FULL = SHARED | {
    "publicUrl": "https://posthouse.example",
    "config": "[money]\nmax_usd_h = 5\n",
    "env": [{"name": "POSTHOUSE_ENGINE__TICK_S", "value": "2"}],
    "imagePullSecrets": [{"name": "pull"}],
    "persistence": {"storageClass": "fast"},
    "podAnnotations": {"team": "a"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "service": {"type": "LoadBalancer", "annotations": {"a": "b"}},
    "serviceMonitor": {"enabled": True, "keySecret": {"name": "metrics"}},
    "networkPolicy": {"serversFrom": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]},
    "gateway": {"args": ["--hold-s=60"], "service": {"annotations": {"a": "b"}}},
}
LEAST = {
    "kubernetesProvider": {"enabled": False},
    "gateway": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "persistence": {"enabled": False},
    "serviceAccount": {"create": False},
}
Json = dict[str, Any]
Render = Callable[[Json], list[Json]]


def test_the_image_has_what_the_package_is_built_of() -> None:
    built = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    needed = [*built["targets"]["wheel"]["force-include"], "src/posthouse", "pyproject.toml"]
    let_in = re.findall("(?m)^!(.+)$", Path(".dockerignore").read_text(encoding="utf-8"))
    copied = re.findall("(?m)^COPY ((?!--).+) ", Path("Dockerfile").read_text(encoding="utf-8"))
    for path in needed:
        assert any(path == place or path.startswith(f"{place}/") for place in let_in), path
        assert any(path.startswith(place) for line in copied for place in line.split()), path


@pytest.mark.parametrize("path", ["compose.yaml", "deploy/compose/two-servers.yaml"])
def test_the_compose_files_set_what_there_is_behind_walls(path: str) -> None:
    services = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["services"]
    for name, service in services.items():
        if "posthouse" in service["image"]:
            told = {k: str(v) for k, v in service["environment"].items() if k != "POSTHOUSE_URL"}
            load_settings({}, None, {k: re.sub(r"\$\{.*?\}", "http://a", v) for k, v in told.items()})
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name


@pytest.fixture(scope="module")
def render() -> Iterator[Render]:
    """What helm makes of the chart with some values, by its program or by its library for Python. Raises: ValueError
    where it refuses them."""
    if shutil.which("helm"):

        def by_program(values: Json) -> list[Json]:
            command = ["helm", "template", "ph", str(CHART), "--namespace", "prod", "--values", "-"]
            done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
            if done.returncode:
                raise ValueError(done.stderr)
            return list(filter(None, yaml.safe_load_all(done.stdout)))

        yield by_program
    elif find_spec("helm_python"):
        import helm_python

        with helm_python.Chart.load(str(CHART)) as chart:

            def by_library(values: Json) -> list[Json]:
                try:
                    made = chart.render(values, name="ph", namespace="prod")
                except helm_python.HelmError as error:
                    raise ValueError(str(error)) from error
                texts = [text for name, text in made.items() if name.endswith(".yaml")]
                return [body for text in texts for body in yaml.safe_load_all(text) if body]

            yield by_library
    else:
        pytest.skip("THE CHART IS NOT TESTED: install helm, or pip install helm-python-sdk")


def of(made: list[Json], kind: str, name: str = "ph-posthouse") -> Json:
    [found] = [body for body in made if body["kind"] == kind and body["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("values", [{}, FULL, LEAST])
@pytest.mark.parametrize("version", ["1.28", "1.37"])
def test_what_helm_makes_is_valid_by_the_cluster_s_own_schemas(render: Render, values: Json, version: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    made = render(values)
    for body in made:
        if body["kind"] != "ServiceMonitor":  # of an operator
            validate.validate(body, version, strict=True)
    for pod in (body["spec"]["template"]["spec"] for body in made if body["kind"] in ("StatefulSet", "Deployment")):
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"livenessProbe", "readinessProbe"} <= set(container)


def test_the_servers_are_given_settings_that_there_are(render: Render) -> None:
    made = render(FULL)
    [container] = of(made, "StatefulSet")["spec"]["template"]["spec"]["containers"]
    told = {one["name"]: str(one.get("value", "postgresql://a/b")) for one in container["env"]}
    told.pop("POD_NAME")
    told["POSTHOUSE_SERVER__PEER_URL"] = told["POSTHOUSE_SERVER__PEER_URL"].replace("$(POD_NAME)", "ph-posthouse-0")
    settings, _ = load_settings({}, None, told)
    assert settings.engine.tick_s == 2
    assert settings.public_url == "https://posthouse.example"
    assert settings.server.peer_url == "http://ph-posthouse-0.ph-posthouse-peers.prod.svc:8080"
    tomllib.loads(of(made, "ConfigMap")["data"]["posthouse.toml"])
    gateway = of(made, "Deployment", "ph-posthouse-gateway")["spec"]["template"]["spec"]["containers"][0]
    assert "http://ph-posthouse-1.ph-posthouse-peers.prod.svc:8080" in " ".join(gateway["args"])
    assert {body["metadata"]["name"] for body in made if body["kind"] == "PodDisruptionBudget"} == {
        "ph-posthouse",
        "ph-posthouse-gateway",
    }


def test_two_servers_need_a_database_that_they_share(render: Render) -> None:
    refused: list[Json] = [{"replicas": 2}, {"replicas": 0}, {"databaze": {}}, {"database": {"url": "mysql://a"}}]
    for wrong in refused:
        with pytest.raises(ValueError, match="schema"):
            render(wrong)
    assert not [body for body in render(SHARED) if body["kind"] == "Secret"]
    [secret] = [b for b in render({"database": {"url": "postgresql://a:b@c/d"}}) if b["kind"] == "Secret"]
    assert secret["stringData"] == {"url": "postgresql://a:b@c/d"}


def test_its_rights_are_those_of_the_manifest(render: Render) -> None:
    manifest = list(yaml.safe_load_all(Path("examples/kubernetes/rbac.yaml").read_text(encoding="utf-8")))
    made = render({})
    for kind, name in (("Role", "ph-posthouse"), ("ClusterRole", "prod-ph-posthouse")):
        [wanted] = [body["rules"] for body in manifest if body["kind"] == kind]
        assert of(made, kind, name)["rules"] == wanted
    assert not [
        b for b in render({"kubernetesProvider": {"enabled": False}}) if b["kind"].endswith(("Role", "Binding"))
    ]


def test_helm_has_no_complaint(render: Render) -> None:
    if shutil.which("helm"):
        done = subprocess.run(["helm", "lint", "--strict", CHART], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    else:
        import helm_python

        assert not [one for one in helm_python.lint(str(CHART))["messages"] if one["severity"] > 1]


def test_the_chart_is_of_this_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert about["version"] == about["appVersion"] == __version__

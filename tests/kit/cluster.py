"""Fixtures of a Kubernetes cluster, for a module that has `pytest_plugins = "tests.kit.cluster"`."""

from collections.abc import Iterator

import pytest

from tests.kit.kubelet import Kubelet
from tests.kit.kubernetes_cluster import Cluster, api_server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with api_server(tmp_path_factory.mktemp("kubernetes")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def node(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    with Kubelet(cluster, tmp_path_factory.mktemp("node")) as node:
        yield node

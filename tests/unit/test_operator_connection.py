"""How the operator reaches the API server."""

import asyncio
from pathlib import Path

import pytest
import yaml

from tunesmith_operator.connection import connect, kopf_connection

SERVER = "https://cluster.example:6443"


@pytest.fixture(autouse=True)
def _no_proxies_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def kubeconfig(folder: Path, **cluster: str) -> str:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one",
        "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
        "clusters": [{"name": "one", "cluster": {"server": SERVER, **cluster}}],
        "users": [{"name": "one", "user": {"token": "secret"}}],
    }
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    ("variables", "cluster", "proxy"),
    [
        ({}, {}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, {}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "cluster.example"}, {}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, {"proxy-url": "http://own:3128"}, "http://own:3128"),
    ],
)
def test_calls_and_watches_go_by_the_proxy_that_kubectl_takes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    cluster: dict[str, str],
    proxy: str | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # KUBECONFIG is read when the client is imported.
    path = kubeconfig(tmp_path, **cluster)
    monkeypatch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", path)

    async def both() -> tuple[str | None, str | None]:
        configuration = await connect()
        return configuration.proxy, (await kopf_connection(configuration)).proxy_url

    assert asyncio.run(both()) == (proxy, proxy)

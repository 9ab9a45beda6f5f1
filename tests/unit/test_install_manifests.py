"""The kustomizations in manifests/install, and what stands beside them for Argo CD."""

import json
import re
from pathlib import Path

import yaml
from tests.testbed.installation import CHART, MANIFESTS, REPOSITORY, container, kustomized, rendered

from tunesmith_predictor.command import _parse

KUBERNETES_GRACE_SECONDS = 30
SETTINGS = ("--gateway=gateways/public", "--gateway-domain=models.example")


def test_installation_for_training_has_everything_but_the_runtime() -> None:
    whole, training = (kustomized(MANIFESTS / "install" / part) for part in ("", "training"))
    assert whole.keys() - training.keys() == {("ClusterServingRuntime", "", "tunesmith")}
    assert not training.keys() - whole.keys()


def test_installation_for_one_namespace_has_no_rights_in_others() -> None:
    objects = kustomized(MANIFESTS / "install" / "namespaced")
    assert not [key for key in objects if key[0].startswith("ClusterRole") and "operator" in key[2]]
    assert container(objects)["args"][-1] == "--namespace=vision"


def test_every_pod_meets_pod_security_restricted_as_far_as_a_file_can_say() -> None:
    objects = kustomized(MANIFESTS / "install")
    (server,) = objects["ClusterServingRuntime", "", "tunesmith"]["spec"]["containers"]
    operator = container(objects)
    for one in (server, operator):
        context = one["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert {"name": "tmp", "mountPath": "/tmp"} in one["volumeMounts"]


def test_runtime_is_the_one_that_the_operator_names_and_the_predictor_understands() -> None:
    runtime = kustomized(MANIFESTS / "serving")["ClusterServingRuntime", "", "tunesmith"]
    (server,) = runtime["spec"]["containers"]
    assert server["command"] == ["python", "-m", "tunesmith_predictor"]
    options = _parse([*server["args"], "--model-name=flowers"])
    assert (str(options.model_dir), options.model_name) == ("/mnt/models", "flowers")
    ports = [port["containerPort"] for port in server["ports"]]
    assert ports == [options.http_port, options.grpc_port]
    sleep = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep + options.drain_seconds + options.grace_seconds < KUBERNETES_GRACE_SECONDS


def test_overlay_of_the_readme_has_images_and_gateway_of_ones_own(tmp_path: Path) -> None:
    (overlay,) = re.findall(r"```yaml\n(.*?)```", (MANIFESTS / "README.md").read_text(), re.DOTALL)
    (tmp_path / "kustomization.yaml").write_text(overlay)
    (tmp_path / "tunesmith").symlink_to(REPOSITORY)
    objects = kustomized(tmp_path)
    operator = container(objects)
    (server,) = objects["ClusterServingRuntime", "", "tunesmith"]["spec"]["containers"]
    registry = "registry.example/tunesmith"
    assert operator["image"] == f"{registry}/operator:0.1.0"
    assert server["image"] == f"{registry}/predictor:0.1.0"
    assert operator["args"][:2] == [
        f"--trainer-image={registry}/trainer:0.1.0",
        f"--predictor-image={registry}/predictor:0.1.0",
    ]
    assert operator["args"][-2:] == list(SETTINGS)


def test_application_of_argo_cd_installs_the_chart_with_values_that_it_takes(tmp_path: Path) -> None:
    application = yaml.safe_load((MANIFESTS / "argocd" / "application.yaml").read_text())
    source = application["spec"]["source"]
    assert REPOSITORY / source["path"] == CHART
    values = tmp_path / "values.yaml"
    values.write_text(json.dumps(source["helm"]["valuesObject"]))
    namespace = application["spec"]["destination"]["namespace"]
    objects = rendered(
        None, "--values", str(values), release=source["helm"]["releaseName"], namespace=namespace
    )
    arguments = container(objects)["args"]
    assert set(SETTINGS) < set(arguments)
    assert "--trainer-image=registry.example/tunesmith/trainer:0.1.0" in arguments

"""What the chart renders, for several values; the same objects as manifests/install."""

import json
import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.testbed.installation import (
    CHART,
    MANIFESTS,
    NAMESPACE,
    REPOSITORY,
    Refused,
    comparable,
    container,
    kustomized,
    rendered,
    run_helm,
)
from tests.testbed.kube_api import Object

from tunesmith_operator.main import main

DIGEST = "sha256:" + "0123456789abcdef" * 4
KSERVE = ("--api-versions", "serving.kserve.io/v1alpha1")
OPERATOR_IMAGE = "tunesmith/operator:0.1.0"


def kinds(objects: dict[Any, Object]) -> set[str]:
    return {kind for kind, _, _ in objects}


def refusal(values: dict[str, Any]) -> str:
    with pytest.raises(Refused) as caught:
        rendered(values)
    return str(caught.value)


def test_chart_passes_the_strict_linter() -> None:
    assert "0 chart(s) failed" in run_helm("lint", "--strict", str(CHART))


def test_chart_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version


def test_chart_renders_what_manifests_install_holds() -> None:
    ours = {key: comparable(one) for key, one in rendered({"serving.enabled": True}).items()}
    theirs = {key: comparable(one) for key, one in kustomized(MANIFESTS / "install").items()}
    # Helm makes the namespace itself.
    del theirs["Namespace", "", NAMESPACE]
    assert ours == theirs


def test_chart_renders_each_manifest_as_it_is() -> None:
    objects = rendered({"serving.enabled": True})
    for folder in ("crds", "admission", "serving"):
        for path in (MANIFESTS / folder).glob("*.yaml"):
            for document in yaml.safe_load_all(path.read_text()):
                found = objects[document["kind"], "", document["metadata"]["name"]]
                assert found["spec"] == document["spec"], path.name


def test_every_name_carries_the_release_and_no_object_another_ones_name() -> None:
    first, second = rendered(), rendered(release="vision", namespace="ml")
    shared = {
        ("CustomResourceDefinition", "", "modeldeployments.tunesmith.dev"),
        ("CustomResourceDefinition", "", "trainingjobs.tunesmith.dev"),
        ("ValidatingAdmissionPolicy", "", "tunesmith-secret-references"),
        ("ValidatingAdmissionPolicyBinding", "", "tunesmith-secret-references"),
    }
    assert set(first) & set(second) == shared
    assert ("Deployment", "ml", "vision-tunesmith-operator") in second
    assert "--lease-name=vision-tunesmith-operator" in container(second)["args"]


def test_without_crds_none_is_rendered() -> None:
    assert "CustomResourceDefinition" not in kinds(rendered({"crds.enabled": False}))


@pytest.mark.parametrize("keep", [True, False])
def test_crds_are_kept_where_that_is_wanted(keep: bool) -> None:
    crds = [one for one in rendered({"crds.keep": keep}).values() if one["kind"].startswith("CustomRes")]
    assert len(crds) == 2
    policy = "helm.sh/resource-policy"
    assert {one["metadata"].get("annotations", {}).get(policy) for one in crds} == {"keep" if keep else None}


def test_list_of_namespaces_gives_a_role_in_each_and_none_everywhere() -> None:
    objects = rendered({"watchNamespaces": ["vision", "audio"], "rbac.aggregate": False})
    assert not {"ClusterRole", "ClusterRoleBinding"} & kinds(objects)
    (written,) = [
        one["rules"]
        for one in yaml.safe_load_all((MANIFESTS / "rbac" / "namespace.yaml").read_text())
        if one["kind"] == "Role"
    ]
    for namespace in ("vision", "audio"):
        assert objects["Role", namespace, "tunesmith-operator"]["rules"] == written
        (subject,) = objects["RoleBinding", namespace, "tunesmith-operator"]["subjects"]
        assert subject["namespace"] == NAMESPACE
        assert f"--namespace={namespace}" in container(objects)["args"]


def test_operators_own_namespace_may_be_watched_too() -> None:
    objects = rendered({"watchNamespaces": [NAMESPACE]})
    assert ("Role", NAMESPACE, "tunesmith-operator") in objects
    assert ("Role", NAMESPACE, "tunesmith-operator-lease") in objects


def test_images_come_by_digest_from_a_registry_of_ones_own() -> None:
    values = {
        "images.registry": "registry.example:5000/mirror/",
        "images.pullPolicy": "Always",
        "images.pullSecrets": ["pull"],
        "images.operator.digest": DIGEST,
        "images.trainer.tag": "0.2.0",
        "images.predictor.repository": "ours/predictor",
    }
    objects = rendered(values, *KSERVE)
    operator, mirror = container(objects), "registry.example:5000/mirror"
    predictor = f"{mirror}/ours/predictor:0.1.0"
    assert (operator["image"], operator["imagePullPolicy"]) == (
        f"{mirror}/tunesmith/operator@{DIGEST}",
        "Always",
    )
    assert operator["args"][:4] == [
        f"--trainer-image={mirror}/tunesmith/trainer:0.2.0",
        f"--predictor-image={predictor}",
        "--image-pull-policy=Always",
        "--image-pull-secret=pull",
    ]
    pod = objects["Deployment", NAMESPACE, "tunesmith-operator"]["spec"]["template"]["spec"]
    runtime = objects["ClusterServingRuntime", "", "tunesmith"]["spec"]
    (server,) = runtime["containers"]
    assert (server["image"], server["imagePullPolicy"]) == (predictor, "Always")
    assert pod["imagePullSecrets"] == runtime["imagePullSecrets"] == [{"name": "pull"}]


@pytest.mark.parametrize(
    ("enabled", "flags", "there"),
    [("auto", (), False), ("auto", KSERVE, True), (True, (), True), (False, KSERVE, False)],
)
def test_runtime_is_rendered_where_kserve_is_or_where_it_is_asked_for(
    enabled: object, flags: tuple[str, ...], there: bool
) -> None:
    objects = rendered({"serving.enabled": enabled}, *flags)
    assert ("ClusterServingRuntime" in kinds(objects)) is there


def test_gateway_is_told_to_the_operator() -> None:
    values = {"gateway.name": "public", "gateway.namespace": "gateways", "gateway.domain": "models.example"}
    arguments = container(rendered(values))["args"]
    assert "--gateway=gateways/public" in arguments
    assert "--gateway-domain=models.example" in arguments
    assert not [one for one in container(rendered())["args"] if one.startswith("--gateway")]


def test_prometheus_is_told_to_the_operator() -> None:
    url = "http://prometheus.monitoring:9090"
    assert f"--prometheus={url}" in container(rendered({"prometheus.url": url}))["args"]
    assert not [one for one in container(rendered())["args"] if one.startswith("--prometheus")]


@pytest.mark.parametrize(
    "url", ["prometheus:9090", "file:///etc/passwd", "http://me:secret@prometheus", "http://p?a"]
)
def test_url_that_is_none_of_a_prometheus_is_refused_by_chart_and_operator(url: str) -> None:
    with pytest.raises(Refused, match="prometheus"):
        rendered({"prometheus.url": url})
    with pytest.raises(SystemExit):
        main(["--trainer-image=trainer", f"--prometheus={url}"])


def test_operator_of_some_namespaces_may_read_the_gateway_in_another() -> None:
    values = {"gateway": {"name": "public", "namespace": "gateways", "domain": "models.example"}}
    objects = rendered(values | {"watchNamespaces": ["vision"]})
    role = objects["Role", "gateways", "tunesmith-operator-gateway"]
    assert role["rules"] == [
        {
            "apiGroups": ["gateway.networking.k8s.io"],
            "resources": ["gateways"],
            "resourceNames": ["public"],
            "verbs": ["get"],
        }
    ]


def test_gateway_without_its_namespace_is_refused_with_what_is_missing() -> None:
    assert "set gateway.namespace" in refusal({"gateway.name": "public"})


def test_what_is_optional_can_be_left_out_or_put_in() -> None:
    less = {
        "admissionPolicy.enabled": False,
        "networkPolicy.enabled": False,
        "rbac.create": False,
        "rbac.aggregate": False,
        "serviceAccount.create": False,
        "serviceAccount.name": "ours",
        "crds.enabled": False,
    }
    objects = rendered(less)
    assert kinds(objects) == {"Deployment", "PodDisruptionBudget", "Service"}
    pod = objects["Deployment", NAMESPACE, "tunesmith-operator"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "ours"
    monitor = {"metrics.serviceMonitor": {"enabled": True, "labels": {"team": "vision"}}}
    found = rendered(monitor)["ServiceMonitor", NAMESPACE, "tunesmith-operator"]
    assert found["metadata"]["labels"]["team"] == "vision"
    assert found["spec"]["endpoints"] == [{"port": "metrics", "path": "/metrics", "interval": "30s"}]


def test_placement_and_further_arguments_reach_the_pods() -> None:
    values = {
        "operator.extraArgs": ["--workers=16"],
        "operator.nodeSelector": {"pool": "system"},
        "operator.tolerations": [{"key": "system", "operator": "Exists"}],
        "operator.priorityClassName": "system-cluster-critical",
        "operator.podAnnotations": {"team": "platform"},
        "operator.replicas": 3,
        "networkPolicy.metricsFrom": [{"namespaceSelector": {"matchLabels": {"metrics": "yes"}}}],
    }
    objects = rendered(values)
    deployment = objects["Deployment", NAMESPACE, "tunesmith-operator"]["spec"]
    pod = deployment["template"]["spec"]
    assert container(objects)["args"][-1] == "--workers=16"
    assert deployment["replicas"] == 3
    assert deployment["template"]["metadata"]["annotations"] == {"team": "platform"}
    assert pod["nodeSelector"] == {"pool": "system"}
    assert pod["tolerations"] == [{"key": "system", "operator": "Exists"}]
    assert pod["priorityClassName"] == "system-cluster-critical"
    (rule,) = objects["NetworkPolicy", NAMESPACE, "tunesmith-operator"]["spec"]["ingress"]
    assert rule["from"] == values["networkPolicy.metricsFrom"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"operatr.replicas": 3}, "additional properties 'operatr' not allowed"),
        ({"operator.image": "x"}, "at '/operator': additional properties 'image' not allowed"),
        ({"operator.replicas": 0}, "at '/operator/replicas': minimum: got 0, want 1"),
        ({"images.trainer.digest": "0123"}, "at '/images/trainer/digest': '0123' does not match"),
        ({"images.operator.repository": "Ours/Operator"}, "at '/images/operator/repository'"),
        ({"serving.enabled": "yes"}, "at '/serving/enabled': value must be one of 'auto', true, false"),
        ({"watchNamespaces": "vision"}, "at '/watchNamespaces': got string, want array"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_values_that_are_wrong_are_refused_by_name(values: dict[str, Any], said: str) -> None:
    assert said in refusal(values)


def test_chart_may_be_a_part_of_another() -> None:
    assert rendered({"global": {"registry": "registry.example"}, "enabled": True})


# The schema, the values and what the README says of them


def leaves(schema: Object, path: str = "") -> Iterator[tuple[str, Object]]:
    for name, child in schema["properties"].items():
        here = f"{path}{name}"
        if "properties" in child:
            yield from leaves(child, f"{here}.")
        else:
            yield here, child


def value_at(values: Object, path: str) -> Any:
    found: Any = values
    for name in path.split("."):
        found = found[name]
    return found


def test_readme_has_each_value_with_its_default_and_what_it_is_for() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    wanted = [
        f"| `{path}` | `{json.dumps(value_at(values, path))}` | {leaf['description']} |"
        for path, leaf in leaves(schema)
        if path not in ("global", "enabled")
    ]
    written = re.findall(r"^\| `.*$", (CHART / "README.md").read_text(), re.MULTILINE)
    assert written == wanted, "README.md should have:\n" + "\n".join(wanted)


def test_schema_describes_everything_and_allows_nothing_else() -> None:
    def look(schema: Object, path: str) -> None:
        assert schema.get("description") or not path, path
        if "properties" in schema:
            assert schema["additionalProperties"] is False, path
            for name, child in schema["properties"].items():
                look(child, f"{path}.{name}")

    look(json.loads((CHART / "values.schema.json").read_text()), "")

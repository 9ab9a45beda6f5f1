"""Tunesmith itself, from the images and the chart of this repository."""

import json

from tests.testbed import image_builder
from tests.testbed.addons import envoy_gateway
from tests.testbed.installation import CHART, NAMESPACE, RELEASE, run_helm, set_values
from tests.testbed.node import Node, Say
from tests.testbed.steps import Step

DOMAIN = "models.test"
ROLLOUT_SECONDS = 180


def prepare(say: Say) -> None:
    """Build the images."""
    for image in image_builder.IMAGES:
        image_builder.archive(image, say)


def import_images(node: Node, say: Say) -> None:
    """Import those that this node does not have."""
    for image in image_builder.IMAGES:
        name = image_builder.name(image)
        if not node.has_image(name):
            archive = image_builder.archive(image, say)
            say(f"Importing {name}")
            node.import_image(archive)


def values() -> dict[str, object]:
    """The chart's values on this node, by their paths."""
    found: dict[str, object] = {
        "images.pullPolicy": "Never",
        "gateway.name": envoy_gateway.GATEWAY,
        "gateway.namespace": envoy_gateway.NAMESPACE,
        "gateway.domain": DOMAIN,
    }
    for image in image_builder.IMAGES:
        repository, _, tag = image_builder.name(image).partition(":")
        found |= {f"images.{image}.repository": repository, f"images.{image}.tag": tag}
    return found


def install(node: Node, say: Say) -> None:
    """As users do, with Helm; returns when both operators are ready."""
    import_images(node, say)
    pod_security = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace"}
    node.kubectl(
        *("apply", "--server-side", "--filename=-"),
        stdin=json.dumps(namespace | {"metadata": {"name": NAMESPACE, "labels": pod_security}}),
    )
    flags = (f"--namespace={NAMESPACE}", *set_values(values()))
    home = node.folder / "helm"
    run_helm("upgrade", "--install", RELEASE, str(CHART), *flags, home=home, kubeconfig=node.kubeconfig)
    node.kubectl(
        "rollout", "status", "deployment", f"--namespace={NAMESPACE}", f"--timeout={ROLLOUT_SECONDS}s"
    )


STEP = Step("Tunesmith", install, prepare)

"""Tunesmith itself, from the images and the chart of this repository."""

import json
from collections.abc import Mapping

from tests.testbed import image_builder
from tests.testbed.addons import envoy_gateway
from tests.testbed.installation import CHART, NAMESPACE, RELEASE, run_helm, set_values
from tests.testbed.node import Node, Say
from tests.testbed.node.image_store import ImageStore, brought
from tests.testbed.steps import Step

DOMAIN = "models.test"
ROLLOUT_SECONDS = 180


def prepare(say: Say) -> None:
    """Build the images that were not imported yet."""
    for image in image_builder.IMAGES:
        if not brought(image_builder.archive_path(image).name):
            image_builder.archive(image, say)


def bring_images(store: ImageStore, say: Say) -> None:
    """Import those that are not there yet, in the place of older ones; their archives go."""
    for image in image_builder.IMAGES:
        name = image_builder.name(image)
        if not store.has(name):
            archive = image_builder.archive(image, say)
            say(f"Importing {name}")
            store.bring(name, archive)
            store.forget_others(name)
            archive.unlink(missing_ok=True)


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
    bring_images(node.images, say)
    pod_security = {"pod-security.kubernetes.io/enforce": "restricted"}
    namespace = {"apiVersion": "v1", "kind": "Namespace"}
    node.kubectl(
        *("apply", "--server-side", "--filename=-"),
        stdin=json.dumps(namespace | {"metadata": {"name": NAMESPACE, "labels": pod_security}}),
    )
    release(node, values())


def release(node: Node, wanted: Mapping[str, object]) -> None:
    """Install the chart with these values, or change what is there to them; returns when it runs so."""
    flags = (f"--namespace={NAMESPACE}", *set_values(wanted))
    home = node.folder / "helm"
    run_helm("upgrade", "--install", RELEASE, str(CHART), *flags, home=home, kubeconfig=node.kubeconfig)
    node.kubectl(
        "rollout", "status", "deployment", f"--namespace={NAMESPACE}", f"--timeout={ROLLOUT_SECONDS}s"
    )


STEP = Step("Tunesmith", install, prepare, bring_images)

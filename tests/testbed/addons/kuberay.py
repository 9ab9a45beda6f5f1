"""KubeRay's controller from its Go module, with the kustomization that it brings."""

import subprocess
from pathlib import Path

from tests.testbed import tools
from tests.testbed.addons import images
from tests.testbed.addons.charts import Object, documents, namespace
from tests.testbed.go_commands import sources
from tests.testbed.node import Node, Say

NAMESPACE = "kuberay-system"
MANAGER = "kuberay-operator"


def install(node: Node, say: Say = lambda line: None) -> None:
    """Install it, CRDs included, or do nothing where it is there; returns when it runs."""
    node.images.bring(images.KUBERAY.name, images.kuberay(say))
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    node.kubectl.apply(namespace(NAMESPACE, **restricted), *map(_mended, documents(_kustomized())))
    node.kubectl("rollout", "status", f"deployment/{MANAGER}", f"--namespace={NAMESPACE}", "--timeout=110s")


def remove(node: Node) -> None:
    """Take it away, with every RayJob; these go first, because the controller has a finalizer on them."""
    node.kubectl("delete", "rayjobs,rayclusters", "--all", "--all-namespaces", "--timeout=60s")
    stream = _kustomized()
    node.kubectl("delete", "--ignore-not-found", "--timeout=90s", "--filename=-", stdin=stream)
    node.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")


def _kustomized() -> str:
    folder: Path = sources("kuberay", "github.com/ray-project/kuberay/ray-operator") / "config" / "default"
    command = [str(tools.kubectl()), "kustomize", str(folder)]
    stream = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # Its objects are in the namespace `default`, which is nobody's place.
    return stream.replace("namespace: default", f"namespace: {NAMESPACE}")


def _mended(one: Object) -> Object:
    """With the image that this node has, and looked at soon."""
    if one["kind"] == "Deployment":
        (container,) = one["spec"]["template"]["spec"]["containers"]
        container |= {"image": images.KUBERAY.name, "imagePullPolicy": "Never"}
        container["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 60}
        container["resources"] = {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "1", "memory": "512Mi"},
        }
    return one

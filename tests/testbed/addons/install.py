"""Everything that stands on a node, put there at the same time where one does not need the other."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

from tests.testbed.addons import envoy_gateway, images, kserve, store
from tests.testbed.kube_api import wait_for
from tests.testbed.kubectl import Kubectl, KubectlFailed
from tests.testbed.node import Node, Say
from tests.testbed.node.image_store import ImageStore
from tests.testbed.steps import Step

GATEWAY_ADDRESS = "10.96.0.80"
"""Of the gateway's Service: one of the cluster's addresses that this machine reaches too."""


def install(node: Node, say: Say = lambda line: None) -> None:
    """Bring a ready node to the state where models are served; what is there already stays as it is."""
    with ThreadPoolExecutor() as pool:
        storing = pool.submit(store.start, node.folder)
        importing = pool.submit(bring_images, node.images, say)
        defining = pool.submit(define, node.kubectl)
        importing.result()
        defining.result()
        say("Images imported, custom resources defined")
        serving = pool.submit(kserve.install, node.kubectl, node.folder / "kserve")
        routing = pool.submit(envoy_gateway.install, node.kubectl, GATEWAY_ADDRESS)
        storing.result()
        say(f"S3 at {store.store(node.folder).endpoint}, buckets {' and '.join(store.BUCKETS)}")
        routing.result()
        say(f"Gateway {envoy_gateway.NAMESPACE}/{envoy_gateway.GATEWAY} at http://{GATEWAY_ADDRESS}")
        serving.result()
        say("KServe ready")


def prepare(say: Say = lambda line: None) -> None:
    """Build and fetch everything that `install` needs."""
    images.archives(say)
    envoy_gateway.crds()
    kserve.crds()


def bring_images(store: ImageStore, say: Say = lambda line: None) -> None:
    """Import those that are not there yet."""
    for image, archive in images.archives(say).items():
        store.bring(image.name, archive)


def define(kubectl: Kubectl) -> None:
    """Apply the custom resource definitions; returns when the API server serves them."""
    for definitions in (envoy_gateway.crds(), kserve.crds()):
        kubectl("apply", "--server-side", "--filename=-", stdin=definitions)
    wait_for(lambda: _established(kubectl), "every custom resource is established", 90)


def _established(kubectl: Kubectl) -> bool:
    # A definition that has no conditions yet is an error for kubectl, not something to wait for.
    with contextlib.suppress(KubectlFailed):
        kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=30s")
        return True
    return False


STEP = Step("KServe, the gateway and S3", install, prepare, bring_images)

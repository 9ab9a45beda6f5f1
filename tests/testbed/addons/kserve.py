"""KServe's controller from its Go module, with the manifests of its own charts.

The charts expect cert-manager and a proxy for metrics. Neither is needed to serve models: the webhooks get a
certificate of ours, and the proxy's container is left out.
"""

import base64
import contextlib
import json
from copy import deepcopy
from functools import cache
from pathlib import Path

from tests.testbed.addons.charts import Chart, Object, documents, namespace
from tests.testbed.addons.images import KSERVE
from tests.testbed.certificates import Authority, Pair
from tests.testbed.go_commands import sources
from tests.testbed.kube_api import wait_for
from tests.testbed.kubectl import Kubectl, KubectlFailed
from tests.testbed.node.control_plane import LIFETIME

NAMESPACE = "kserve"
MANAGER = "kserve-controller-manager"
WEBHOOKS = "kserve-webhook-server-service"
CERTIFICATE_SECRET = "kserve-webhook-server-cert"
"""Where the chart's Deployment looks for the webhooks' certificate."""

VALUES: Object = {
    "kserve": {
        "createSharedResources": False,
        "inferenceServiceConfig": {"enabled": True},
        # Models come by an init container of ours: nothing here downloads by `storageUri`.
        "storagecontainer": {"enabled": False},
        "certManager": {"enabled": False},
        "controller": {
            "image": KSERVE.repository,
            "tag": KSERVE.tag,
            "imagePullPolicy": "Never",
            "deploymentMode": "Standard",
            "resources": {
                "requests": {"cpu": "50m", "memory": "100Mi"},
                "limits": {"cpu": "1", "memory": "500Mi"},
            },
            # No HTTPRoute and no Ingress for an InferenceService: Tunesmith makes its own route.
            "gateway": {"disableIngressCreation": True, "ingressGateway": {"enableGatewayApi": True}},
        },
        # What a container gets that asks for nothing; the chart's own is a whole CPU and 2 GiB.
        "inferenceservice": {
            "resources": {
                "requests": {"cpu": "10m", "memory": "32Mi"},
                "limits": {"cpu": "1", "memory": "256Mi"},
            }
        },
    }
}


@cache
def _charts() -> Path:
    return sources("kserve", "github.com/kserve/kserve") / "charts"


def crds() -> str:
    return Chart(_charts() / "kserve-crd").render("kserve-crd", NAMESPACE, {})


def install(kubectl: Kubectl, folder: Path) -> None:
    """Apply all but the CRDs, which have to be there; returns when the webhooks answer.

    Args:
        kubectl: of the cluster.
        folder: that lives as long as the cluster, for the certificate.
    """
    rendered = documents(Chart(_charts() / "kserve-resources").render("kserve", NAMESPACE, VALUES))
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    kubectl.apply(namespace(NAMESPACE, **restricted), *mended(rendered, certificate(folder)))
    kubectl("rollout", "status", f"deployment/{MANAGER}", f"--namespace={NAMESPACE}", "--timeout=110s")
    wait_for(lambda: _admits(kubectl), "KServe's webhooks answer", 60)


def _admits(kubectl: Kubectl) -> bool:
    """Whether an InferenceService would be taken; a ready pod's webhooks can need another moment."""
    trial = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "trial", "namespace": NAMESPACE},
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": "none"}]}},
    }
    with contextlib.suppress(KubectlFailed):
        kubectl("create", "--dry-run=server", "--filename=-", stdin=json.dumps(trial))
        return True
    return False


def certificate(folder: Path) -> Pair:
    """The webhooks' certificate, the same for the same folder."""
    if not (folder / "webhook.crt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        Authority(folder, LIFETIME).server("webhook", (), (f"{WEBHOOKS}.{NAMESPACE}.svc",))
    return Pair(folder / "webhook.crt", folder / "webhook.key")


def mended(rendered: list[Object], pair: Pair) -> list[Object]:
    """The chart's objects without cert-manager's, with the certificate of ours where it belongs."""
    authority = base64.b64encode((pair.certificate.parent / "ca.crt").read_bytes()).decode()
    kept = [_mended(one, authority) for one in rendered if one["kind"] != "Certificate"]
    return [_secret(pair), *kept]


def _mended(original: Object, authority: str) -> Object:
    changed = deepcopy(original)
    if changed["kind"] in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        changed["metadata"].pop("annotations", None)  # for cert-manager's injector
        for webhook in changed["webhooks"]:
            webhook["clientConfig"]["caBundle"] = authority
    if changed["kind"] == "Deployment":
        pod = changed["spec"]["template"]["spec"]
        (manager,) = (one for one in pod["containers"] if one["name"] == "manager")
        # By default it counts as ready 30 s after its start at the earliest.
        manager["readinessProbe"] |= {"initialDelaySeconds": 0, "periodSeconds": 1}
        pod["containers"] = [manager]
    return changed


def _secret(pair: Pair) -> Object:
    files = {"tls.crt": pair.certificate, "tls.key": pair.key}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": CERTIFICATE_SECRET, "namespace": NAMESPACE},
        "type": "kubernetes.io/tls",
        "data": {name: base64.b64encode(path.read_bytes()).decode() for name, path in files.items()},
    }

"""Asking what a ModelDeployment serves, from outside the cluster too."""

import socket
from urllib.parse import urlsplit

from tunesmith.endpoint import Endpoint
from tunesmith.rollout_ends import condition
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import ModelDeploymentCondition, SpecInvalid, TunesmithError
from tunesmith_api.revisions import PREDICTOR_PORT, REVISION_HEADER, predictor_name
from tunesmith_api.status import ModelDeploymentStatus

_INSIDE = ".svc"
"""How the address of a deployment ends that no gateway knows."""
_GATEWAY_ADVICE = (
    "Give the gateway's address by --gateway HOST[:PORT] or TUNESMITH_GATEWAY: kubectl get gateways -A shows "
    "it.\n"
)


def open_deployment(
    deployment: ModelDeployment,
    *,
    gateway: str = "",
    revision: str | None = None,
    digest: str | None = None,
    wait_seconds: float = 0.0,
) -> Endpoint:
    """Find out what answers for a ModelDeployment.

    Args:
        deployment: as it stands.
        gateway: ``HOST[:PORT]`` of the gateway, where the deployment's host name does not lead to it.
        revision: the only one that may answer; whichever has the request unless given.
        digest: of the package that must be served.
        wait_seconds: how long it may take until it is there and ready.

    Raises:
        SpecInvalid: it knows no such revision.
        DigestMismatch: another package answers.
        TunesmithError: it has no address yet, cannot be reached from here, or does not answer.
    """
    status = deployment.status or ModelDeploymentStatus()
    name = f"deployment/{deployment.name}"
    if status.url is None or status.stable is None:
        ready = condition(deployment, ModelDeploymentCondition.READY)
        said = f": {ready.message}" if ready is not None and ready.message else "."
        raise TunesmithError(
            f"{name} has no revision that answers yet{said}", f"Wait for it with tunesmith wait {name}."
        )
    headers = {}
    if revision is not None:
        digest = _digest(deployment.name, status, revision, digest)
        headers[REVISION_HEADER] = revision
    by_hand = _by_hand(deployment, revision or status.stable.revision)
    host = urlsplit(status.url).hostname or ""
    inside = host.endswith(_INSIDE)
    if inside and revision is not None:
        raise TunesmithError(
            f"{name} has no gateway, so no single revision can be asked at {status.url}.", by_hand
        )
    if (inside or not gateway) and not _resolves(host):
        known = "" if inside else _GATEWAY_ADVICE
        raise TunesmithError(f"{host} cannot be found from here.", known + by_hand)
    advice = f"See what is the case with tunesmith status {name}. {by_hand}"
    if gateway and not inside:
        advice = f"Check that {gateway} is the gateway's address. {advice}"
    return Endpoint(
        status.url,
        digest=digest,
        wait_seconds=wait_seconds,
        gateway="" if inside else gateway,
        headers=headers,
        advice=advice,
    )


def _digest(name: str, status: ModelDeploymentStatus, revision: str, digest: str | None) -> str:
    """What the revision must serve: a gateway that no longer knows it would send the request elsewhere."""
    known = {one.revision: one.digest for one in (status.canary, status.stable, *status.history) if one}
    if revision not in known:
        raise SpecInvalid(f"deployment/{name} knows no revision {revision}.", f"It knows {', '.join(known)}.")
    if digest not in (None, known[revision]):
        raise SpecInvalid(f"{revision} has {known[revision]}, not {digest}.", "Leave --digest out.")
    return known[revision]


def _by_hand(deployment: ModelDeployment, revision: str) -> str:
    # A Deployment, for kubectl cannot forward to another port of a Service without an address of its own,
    # which KServe can be told to make.
    forward = (
        f"kubectl -n {deployment.metadata.namespace} port-forward "
        f"deployment/{predictor_name(revision)} {PREDICTOR_PORT}:{PREDICTOR_PORT}"
    )
    return (
        f"To ask {revision} without a gateway: {forward}\n"
        f"and then: tunesmith predict http://localhost:{PREDICTOR_PORT} IMAGE"
    )


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except (OSError, UnicodeError):
        return False

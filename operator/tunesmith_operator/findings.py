"""What is the case, told to people; and what it means when the API server will not do what we ask of it."""

import re
from dataclasses import dataclass

from tunesmith_api.reasons import Reason
from tunesmith_operator.kinds import RAY_JOB
from tunesmith_operator.obstacles import Refusal

_NOT_PERMITTED = re.compile(r' cannot \w+ resource "|attempting to grant RBAC')


@dataclass(frozen=True)
class Finding:
    """What is the case: a reason to search for, a sentence that ends with what to do next."""

    reason: Reason
    message: str


def finding_of(refusal: Refusal) -> Finding:
    """The reason for a refusal, told by the words that Kubernetes' own admission uses."""
    said = refusal.message.rstrip(".")
    what = f"The {refusal.kind} cannot be {refusal.deed}"
    if "exceeded quota" in said or "failed quota" in said:
        return Finding(
            Reason.QUOTA_EXCEEDED,
            f"{what}: {said}. Free some of the namespace's quota, or have it raised; it is tried again.",
        )
    if refusal.kind == RAY_JOB.name and refusal.status == 404:
        return Finding(
            Reason.RUNTIME_MISSING,
            "compute.workers above 0 needs KubeRay, and this cluster knows no RayJob. Install KubeRay 1.6 or "
            "newer, or suspend the job, set compute.workers to 0 and resume it; it is tried again.",
        )
    if "is being terminated" in said:
        return Finding(Reason.INTERRUPTED, f"{what}: the namespace is being deleted.")
    if refusal.status == 403 and _NOT_PERMITTED.search(said):
        return Finding(
            Reason.PERMISSION_MISSING,
            f"{what}: {said}. The operator's role lacks a permission: apply the roles of this version again.",
        )
    return Finding(
        Reason.ADMISSION_REFUSED,
        f"{what}: {said}. Change the policy that says so, or what it objects to; it is tried again.",
    )

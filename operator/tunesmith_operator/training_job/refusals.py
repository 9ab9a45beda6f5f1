"""What it means when the API server will not do what we ask of it."""

import re

from tunesmith_api.reasons import Reason
from tunesmith_operator.training_job.observed import Refusal
from tunesmith_operator.training_job.pods import Finding

_NOT_PERMITTED = re.compile(r' cannot \w+ resource "|attempting to grant RBAC')


def finding_of(refusal: Refusal) -> Finding:
    """The reason for a refusal, told by the words that Kubernetes' own admission uses."""
    said = refusal.message.rstrip(".")
    what = f"The {refusal.kind} cannot be {refusal.deed}"
    if "exceeded quota" in said or "failed quota" in said:
        return Finding(
            Reason.QUOTA_EXCEEDED,
            f"{what}: {said}. Free some of the namespace's quota, or have it raised; it is tried again.",
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

"""Why something is as it is: reasons, condition types, the error tree and the exit codes.

A reason is a word that people search for. It is the ``reason`` of a condition, the reason of the error that
caused it and, through the exit code, what a pod says about its own end. The tree::

    TunesmithError
    ├── SpecInvalid
    ├── DatasetError ─ DatasetMissing, DatasetInvalid
    ├── StoreError ─ StoreUnreachable, StoreDenied, StoreFull, ObjectMissing
    ├── SecretMissing
    ├── WeightsMissing
    ├── PackageError ─ PackageInvalid, DigestMismatch, ModelUnverified, SelfTestFailed
    ├── SearchFailed, Diverged, OutOfMemory, DeviceMissing
    ├── GateFailed
    ├── DiskFull, DeadlineExceeded
    ├── RunInProgress
    └── Interrupted

Other rooms add their own below it (the decoder's ``ImageInvalid``).
"""

from enum import StrEnum
from typing import ClassVar


class TrainingJobCondition(StrEnum):
    """Condition types of a TrainingJob; each is good news when it is True, except Failed and Suspended."""

    ADMITTED = "Admitted"
    """The spec is understood and a Job for it exists (or waits in a queue)."""
    DATA_READY = "DataReady"
    """The dataset is indexed, checked, split and has a digest."""
    SEARCH_COMPLETE = "SearchComplete"
    """The search is over and a candidate is chosen."""
    VERIFIED = "Verified"
    """The candidate passed every gate on the test split."""
    SUCCEEDED = "Succeeded"
    """A verified model package is in the store."""
    FAILED = "Failed"
    """The job is over without a verified model."""
    SUSPENDED = "Suspended"
    """The job waits because spec.suspend is true."""


class ModelDeploymentCondition(StrEnum):
    """Condition types of a ModelDeployment; each is good news when it is True."""

    READY = "Ready"
    """Requests to status.url are answered by a verified model."""
    PROGRESSING = "Progressing"
    """A new revision is on its way to all the traffic."""
    HEALTHY = "Healthy"
    """Errors and latency are within the limits of rollout.analysis."""
    INPUTS_STABLE = "InputsStable"
    """The images that arrive look like those the model was trained on."""


class Reason(StrEnum):
    """Why a condition has its status, why a trial ended, why a command failed."""

    # The spec and what it refers to
    SPEC_INVALID = "SpecInvalid"
    """The resource breaks a rule of its schema; the message lists each field."""
    SECRET_MISSING = "SecretMissing"
    """A Secret that the spec names, or a key in it, does not exist."""
    TRAINING_JOB_MISSING = "TrainingJobMissing"
    """The TrainingJob that the spec names does not exist."""
    NAME_CONFLICT = "NameConflict"
    """An object of the name we need exists and belongs to somebody else."""
    RUNTIME_MISSING = "RuntimeMissing"
    """KServe (for a ModelDeployment) or KubeRay (for a TrainingJob of several pods) is not installed."""
    GATEWAY_MISSING = "GatewayMissing"
    """Canary and Shadow need the Gateway API and a Gateway; there is none."""
    MIRROR_UNSUPPORTED = "MirrorUnsupported"
    """This gateway does not mirror requests, so Shadow cannot work."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """The namespace's quota leaves no room for the pods."""
    ADMISSION_REFUSED = "AdmissionRefused"
    """A policy of the cluster (Pod Security, a webhook, an admission policy) forbids the pods."""
    PERMISSION_MISSING = "PermissionMissing"
    """The operator's role lacks a permission that it needs."""

    # Data
    DATASET_MISSING = "DatasetMissing"
    """Nothing lies at dataset.uri."""
    DATASET_INVALID = "DatasetInvalid"
    """The dataset breaks a policy of dataset.checks, or has no usable classes."""
    IMAGE_INVALID = "ImageInvalid"
    """An image cannot be decoded or is beyond the size limits."""
    LABEL_UNKNOWN = "LabelUnknown"
    """A label is not among the model's classes."""

    # Store and disk
    STORE_UNREACHABLE = "StoreUnreachable"
    """The store did not answer for longer than we wait."""
    STORE_DENIED = "StoreDenied"
    """The store refuses these credentials, or there are none."""
    STORE_FULL = "StoreFull"
    """The store takes no more data."""
    OBJECT_MISSING = "ObjectMissing"
    """An object that should be in the store is not there."""
    DISK_FULL = "DiskFull"
    """The machine's own disk (cache, checkpoints) is full."""

    # Training
    WEIGHTS_MISSING = "WeightsMissing"
    """Pretrained weights cannot be had from where the backbone says."""
    DEVICE_MISSING = "DeviceMissing"
    """The spec asks for GPUs and this machine has none, or too few."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The trial or the pod needed more memory than it may have."""
    DIVERGED = "Diverged"
    """The loss of the trial became infinite or not a number."""
    EARLY_STOPPED = "EarlyStopped"
    """Early stopping ended the trial: others did better after as many epochs."""
    BUDGET_SPENT = "BudgetSpent"
    """The search ended because its time or its trials were used up."""
    GOAL_REACHED = "GoalReached"
    """The search ended because the primary objective's goal was reached."""
    SEARCH_FAILED = "SearchFailed"
    """No trial ended with a usable model."""
    GATE_FAILED = "GateFailed"
    """The model missed a limit of verification.gates; it is kept but never served."""
    GATES_PASSED = "GatesPassed"
    """The model met every limit of verification.gates."""

    # The package
    PACKAGE_INVALID = "PackageInvalid"
    """A model package lacks a file, holds an extra one or cannot be read."""
    DIGEST_MISMATCH = "DigestMismatch"
    """Bytes in the store are not those whose digest was written down."""
    MODEL_UNVERIFIED = "ModelUnverified"
    """The package did not pass its gates and nothing will serve it."""
    SELF_TEST_FAILED = "SelfTestFailed"
    """The predictor could not reproduce the package's golden predictions."""

    # Running
    QUEUED = "Queued"
    """The job waits for its turn in a queue (Kueue) or for a lease."""
    RUNNING = "Running"
    """Work is going on."""
    SUSPENDED = "Suspended"
    """spec.suspend is true."""
    UNSCHEDULABLE = "Unschedulable"
    """No node fits the pod."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    """A container image cannot be pulled."""
    EVICTED = "Evicted"
    """The node pushed the pod out; it is started again."""
    RUN_IN_PROGRESS = "RunInProgress"
    """Another process holds the lease of the same run."""
    INTERRUPTED = "Interrupted"
    """The process was asked to stop; everything is kept and the same command goes on."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """activeDeadlineSeconds (or the progress deadline of a rollout) has passed."""
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    """The job failed more often than backoffLimit allows."""
    COMPLETED = "Completed"
    """Everything asked for is done."""
    INTERNAL_ERROR = "InternalError"
    """A fault of Tunesmith itself; please report it with the message."""

    # Deployment
    ROLLING_OUT = "RollingOut"
    """A new revision takes over step by step."""
    AWAITING_APPROVAL = "AwaitingApproval"
    """approval is Manual and the new revision waits for a person."""
    PAUSED = "Paused"
    """spec.rollout.paused is true."""
    AWAITING_REQUESTS = "AwaitingRequests"
    """The analysis waits for minimumRequests before it judges."""
    PROMOTED = "Promoted"
    """The new revision has all the traffic."""
    ROLLED_BACK = "RolledBack"
    """The traffic is back at the previous revision."""
    CANARY_REJECTED = "CanaryRejected"
    """The analysis or the revision's own start refused the new revision; it is not tried again."""
    MODEL_PENDING = "ModelPending"
    """The TrainingJob has no verified model yet."""
    SERVING = "Serving"
    """The stable revision answers."""
    PREDICTOR_UNAVAILABLE = "PredictorUnavailable"
    """No pod of the stable revision is ready."""
    WITHIN_LIMITS = "WithinLimits"
    """Every metric of the analysis is within its limit."""
    LIMIT_EXCEEDED = "LimitExceeded"
    """A metric of the analysis is beyond its limit."""
    DRIFT_DETECTED = "DriftDetected"
    """Predictions or embeddings of the last window differ from the reference."""
    NO_DRIFT = "NoDrift"
    """The last window looks like the reference."""
    TOO_FEW_REQUESTS = "TooFewRequests"
    """The window is not full yet, so nothing is said about drift."""
    RETRAINING_STARTED = "RetrainingStarted"
    """A new TrainingJob was created by schedule or because of drift."""
    COOLING_DOWN = "CoolingDown"
    """Retraining is due but retraining.cooldownSeconds have not passed."""


class TunesmithError(Exception):
    """An error that a person can act on.

    Attributes:
        reason: the word to search for; fixed by the class.
        message: what is wrong, as a sentence.
        next_step: what to do about it, as a sentence; may be empty.
    """

    reason: ClassVar[Reason] = Reason.INTERNAL_ERROR

    def __init__(self, message: str, next_step: str = "") -> None:
        """Both texts are whole sentences; ``str(error)`` puts them one after the other."""
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        """The message followed by the next step."""
        return f"{self.message} {self.next_step}".rstrip()


class SpecInvalid(TunesmithError):
    """A resource breaks its schema or one of its rules.

    Attributes:
        violations: one line per violation, as the API server would print them.
    """

    reason = Reason.SPEC_INVALID

    def __init__(self, message: str, next_step: str = "", violations: tuple[str, ...] = ()) -> None:
        """As the base class, and the violations one by one."""
        super().__init__(message, next_step)
        self.violations = violations


class DatasetError(TunesmithError):
    """The dataset cannot be used."""

    reason = Reason.DATASET_INVALID


class DatasetMissing(DatasetError):
    """Nothing lies at dataset.uri."""

    reason = Reason.DATASET_MISSING


class DatasetInvalid(DatasetError):
    """The dataset breaks a policy of dataset.checks."""

    reason = Reason.DATASET_INVALID


class StoreError(TunesmithError):
    """The store cannot do what was asked."""

    reason = Reason.STORE_UNREACHABLE


class StoreUnreachable(StoreError):
    """The store did not answer for as long as we waited."""

    reason = Reason.STORE_UNREACHABLE


class StoreDenied(StoreError):
    """The store refuses the credentials."""

    reason = Reason.STORE_DENIED


class StoreFull(StoreError):
    """The store takes no more data."""

    reason = Reason.STORE_FULL


class ObjectMissing(StoreError):
    """The object is not in the store."""

    reason = Reason.OBJECT_MISSING


class SecretMissing(TunesmithError):
    """A Secret or the variables that stand for it locally are missing."""

    reason = Reason.SECRET_MISSING


class WeightsMissing(TunesmithError):
    """Pretrained weights cannot be had."""

    reason = Reason.WEIGHTS_MISSING


class DeviceMissing(TunesmithError):
    """The spec asks for GPUs that are not there."""

    reason = Reason.DEVICE_MISSING


class PackageError(TunesmithError):
    """A model package cannot be used."""

    reason = Reason.PACKAGE_INVALID


class PackageInvalid(PackageError):
    """A model package lacks a file, holds an extra one or cannot be read."""

    reason = Reason.PACKAGE_INVALID


class DigestMismatch(PackageError):
    """Bytes are not those whose digest was written down."""

    reason = Reason.DIGEST_MISMATCH


class ModelUnverified(PackageError):
    """The package did not pass its gates."""

    reason = Reason.MODEL_UNVERIFIED


class SelfTestFailed(PackageError):
    """The model does not say what its package promises."""

    reason = Reason.SELF_TEST_FAILED


class SearchFailed(TunesmithError):
    """No trial ended with a usable model."""

    reason = Reason.SEARCH_FAILED


class Diverged(TunesmithError):
    """The loss of a trial became infinite or not a number."""

    reason = Reason.DIVERGED


class OutOfMemory(TunesmithError):
    """More memory was needed than there is."""

    reason = Reason.OUT_OF_MEMORY


class GateFailed(TunesmithError):
    """The model missed a limit of verification.gates."""

    reason = Reason.GATE_FAILED


class DiskFull(TunesmithError):
    """The machine's own disk is full."""

    reason = Reason.DISK_FULL


class DeadlineExceeded(TunesmithError):
    """activeDeadlineSeconds have passed."""

    reason = Reason.DEADLINE_EXCEEDED


class RunInProgress(TunesmithError):
    """Another process works on the same run."""

    reason = Reason.RUN_IN_PROGRESS


class Interrupted(TunesmithError):
    """The process was asked to stop."""

    reason = Reason.INTERRUPTED


EXIT_CODES: dict[Reason, int] = {
    Reason.SPEC_INVALID: 10,
    Reason.DATASET_MISSING: 11,
    Reason.DATASET_INVALID: 12,
    Reason.IMAGE_INVALID: 13,
    Reason.STORE_UNREACHABLE: 14,
    Reason.STORE_DENIED: 15,
    Reason.STORE_FULL: 16,
    Reason.OBJECT_MISSING: 17,
    Reason.DISK_FULL: 18,
    Reason.SECRET_MISSING: 19,
    Reason.WEIGHTS_MISSING: 20,
    Reason.DEVICE_MISSING: 21,
    Reason.OUT_OF_MEMORY: 22,
    Reason.DIVERGED: 23,
    Reason.SEARCH_FAILED: 24,
    Reason.GATE_FAILED: 25,
    Reason.PACKAGE_INVALID: 26,
    Reason.DIGEST_MISMATCH: 27,
    Reason.MODEL_UNVERIFIED: 28,
    Reason.SELF_TEST_FAILED: 29,
    Reason.DEADLINE_EXCEEDED: 30,
    Reason.RUN_IN_PROGRESS: 31,
    Reason.CANARY_REJECTED: 32,
    Reason.INTERNAL_ERROR: 63,
    Reason.INTERRUPTED: 75,
}
"""The exit code of a process that ends for this reason; 0 is success, 75 is sysexits' EX_TEMPFAIL.

A Job's ``podFailurePolicy`` and the operator read the reason of a pod's end from its exit code. The codes are
part of the API: a number is never given to another reason.
"""

RETRYABLE: frozenset[Reason] = frozenset(
    {
        Reason.STORE_UNREACHABLE,
        Reason.RUN_IN_PROGRESS,
        Reason.INTERRUPTED,
        Reason.EVICTED,
        Reason.INTERNAL_ERROR,
    }
)
"""Reasons after which the same spec may succeed without anybody changing anything."""


def reason_named(word: str) -> Reason | None:
    """The reason of this word, or None for one that this version does not know."""
    return next((reason for reason in Reason if reason.value == word), None)


def reason_of_exit_code(code: int) -> Reason | None:
    """The reason that a process named by its exit code, or None for success and foreign codes."""
    return next((reason for reason, known in EXIT_CODES.items() if known == code), None)


def exit_code(error: BaseException) -> int:
    """The exit code for an error: its reason's own, or InternalError's for anything unforeseen."""
    reason = error.reason if isinstance(error, TunesmithError) else Reason.INTERNAL_ERROR
    return EXIT_CODES.get(reason, EXIT_CODES[Reason.INTERNAL_ERROR])

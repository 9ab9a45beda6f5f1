"""The objects that a TrainingJob owns, each made by one pure function as a plain dict.

All have the same name, so that ``kubectl logs job/flowers-trainer`` needs no look-up; all are owned by the
TrainingJob, so that Kubernetes' own garbage collection removes them with it.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from tunesmith_api.fields import API_VERSION, GROUP
from tunesmith_api.reasons import EXIT_CODES, RETRYABLE, Reason
from tunesmith_api.training_job import ComputeSpec, TrainingJob
from tunesmith_operator.kinds import (
    CONFIG_MAP,
    JOB,
    JOB_LABEL,
    NETWORK_POLICY,
    ROLE,
    ROLE_BINDING,
    SERVICE_ACCOUNT,
    TRAINING_JOB,
    Kind,
    Object,
)
from tunesmith_operator.parts import (
    PVC_ROOT,
    RESTRICTED,
    credentials,
    head,
    in_pod,
    labels_of,
    placement,
    restricted_pod,
)
from tunesmith_operator.settings import Settings

CONTAINER = "trainer"
TRAINER = ("python", "-m", "tunesmith_trainer")
COMPUTE_ANNOTATION = "tunesmith.dev/compute"
"""Of the Job: which compute its pods were made for."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SPEC_FILE, OUTCOME_FILE, FAILURES_FILE = "spec.json", "outcome.json", "failures.json"
"""Keys of the ConfigMap: what the trainer reads; how it ended, which outlives a wiped status; which of its
RayJobs have failed, which we count because KubeRay does not ask why."""
CACHE_FOLDER, SPEC_FOLDER = "/var/cache/tunesmith", "/etc/tunesmith"
DASHBOARD_PORT = 8265
KUBERAY_PODS = {"matchLabels": {"app.kubernetes.io/component": "kuberay-operator"}}
"""As its manifests and its chart have them."""
INTERRUPTED_CODE = EXIT_CODES[Reason.INTERRUPTED]
FINAL_CODES = sorted(code for reason, code in EXIT_CODES.items() if reason not in RETRYABLE)
"""Exit codes after which another pod would end the same way."""
_NOT_FROZEN = {"suspend", "backoff_limit", "active_deadline_seconds", "ttl_seconds_after_finished"}
_UNITS: dict[str, float] = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15} | {
    f"{prefix}i": 1024**power for power, prefix in enumerate("KMGTP", start=1)
}


def child_name(job_name: str) -> str:
    """The name of a TrainingJob's children: at most 63 characters, so that it can be a label."""
    if len(job_name) <= 55:
        return f"{job_name}-trainer"
    return f"{job_name[:46]}-{hashlib.sha256(job_name.encode()).hexdigest()[:8]}-trainer"


def compute_mark(compute: ComputeSpec) -> str:
    """Stands for a compute section; 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(compute.to_dict(), sort_keys=True).encode()).hexdigest()[:16]


def companions(
    job: TrainingJob, outcome: str | None = None, failures: tuple[str, ...] = ()
) -> tuple[tuple[Kind, Object], ...]:
    """What a trainer's pod needs around it, in the order of creation."""
    return (
        (CONFIG_MAP, config_map(job, outcome, failures)),
        (SERVICE_ACCOUNT, service_account(job)),
        (ROLE, role(job)),
        (ROLE_BINDING, role_binding(job)),
        (NETWORK_POLICY, network_policy(job)),
    )


def config_map(job: TrainingJob, outcome: str | None = None, failures: tuple[str, ...] = ()) -> Object:
    """The spec as the trainer reads it; failed RayJobs by their uids; once the job is over, how it ended."""
    frozen = {
        "apiVersion": API_VERSION,
        "kind": TRAINING_JOB.name,
        "metadata": {"name": job.name, "namespace": job.metadata.namespace},
        "spec": job.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_NOT_FROZEN),
    }
    data = {SPEC_FILE: json.dumps(_in_pod(frozen), indent=1, sort_keys=True)}
    if outcome is not None:
        data[OUTCOME_FILE] = outcome
    if failures:
        data[FAILURES_FILE] = json.dumps(failures)
    return {**head_of(CONFIG_MAP, job), "data": data}


def service_account(job: TrainingJob) -> Object:
    """The trainer's identity."""
    return {**head_of(SERVICE_ACCOUNT, job), "automountServiceAccountToken": False}


def role(job: TrainingJob) -> Object:
    """May read this one TrainingJob and write its status, and nothing else."""
    only = {"apiGroups": [GROUP], "resourceNames": [job.name]}
    rules = [
        {**only, "resources": ["trainingjobs"], "verbs": ["get"]},
        {**only, "resources": ["trainingjobs/status"], "verbs": ["patch"]},
    ]
    return {**head_of(ROLE, job), "rules": rules}


def role_binding(job: TrainingJob) -> Object:
    """Gives the trainer its role."""
    name = child_name(job.name)
    return {
        **head_of(ROLE_BINDING, job),
        "roleRef": {"apiGroup": ROLE.group, "kind": ROLE.name, "name": name},
        "subjects": [{"kind": SERVICE_ACCOUNT.name, "name": name, "namespace": job.metadata.namespace}],
    }


def network_policy(job: TrainingJob) -> Object:
    """Nobody may connect to the trainer. What it connects to is the store, DNS and the API server.

    The pods of a RayJob may connect to each other, and KubeRay to the server that takes the trainer.
    """
    pods = {"matchLabels": {JOB_LABEL: job.name}}
    spec: dict[str, Any] = {"podSelector": pods, "policyTypes": ["Ingress"]}
    if job.spec.compute.workers:
        spec["ingress"] = [
            {"from": [{"podSelector": pods}]},
            {
                "from": [{"namespaceSelector": {}, "podSelector": KUBERAY_PODS}],
                "ports": [{"protocol": "TCP", "port": DASHBOARD_PORT}],
            },
        ]
    return {**head_of(NETWORK_POLICY, job), "spec": spec}


def batch_job(job: TrainingJob, settings: Settings) -> Object:
    """The Job whose pod trains; written once, later only ``suspend`` and the limits change."""
    head = head_of(JOB, job)
    queue = job.metadata.labels.get(QUEUE_LABEL)
    if queue:
        head["metadata"]["labels"][QUEUE_LABEL] = queue
    head["metadata"]["annotations"] = {COMPUTE_ANNOTATION: compute_mark(job.spec.compute)}
    spec: dict[str, Any] = {
        "backoffLimit": job.spec.backoff_limit,
        "completions": 1,
        "parallelism": 1,
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                _exit_rule("Ignore", [INTERRUPTED_CODE]),
                _exit_rule("FailJob", FINAL_CODES),
            ]
        },
        "suspend": job.spec.suspend or bool(queue),
        "template": pod_template(job, settings),
    }
    if job.spec.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = job.spec.active_deadline_seconds
    return {**head, "spec": spec}


def pod_template(job: TrainingJob, settings: Settings) -> Object:
    """The trainer's pod: Pod Security "restricted", a read-only root, folders for what it writes."""
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": child_name(job.name),
        "automountServiceAccountToken": True,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.grace_seconds,
        "securityContext": restricted_pod(),
        "containers": [_container(job, settings)],
        "volumes": _volumes(job),
        **placement(job.spec.compute, {JOB_LABEL: job.name}),
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return {"metadata": {"labels": _labels(job)}, "spec": spec}


def trainer_arguments(job: TrainingJob) -> list[str]:
    """What the trainer is called with."""
    return [
        *("--spec", f"{SPEC_FOLDER}/{SPEC_FILE}"),
        *("--cache-dir", CACHE_FOLDER),
        *("--training-job-uid", job.metadata.uid or ""),
    ]


def _container(job: TrainingJob, settings: Settings) -> Object:
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": settings.trainer_image,
        "command": list(TRAINER),
        "args": trainer_arguments(job),
        "env": [{"name": "HOME", "value": CACHE_FOLDER}, *_credentials(job)],
        "resources": _resources(job.spec.compute),
        "terminationMessagePolicy": "File",
        "securityContext": dict(RESTRICTED),
        "volumeMounts": [
            {"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True},
            {"name": "cache", "mountPath": CACHE_FOLDER},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
            *({"name": _volume(claim), "mountPath": f"{PVC_ROOT}/{claim}"} for claim in claims(job)),
        ],
    }
    if settings.image_pull_policy:
        container["imagePullPolicy"] = settings.image_pull_policy
    return container


def _volumes(job: TrainingJob) -> list[Object]:
    return [
        {
            "name": "spec",
            "configMap": {"name": child_name(job.name), "items": [{"key": SPEC_FILE, "path": SPEC_FILE}]},
        },
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": shared_memory(job.spec.compute)},
        },
        *({"name": _volume(claim), "persistentVolumeClaim": {"claimName": claim}} for claim in claims(job)),
    ]


def shared_memory(compute: ComputeSpec) -> str:
    """The size of /dev/shm: what the spec says, or a quarter of the memory, or 2Gi.

    Ray keeps its objects there; Kubernetes' own 64 MB are too few for it.
    """
    if compute.shared_memory:
        return compute.shared_memory
    if not compute.memory:
        return "2Gi"
    return f"{max(1, round(amount(compute.memory) / 4 / 1024**2))}Mi"


def amount(quantity: str) -> float:
    """A quantity of Kubernetes as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]


def _resources(compute: ComputeSpec) -> Object:
    requests = {name: value for name in ("cpu", "memory") if (value := getattr(compute, name))}
    limits = {"memory": compute.memory} if compute.memory else {}
    if compute.gpus:
        limits["nvidia.com/gpu"] = str(compute.gpus)
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def _credentials(job: TrainingJob) -> Iterator[Object]:
    """Each Secret's keys as variables, one by one; the prefix says what they are for."""
    secrets = [("DATASET", job.spec.dataset.secret_ref), ("STORE", job.spec.store.secret_ref)]
    secrets += [(f"BACKBONE_{index}", one.weights_secret_ref) for index, one in enumerate(job.spec.backbones)]
    for purpose, reference in secrets:
        if reference is None:
            continue
        yield from credentials(reference.name, f"TUNESMITH_{purpose}_")


def addresses(job: TrainingJob) -> Iterator[tuple[str, str]]:
    """Every address in the spec, as field and URI."""
    yield "spec.dataset.uri", job.spec.dataset.uri
    for index, backbone in enumerate(job.spec.backbones):
        if backbone.weights_uri:
            yield f"spec.backbones[{index}].weightsUri", backbone.weights_uri
    yield "spec.store.uri", job.spec.store.uri


def claims(job: TrainingJob) -> tuple[str, ...]:
    """The PersistentVolumeClaims that the spec's addresses name, each once."""
    found = [
        uri.removeprefix("pvc://").partition("/")[0] for _, uri in addresses(job) if uri.startswith("pvc://")
    ]
    return tuple(dict.fromkeys(found))


def _in_pod(value: Any) -> Any:
    """The same with each pvc://CLAIM/PATH as the folder where the pod has it."""
    if isinstance(value, dict):
        return {key: _in_pod(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_pod(item) for item in value]
    return in_pod(value) if isinstance(value, str) else value


def _volume(claim: str) -> str:
    """A claim's volume; volume names are labels, names of claims may be longer and hold dots."""
    return f"pvc-{hashlib.sha256(claim.encode()).hexdigest()[:12]}"


def _exit_rule(action: str, codes: list[int]) -> Object:
    return {
        "action": action,
        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": codes},
    }


def _labels(job: TrainingJob) -> dict[str, str]:
    return labels_of("trainer", {JOB_LABEL: job.name})


def head_of(kind: Kind, job: TrainingJob) -> Object:
    """What every child begins with: its kind, its name, whose it is."""
    name, labels = child_name(job.name), {JOB_LABEL: job.name}
    return head(kind, name, TRAINING_JOB, job.metadata, "trainer", labels)

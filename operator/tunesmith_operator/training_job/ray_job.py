"""KubeRay's RayJob, for a TrainingJob that asks for several pods: the same pod more than once, one trainer.

KubeRay starts the first pod as the head of a Ray cluster and the others as its workers, then submits the
trainer to the head through Ray's job server (``HTTPMode``: no further pod, and a head that was replaced is
given the trainer again). The job server is a part of Ray's dashboard, so that one runs; it asks for the
cluster's token, which KubeRay makes, and answers the job's own pods and KubeRay only.
"""

import hashlib
import math
from typing import Any

from tunesmith_api.training_job import TrainingJob
from tunesmith_operator.kinds import JOB, RAY_JOB, Kind, Object
from tunesmith_operator.settings import Settings
from tunesmith_operator.training_job.children import (
    CACHE_FOLDER,
    COMPUTE_ANNOTATION,
    DASHBOARD_PORT,
    QUEUE_LABEL,
    TRAINER,
    amount,
    batch_job,
    compute_mark,
    head_of,
    pod_template,
    trainer_arguments,
)

RAY_VERSION = "2.60.0"
"""Of the trainer's image; KubeRay wants to know, because tokens are new in Ray 2.52."""
GCS_PORT, AGENT_PORT, METRICS_PORT = 6379, 52365, 8080
"""Where KubeRay looks for them."""
LONGEST_NAME = 47
"""KubeRay's limit: it makes names of RayClusters, pods and Services of it."""
OWN_COMMAND = "ray.io/overwrite-container-cmd"
"""KubeRay would start Ray by a script in bash."""
LOG = "/proc/1/fd/1"
"""The head's own log: what a submitted job prints goes to a file that nobody sees."""


def run_of(job: TrainingJob, settings: Settings) -> tuple[Kind, Object]:
    """What has the pods made: a Job for one, a RayJob for several."""
    if job.spec.compute.workers:
        return RAY_JOB, ray_job(job, settings)
    return JOB, batch_job(job, settings)


def ray_job_name(job_name: str) -> str:
    """The RayJob's name: like those of the other children, but shorter, and never with a digit in front."""
    name = f"{job_name}-trainer"
    if len(name) <= LONGEST_NAME and name[0].isalpha():
        return name
    return f"t-{job_name[:28]}-{hashlib.sha256(job_name.encode()).hexdigest()[:8]}-trainer"


def ray_job(job: TrainingJob, settings: Settings) -> Object:
    """The RayJob; written once, later only ``suspend`` and the limits change."""
    head = head_of(RAY_JOB, job)
    head["metadata"]["name"] = ray_job_name(job.name)
    queue = job.metadata.labels.get(QUEUE_LABEL)
    if queue:
        head["metadata"]["labels"][QUEUE_LABEL] = queue
    head["metadata"]["annotations"] = {
        COMPUTE_ANNOTATION: compute_mark(job.spec.compute),
        OWN_COMMAND: "true",
    }
    workers = job.spec.compute.workers
    spec: dict[str, Any] = {
        "submissionMode": "HTTPMode",
        "entrypoint": " ".join([*TRAINER, *trainer_arguments(job), "--copy-events", LOG]),
        "backoffLimit": 0,  # KubeRay would try again whatever the exit code; so we do, see decide.tried_again
        "suspend": job.spec.suspend or bool(queue),
        # A cluster that has nothing to do holds its processors, so it goes at once unless the spec says when.
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": job.spec.ttl_seconds_after_finished or 0,
        "rayClusterSpec": {
            "rayVersion": RAY_VERSION,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {}, "template": _head_pod(job, settings)},
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": workers,
                    "minReplicas": workers,
                    "maxReplicas": workers,
                    "rayStartParams": {},
                    "template": _worker_pod(job, settings),
                }
            ],
        },
    }
    if job.spec.active_deadline_seconds is not None:
        spec["activeDeadlineSeconds"] = job.spec.active_deadline_seconds
    return {**head, "spec": spec}


def _head_pod(job: TrainingJob, settings: Settings) -> Object:
    command = [
        *("ray", "start", "--head", "--block", f"--port={GCS_PORT}", "--dashboard-host=0.0.0.0"),
        f"--dashboard-port={DASHBOARD_PORT}",
    ]
    template = _node(job, settings, command)
    template["spec"]["containers"][0]["ports"] = [
        {"name": "gcs-server", "containerPort": GCS_PORT},
        {"name": "dashboard", "containerPort": DASHBOARD_PORT},
    ]
    return template


def _worker_pod(job: TrainingJob, settings: Settings) -> Object:
    # KubeRay sets the variable, and Kubernetes puts it in.
    template = _node(job, settings, ["ray", "start", "--block", f"--address=$(FQ_RAY_IP):{GCS_PORT}"])
    template["spec"]["automountServiceAccountToken"] = False
    return template


def _node(job: TrainingJob, settings: Settings, command: list[str]) -> Object:
    """The trainer's pod with Ray as its main process."""
    template = pod_template(job, settings)
    container = template["spec"]["containers"][0]
    compute = job.spec.compute
    processors = [f"--num-cpus={math.ceil(amount(compute.cpu))}"] if compute.cpu else []
    container["command"] = [
        *command,
        *processors,
        f"--num-gpus={compute.gpus}",
        f"--dashboard-agent-listen-port={AGENT_PORT}",
        f"--metrics-export-port={METRICS_PORT}",
        "--disable-usage-stats",
    ]
    del container["args"]
    # KubeRay finds its pods by the name that it gives them there.
    del template["metadata"]["labels"]["app.kubernetes.io/name"]
    container["env"].append({"name": "TUNESMITH_CACHE_DIR", "value": CACHE_FOLDER})
    return template

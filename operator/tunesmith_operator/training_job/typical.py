"""What the objects around a TrainingJob look like, as text: it makes thousands of them small in memory."""

import json

from tunesmith_api.fields import API_VERSION
from tunesmith_api.training_job import TrainingJob
from tunesmith_operator.settings import Settings
from tunesmith_operator.training_job.children import batch_job, companions


def typical_text(settings: Settings) -> bytes:
    """The children of a small job and the job itself, for compression by a preset dictionary."""
    job = TrainingJob.model_validate(
        {
            "apiVersion": API_VERSION,
            "kind": "TrainingJob",
            "metadata": {
                "name": "name",
                "namespace": "default",
                "uid": "00000000-0000-4000-8000-000000000000",
            },
            "spec": {"dataset": {"uri": "s3://datasets/"}, "store": {"uri": "s3://models"}},
        }
    )
    objects = [batch_job(job, settings), *(body for _, body in companions(job)), job.to_dict()]
    return "".join(json.dumps(one, separators=(",", ":")) for one in objects).encode()

"""The commands and the YAML that a reader copies from the report and the card."""

from __future__ import annotations

import shlex

import yaml

from tunesmith_trainer.publish.report.data import ReportData

DIGEST = "\ue000"
"""Stands for the package's digest, which the report cannot know: it is one of the files that it covers."""
DIGEST_WORD = "DIGEST"

LONGEST_DEPLOYMENT_NAME = 40


def package(data: ReportData) -> str:
    """The package's URI, quoted for a shell, with `DIGEST` in the place of its digest."""
    return shlex.quote(data.store_uri.rstrip("/") + "/") + DIGEST


def predict_command(data: ReportData) -> str:
    """Predict a photo from the package on one's own machine, with activation maps."""
    return f"tunesmith predict {package(data)} photo.jpg --explain maps/"


def verify_command(data: ReportData) -> str:
    """Rehash the package."""
    return f"tunesmith verify {package(data)}"


def validate_command() -> str:
    """Check the deployment by the rules of a cluster."""
    return "tunesmith validate -f deployment.yaml"


def run_command() -> str:
    """Run the job again."""
    return "tunesmith run -f job.yaml"


def deployment_yaml(data: ReportData) -> str:
    """A ModelDeployment that serves the job's newest verified model and rolls out the next by steps."""
    deployment = {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {
            "name": data.name[:LONGEST_DEPLOYMENT_NAME].rstrip("-."),
            "namespace": data.namespace,
        },
        "spec": {
            "model": {"trainingJob": data.name},
            "replicas": {"minimum": 1, "maximum": 4},
            "rollout": {
                "strategy": "Canary",
                "steps": [{"weight": 5, "holdSeconds": 120}, {"weight": 50, "holdSeconds": 120}],
                "analysis": [{"metric": "errorRate", "maximum": 0.01}],
            },
            "explanations": {"enabled": True},
        },
    }
    return yaml.safe_dump(deployment, sort_keys=False, allow_unicode=True)

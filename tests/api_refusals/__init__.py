"""Specs that must be refused, with exact sentences: one table for the local check and a real API server."""

from tests.api_refusals.model_deployment import DEPLOYMENT_RULES
from tests.api_refusals.refusal import DIGEST, MODEL_DEPLOYMENT, REMOVED, TRAINING_JOB, Refusal, changed
from tests.api_refusals.search import SEARCH_RULES
from tests.api_refusals.structure import METADATA, STRUCTURE
from tests.api_refusals.training_job import JOB_RULES, UPDATES

__all__ = [
    "DEPLOYMENT_RULES",
    "DIGEST",
    "MODEL_DEPLOYMENT",
    "REFUSALS",
    "REMOVED",
    "TRAINING_JOB",
    "Refusal",
    "changed",
]

REFUSALS = (*STRUCTURE, *METADATA, *JOB_RULES, *SEARCH_RULES, *UPDATES, *DEPLOYMENT_RULES)

"""Whose credentials open what: dataset, weights and store may each have a Secret of their own.

A Secret's keys are boto3's own variables. Where several Secrets meet in one process, each variable has a
prefix that says what it is for: ``TUNESMITH_DATASET_AWS_ACCESS_KEY_ID`` is the dataset's. What has none of
its own falls back to boto3's usual places, so one account needs no prefix at all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

DATASET = "DATASET"
STORE = "STORE"
KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_CA_BUNDLE",
)


def weights_of(index: int) -> str:
    """What the weights of ``spec.backbones[index]`` are called here."""
    return f"BACKBONE_{index}"


def credentials_for(purpose: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """boto3's variables for one purpose, without their prefix; empty where it has none of its own."""
    named = ((key, environment.get(f"TUNESMITH_{purpose}_{key}", "")) for key in KEYS)
    return {key: value for key, value in named if value}

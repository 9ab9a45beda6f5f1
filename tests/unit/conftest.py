"""Fixtures that start real servers, shared by the unit tests."""

from tests.testbed.s3 import s3_bucket, s3_server

import tunesmith_trainer.search  # noqa: F401 - Ray's settings, before a test imports Ray

__all__ = ["s3_bucket", "s3_server"]

"""Fixtures that start real servers, shared by the unit tests."""

from tests.testbed.s3 import s3_bucket, s3_server

__all__ = ["s3_bucket", "s3_server"]

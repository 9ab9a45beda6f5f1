"""``python -m tunesmith_predictor fetch`` as an init container runs it: from S3, credentials in variables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.testbed.s3 import S3Server, free_ports
from tests.testbed.tiny_package import HEADER, write_tiny_package

from tunesmith_api.reasons import EXIT_CODES, Reason
from tunesmith_package.package import PublishedPackage, open_package, publish_package
from tunesmith_package.store import open_store


@pytest.fixture
def published(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> PublishedPackage:
    store = open_store(f"s3://{s3_bucket}/store", credentials=s3_server.credentials)
    return publish_package(write_tiny_package(tmp_path / "built"), store, "colours", HEADER)


def fetch(
    package: PublishedPackage, target: Path, credentials: Mapping[str, str], *options: str
) -> tuple[int, str, str]:
    """Its exit code, the last line it wrote, and the termination message."""
    message = target.with_name(f"{target.name}-message")
    message.touch()
    command = [sys.executable, "-m", "tunesmith_predictor", "fetch", "--uri", package.uri]
    command += ["--digest", package.digest, "--to", str(target), "--termination-log", str(message), *options]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(command, capture_output=True, text=True, env={**kept, **credentials})
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1], message.read_text()


def test_fetch_brings_a_package_from_s3_twice_the_same(
    s3_server: S3Server, published: PublishedPackage, tmp_path: Path
) -> None:
    target = tmp_path / "models"
    for _ in range(2):
        assert fetch(published, target, s3_server.credentials)[0] == 0
        assert open_package(target.as_uri(), digest=published.digest).digest == published.digest


def test_fetch_of_a_file_that_was_altered_in_s3_leaves_no_manifest(
    s3_server: S3Server, published: PublishedPackage, tmp_path: Path
) -> None:
    bucket, _, folder = published.uri.removeprefix("s3://").partition("/")
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key=f"{folder}/labels.json", Body=b'["other"]')
    client.close()
    code, line, message = fetch(published, tmp_path / "models", s3_server.credentials)
    assert code == EXIT_CODES[Reason.DIGEST_MISMATCH]
    assert message == line
    assert message.startswith("DigestMismatch: ")
    assert "labels.json" in message
    assert not (tmp_path / "models" / "manifest.json").exists()


def test_fetch_of_a_model_that_is_gone_says_what_to_check(
    s3_server: S3Server, published: PublishedPackage, tmp_path: Path
) -> None:
    gone = PublishedPackage(f"{published.uri.rpartition('/')[0]}/{'0' * 64}", f"sha256:{'0' * 64}")
    code, _, message = fetch(gone, tmp_path / "models", s3_server.credentials)
    assert code == EXIT_CODES[Reason.PACKAGE_INVALID]
    assert "Check the address" in message


def test_fetch_with_credentials_that_the_store_does_not_know_is_denied(
    s3_server: S3Server, published: PublishedPackage, tmp_path: Path
) -> None:
    wrong = {**s3_server.credentials, "AWS_SECRET_ACCESS_KEY": "another"}
    code, _, message = fetch(published, tmp_path / "models", wrong)
    assert code == EXIT_CODES[Reason.STORE_DENIED]
    assert message.startswith("StoreDenied: ")


def test_fetch_from_a_store_that_stays_away_ends_when_its_patience_does(
    s3_server: S3Server, published: PublishedPackage, tmp_path: Path
) -> None:
    away = {**s3_server.credentials, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_ports(1)[0]}"}
    code, _, message = fetch(published, tmp_path / "models", away, "--store-patience", "2")
    assert code == EXIT_CODES[Reason.STORE_UNREACHABLE]
    assert message.startswith("StoreUnreachable: ")

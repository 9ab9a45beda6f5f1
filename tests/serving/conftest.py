"""A predictor that serves the tiny package."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.testbed.predictors import Server, running_predictor
from tests.testbed.s3 import s3_bucket, s3_server
from tests.testbed.tiny_package import HEADER, write_golden, write_tiny_package, write_tiny_reference

from tunesmith_package.package import PublishedPackage, publish_package
from tunesmith_package.store import open_store

__all__ = ["s3_bucket", "s3_server"]


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> PublishedPackage:
    """The tiny package, published."""
    folder = tmp_path_factory.mktemp("package")
    directory = write_tiny_package(folder / "built")
    write_golden(directory)
    write_tiny_reference(directory)
    return publish_package(directory, open_store((folder / "store").as_uri()), "colours", HEADER)


@pytest.fixture(scope="session")
def package_directory(package: PublishedPackage) -> Path:
    """Its folder."""
    return Path(package.uri.removeprefix("file://"))


@pytest.fixture(scope="session")
def server(
    package: PublishedPackage, package_directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A predictor for all tests that leave it as it is."""
    log = tmp_path_factory.mktemp("predictor") / "log"
    options = ("--digest", package.digest, "--revision", "r1", "--max-body-bytes", "1000000")
    with running_predictor(
        package_directory, log, *options, "--body-seconds", "2", "--header-seconds", "2"
    ) as server:
        yield server

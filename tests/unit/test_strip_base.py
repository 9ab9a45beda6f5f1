"""What the images' first step takes out of a base image and what it leaves, on folders that look like one."""

import sysconfig
from pathlib import Path

import pytest
from images.strip_base import main

STANDARD = sysconfig.get_path("stdlib").lstrip("/")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for file in (
        *("usr/bin/apt-get", "usr/bin/dpkg", "usr/bin/x86_64-linux-gnu-gcc-12", "usr/bin/perl5.36.0"),
        *("usr/bin/bash", "usr/bin/python3", "usr/bin/su", "usr/local/bin/pip3.11", "usr/local/bin/python3"),
        *("usr/lib/apt/methods/http", "var/lib/dpkg/status", "var/lib/dpkg/info/bash.list"),
        *("usr/share/doc/bash/copyright", "usr/share/doc/bash/README", "usr/share/man/man1/bash.1"),
        *("usr/local/lib/python3.11/site-packages/pip/main.py", "etc/passwd", "etc/group"),
        *(f"{STANDARD}/ensurepip/__init__.py", f"{STANDARD}/json/__init__.py"),
        *("root/notes", "mnt/cache/wheel", "tmp/kept"),
    ):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "usr/bin/su").chmod(0o4755)
    (tmp_path / "usr/bin/cc").symlink_to("x86_64-linux-gnu-gcc-12")
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "sbin").mkdir()
    return tmp_path


def test_strip_takes_what_installs_and_builds_and_leaves_what_runs(root: Path) -> None:
    main(root)
    assert sorted(path.name for path in (root / "usr/bin").iterdir()) == ["bash", "python3", "su"]
    assert [path.name for path in (root / "usr/local/bin").iterdir()] == ["python3"]
    assert not list(root.glob("usr/**/pip"))
    assert not (root / "usr/lib/apt/methods").exists()
    assert not (root / STANDARD / "ensurepip").exists()


def test_strip_leaves_what_scanners_and_licences_need(root: Path) -> None:
    main(root)
    assert (root / "var/lib/dpkg/status").exists()
    assert not (root / "var/lib/dpkg/info/bash.list").exists()
    assert [path.name for path in (root / "usr/share/doc/bash").iterdir()] == ["copyright"]


def test_strip_leaves_folders_alone_where_a_builder_may_have_mounted_something(root: Path) -> None:
    main(root)
    assert all((root / file).exists() for file in ("root/notes", "mnt/cache/wheel", "tmp/kept"))


def test_strip_takes_other_users_rights_and_names_our_own(root: Path) -> None:
    main(root)
    assert (root / "usr/bin/su").stat().st_mode & 0o7777 == 0o755
    assert "tunesmith:x:65532:65532:" in (root / "etc/passwd").read_text()
    assert "tunesmith:x:65532:" in (root / "etc/group").read_text()


def test_strip_compiles_standard_modules_without_their_dates(root: Path) -> None:
    main(root)
    (compiled,) = (root / STANDARD / "json" / "__pycache__").glob("*.pyc")
    assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"  # PEP 552: by hash, unchecked

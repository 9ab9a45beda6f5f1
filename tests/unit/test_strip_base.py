"""What the images' first step takes out of a base image and what it leaves, on folders that look like one."""

import sysconfig
from pathlib import Path

import pytest
from images.strip_base import main

STANDARD = sysconfig.get_path("stdlib").lstrip("/")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """What looks like a base image, while something is built on it."""
    top = tmp_path / "base"
    for file in (
        *("usr/bin/apt-get", "usr/bin/dpkg", "usr/bin/x86_64-linux-gnu-gcc-12", "usr/bin/perl5.36.0"),
        *("usr/bin/bash", "usr/bin/python3", "usr/bin/su", "usr/local/bin/pip3.11", "usr/local/bin/python3"),
        *("usr/lib/apt/methods/http", "var/lib/dpkg/status", "var/lib/dpkg/info/bash.list"),
        *("usr/share/doc/bash/copyright", "usr/share/doc/bash/README", "usr/share/man/man1/bash.1"),
        *("usr/local/lib/python3.11/site-packages/pip/main.py", "etc/passwd", "etc/group"),
        *(f"{STANDARD}/ensurepip/__init__.py", f"{STANDARD}/json/__init__.py"),
        *(
            "root/notes",
            "mnt/cache/wheel",
            "tmp/kept",
            "proc/1/maps",
            "build/strip_base.py",
            "kaniko/executor",
        ),
        *("etc/hosts", "etc/resolv.conf", "lib64/ld.so"),
    ):
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (top / "usr/bin/su").chmod(0o4755)
    (top / "usr/bin/cc").symlink_to("x86_64-linux-gnu-gcc-12")
    (top / "usr/bin/bash2").hardlink_to(top / "usr/bin/bash")
    (top / "bin").symlink_to("usr/bin")
    (top / "sbin").mkdir()
    return top


@pytest.fixture
def root(base: Path, tmp_path: Path) -> Path:
    """The stripped copy."""
    main(tmp_path / "stripped", base)
    return tmp_path / "stripped"


def test_strip_takes_what_installs_and_builds_and_leaves_what_runs(root: Path) -> None:
    assert sorted(path.name for path in (root / "usr/bin").iterdir()) == ["bash", "bash2", "python3", "su"]
    assert [path.name for path in (root / "usr/local/bin").iterdir()] == ["python3"]
    assert not list(root.glob("usr/**/pip"))
    assert not (root / "usr/lib/apt/methods").exists()
    assert not (root / STANDARD / "ensurepip").exists()


def test_strip_leaves_what_scanners_and_licences_need(root: Path) -> None:
    assert (root / "var/lib/dpkg/status").exists()
    assert not (root / "var/lib/dpkg/info/bash.list").exists()
    assert [path.name for path in (root / "usr/share/doc/bash").iterdir()] == ["copyright"]


def test_strip_copies_the_base_and_nothing_that_a_builder_put_or_mounted_there(root: Path) -> None:
    assert (root / "root/notes").exists()
    assert (root / "lib64/ld.so").exists()
    assert (root / "bin").readlink() == Path("usr/bin")
    assert (root / "usr/bin/bash2").samefile(root / "usr/bin/bash")
    assert not {"build", "kaniko", "stripped"} & {path.name for path in root.iterdir()}
    assert not [*root.glob("proc/*"), *root.glob("mnt/*"), *root.glob("tmp/*")]
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert not {"hosts", "resolv.conf"} & {path.name for path in (root / "etc").iterdir()}


def test_strip_leaves_the_base_as_it_was(base: Path, root: Path) -> None:
    assert (base / "usr/bin/apt-get").exists()
    assert (base / "usr/bin/su").stat().st_mode & 0o7777 == 0o4755


def test_strip_takes_other_users_rights_and_names_our_own(root: Path) -> None:
    assert (root / "usr/bin/su").stat().st_mode & 0o7777 == 0o755
    assert "tunesmith:x:65532:65532:" in (root / "etc/passwd").read_text()
    assert "tunesmith:x:65532:" in (root / "etc/group").read_text()


def test_strip_compiles_standard_modules_without_their_dates(root: Path) -> None:
    (compiled,) = (root / STANDARD / "json" / "__pycache__").glob("*.pyc")
    assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"  # PEP 552: by hash, unchecked
    assert str(root).encode() not in compiled.read_bytes()

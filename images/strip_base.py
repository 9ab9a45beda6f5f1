"""Copies a base image to a folder, without what no running container needs; a step of every Dockerfile here.

To a folder, because not every builder can copy the root of a stage: kaniko takes /proc along, and fails.

What installs and builds software stays behind, so that nobody who gets into a container has it at hand; so do
manuals and the right to become another user. What remains is Python, its libraries and the shell. Python's
own modules are compiled in a way that does not look at dates, because two builds must not differ in them.
"""

import compileall
import os
import py_compile
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

USER = 65532
COPIED = ("bin", "boot", "etc", "home", "lib*", "opt", "root", "sbin", "srv", "usr", "var")
EMPTY = {"dev": 0o755, "media": 0o755, "mnt": 0o755, "proc": 0o555, "run": 0o755, "sys": 0o555, "tmp": 0o1777}
"""Where builders and runtimes mount something, with their modes."""
MOUNTED = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
"""The same of files: what is in them is the builder's."""
COMMANDS = (
    *("apt*", "dpkg*", "debconf*", "dnf*", "microdnf", "yum*", "rpm*", "apk"),
    *("pip*", "uv", "uvx", "easy_install*"),
    *("gcc*", "g++*", "cc", "c++", "cpp*", "ld", "ld.*", "as", "clang*", "make", "*-linux-gnu-*"),
    *("perl*", "python*-config", "update-alternatives", "curl", "wget"),
)
FOLDERS = (
    *("etc/apt", "usr/lib/apt", "usr/share/python-wheels", "usr/share/perl*", "usr/lib/*/perl*"),
    *("var/cache", "var/lib/apt", "var/lib/dpkg/info", "var/log"),
    *("usr/share/man", "usr/share/info", "usr/share/locale", "usr/include", "usr/local/include"),
)
"""Emptied; /var/lib/dpkg/status stays, since scanners read there what is installed."""
MODULES = (
    *("pip", "pip-*", "setuptools", "setuptools-*", "wheel", "wheel-*"),
    *("pkg_resources", "_distutils_hack"),
)
STANDARD_MODULES = ("ensurepip", "idlelib", "test", "turtledemo", "lib2to3")


def main(root: Path, source: Path = Path("/")) -> None:
    """Copy the file system at ``source`` to the folder ``root``, which there is not yet, and strip it."""
    root.mkdir(mode=0o755)
    # cp keeps owners and what is one file under several names.
    found = [str(path) for pattern in COPIED for path in sorted(source.glob(pattern))]
    subprocess.run(["cp", "--archive", *found, str(root)], check=True)
    for name, mode in EMPTY.items():
        (root / name).mkdir()
        (root / name).chmod(mode)
    _remove(root / name for name in MOUNTED)
    for folder in ("bin", "sbin", "usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin"):
        _remove(path for pattern in COMMANDS for path in (root / folder).glob(pattern))
    _remove(path for pattern in FOLDERS for folder in root.glob(pattern) for path in folder.iterdir())
    _remove(path for path in (root / "usr/share/doc").glob("*/*") if path.name != "copyright")
    standard = root / sysconfig.get_path("stdlib").lstrip("/")
    _remove(standard / name for name in STANDARD_MODULES)
    _remove(path for pattern in MODULES for path in root.glob(f"usr/**/*-packages/{pattern}"))
    for top in ("bin", "sbin", "usr"):
        _take_rights(root / top)
    _add_user(root / "etc")
    # Tracebacks name the files where they will be.
    compileall.compile_dir(
        standard,
        quiet=1,
        force=True,
        stripdir=str(root),
        prependdir="/",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _take_rights(top: Path) -> None:
    """Nothing runs with another user's rights: su, mount and their like become plain programs."""
    for folder, _, names in os.walk(top):
        for name in names:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                path.chmod(stat.S_IMODE(mode) & 0o777)


def _add_user(folder: Path) -> None:
    """Libraries ask for the user's name; a number without one would be an error."""
    with (folder / "passwd").open("a", encoding="ascii") as users:
        users.write(f"tunesmith:x:{USER}:{USER}::/tmp:/usr/sbin/nologin\n")
    with (folder / "group").open("a", encoding="ascii") as groups:
        groups.write(f"tunesmith:x:{USER}:\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

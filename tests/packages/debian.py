"""An empty Debian in a folder, for tests of what is installed into one. Needs root and debootstrap."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ("base_system", "in_chroot", "mounted")

_LIMIT_S = 900
_SOURCES = Path("etc/apt/sources.list.d")


def base_system(root: Path, *packages: str) -> None:
    """Fetch the release of Debian that runs here, with `packages`, into `root`. Skips the test where it cannot."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    release = platform.freedesktop_os_release()
    if release.get("ID") != "debian":
        pytest.skip("needs Debian")
    command = [
        "debootstrap",
        "--variant=minbase",
        f"--include={','.join(packages)}",
        release["VERSION_CODENAME"],
        str(root),
    ]
    subprocess.run(command, check=True, timeout=_LIMIT_S)
    for source in Path("/", _SOURCES).glob("*"):
        shutil.copy(source, root / _SOURCES)


@contextmanager
def mounted(root: Path) -> Iterator[None]:
    """/proc and /dev of this machine in the folder, as programs there expect them."""
    for command in (["mount", "-t", "proc", "proc"], ["mount", "--rbind", "/dev"]):
        subprocess.run([*command, root / Path(command[-1]).name], check=True)
    try:
        yield
    finally:
        unmount = ["umount", "--lazy", str(root / "dev"), str(root / "proc")]
        subprocess.run(unmount, check=True)


def in_chroot(root: Path, *command: str) -> str:
    """Run a command in the folder. Returns what it printed."""
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
    inside = ["chroot", str(root), *command]
    done = subprocess.run(inside, env=environ, capture_output=True, text=True, check=False, timeout=_LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

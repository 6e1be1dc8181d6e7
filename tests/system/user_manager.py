"""A real systemd for the units of a test: `systemd --user` in a mount namespace, which the host does not see.

No D-Bus and no cgroups are delegated to it, so units run as the user of the tests, and memory limits are not enforced.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Final

import psutil

from tests.patience import PATIENCE_S
from tests.system.daemon import eventually

__all__ = ("UserManager", "user_manager", "why_no_user_manager")

_OWN_MOUNTS: Final = ("unshare", "--mount")
_SYSTEMD: Final = "/lib/systemd/systemd"
_UNITS: Final = "/run/units/systemd/user"
_ENVIRONMENT: Final = {"XDG_RUNTIME_DIR": "/run/runtime", "XDG_CONFIG_HOME": "/run/units", "HOME": "/run"}
# systemd looks for its own directory below /run. Without that directory it ends without a message.
_BOOT: Final = f"""
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system {_UNITS}
mkdir -m 700 /run/runtime
cp -r "$1"/. {_UNITS}
exec {_SYSTEMD} --user --log-target=console
"""


@cache
def why_no_user_manager() -> str | None:
    """Why no manager can run here. None if one can."""
    missing = [tool for tool in ("unshare", "nsenter", "systemctl", _SYSTEMD) if shutil.which(tool) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "only root may mount in a namespace of its own"
    tried = subprocess.run(
        [*_OWN_MOUNTS, "mount", "-t", "tmpfs", "tmpfs", "/run"], check=False, capture_output=True, text=True
    )
    return f"namespaces are not allowed: {tried.stderr.strip()}" if tried.returncode else None


class UserManager:
    """A running manager. Its units are the files that it was started with."""

    def __init__(self, pid: int, log_path: Path) -> None:
        self._pid = pid
        self._log_path = log_path

    @property
    def log(self) -> str:
        """The output of the manager, and of its units unless they redirect theirs."""
        return self._log_path.read_text()

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `systemctl` for this manager."""
        enter = ("nsenter", f"--target={self._pid}", "--mount")
        return subprocess.run(
            [*enter, "systemctl", "--user", *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=_environment(),
        )

    def show(self, unit: str) -> Mapping[str, str]:
        """All properties of a unit."""
        lines = self.systemctl("show", unit).stdout.splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def main_pid(self, unit: str) -> int:
        """The process id of a unit that runs."""
        pid = int(self.show(unit)["MainPID"])
        assert pid  # a signal to 0 would go to this process
        return pid

    def is_up(self) -> bool:
        return self.systemctl("show", "--property=Version").returncode == 0


@contextmanager
def user_manager(folder: Path, units: Mapping[str, str]) -> Iterator[UserManager]:
    """A manager with `units`, text by file name below its unit directory. At the end it stops its units and is
    killed if it does not end. Files are kept in `folder`.
    """
    unit_folder, log_path = folder / "units", folder / "systemd.log"
    for name, text in units.items():
        path = unit_folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*_OWN_MOUNTS, "sh", "-ec", _BOOT, "sh", str(unit_folder)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(),
        )
    manager = UserManager(process.pid, log_path)
    try:
        eventually(manager.is_up)
        yield manager
    finally:
        family = psutil.Process(process.pid).children(recursive=True)
        try:
            manager.systemctl("exit")
            process.wait(PATIENCE_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            for child in family:
                if child.is_running():  # psutil compares start times, so a reused pid is not taken for ours
                    child.kill()


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "SYSTEMD_PAGER": ""} | _ENVIRONMENT

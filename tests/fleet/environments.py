"""Environments of their own for the large programs that stand in front of hosts, or around them: LiteLLM and Ray.

Each is installed once below `.clients/`, from its lock in `requirements/fleet`, and again when the lock changes.
"""

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.clients.client import install_python
from tests.system.daemon import ROOT

__all__ = ("LOCKS", "installed", "quiet_environment")

LOCKS: Final = ROOT / "requirements" / "fleet"
_PLACE: Final = ROOT / ".clients"

_QUIET: Final = {
    "DO_NOT_TRACK": "1",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Nothing calls home: what speaks HTTPS is sent to a port where nobody listens."""


def installed(name: str, *, with_neuron: bool = False) -> Path:
    """The folder `bin` of the environment of the lock `name`.

    With `with_neuron` its programs can import neuron and what neuron needs: from the environment of this process, after
    the packages of their own. Raises `subprocess.CalledProcessError` where the registry or the lock refuses.
    """
    folder, lock = _PLACE / name, LOCKS / f"{name}.txt"
    stamp, wanted = folder / "installed", hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        install_python(lock, folder)
        stamp.write_text(wanted)
    if with_neuron:
        (own,) = folder.glob("lib/python*/site-packages")
        ours = [ROOT, *(path for path in sys.path if path.endswith("site-packages"))]
        (own / "neuron-of-the-tests.pth").write_text("".join(f"{path}\n" for path in ours))
    return folder / "bin"


def quiet_environment(home: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of a program of such an environment: little of ours, and nothing calls home."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR", "OMP_THREAD_LIMIT") if name in os.environ}
    return {**kept, **_QUIET, "HOME": str(home), "no_proxy": "127.0.0.1,localhost", **(more or {})}

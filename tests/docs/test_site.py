"""The documentation builds without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import ROOT
from tests.patience import PATIENCE_S

pytest.importorskip("sphinx", reason="the packages of the extra docs are not installed")


@pytest.mark.system
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    """As `make docs`, but nothing is written. A link that leads nowhere is a warning as well."""
    command = (sys.executable, "-m", "sphinx", "-n", "-W", "--keep-going", "-q", "-c", "docs", "-b", "dummy", ".")
    done = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stderr) == (0, "")

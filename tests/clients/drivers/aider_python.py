"""The `aider` command in a repository of its own: one change of a file, streamed and whole."""

import shutil
import subprocess
import sys
from pathlib import Path

import report as r

EDIT = "ECHO poem.txt\n```\nThe answer is 4.\n```"
"""What the model is to say: the whole of the file, as aider's format `whole` wants it."""


def aider(*arguments: str, model: str = r.MODEL) -> tuple[str, str]:
    """Run aider in a new folder. Returns what it printed and what the file then says."""
    folder = Path.home() / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "poem.txt").write_text("Nothing.\n")
    options = ["--model", f"openai/{model}", "--openai-api-base", r.BASE, "--openai-api-key", r.KEY, "--no-git"]
    options += ["--edit-format", "whole", "--yes-always", "--no-check-update", "--no-analytics", "--no-pretty"]
    options += ["--no-show-model-warnings", "--no-show-release-notes", "--map-tokens", "0", "--no-gitignore"]
    options += ["--no-detect-urls", "--no-suggest-shell-commands", "--no-auto-lint", "--no-fancy-input"]
    options += ["--chat-history-file", "chat", "--input-history-file", "input", "--no-restore-chat-history"]
    ended = subprocess.run(
        [sys.executable, "-m", "aider", *options, *arguments, "poem.txt"],
        check=False,
        capture_output=True,
        text=True,
        timeout=400,
        cwd=folder,
        stdin=subprocess.DEVNULL,
    )
    return ended.stdout + ended.stderr, (folder / "poem.txt").read_text()


def edits(*options: str) -> None:
    printed, poem = aider("--message", EDIT, *options)
    assert "Tokens:" in printed, printed[-2000:]
    assert poem.strip() == r.SAID, printed[-2000:]


def errors() -> None:
    printed, poem = aider("--message", "Hi", model="no/model")
    assert "no/model" in printed, printed[-2000:]
    assert poem == "Nothing.\n"


NO = "it makes text alone of what the model says"
r.report(
    {
        "models": "the models are those of its own list",
        "chat": lambda: edits("--no-stream"),
        "chat, streamed": lambda: edits("--stream"),
        "usage": lambda: edits("--stream"),
        "errors": errors,
    },
    rest=NO,
)

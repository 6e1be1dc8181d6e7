"""The progress of a load or a download, for the person who watches the command."""

import contextlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from typing import Final, Self, TextIO

from neuron_lib.registry.progress import ProgressLog, describe
from neuron_lib.types import LoadProgress
from neuron_service.cli.terminal import wants_colours

__all__ = ("ProgressLine", "render_bar")

_REDRAW_S: Final = 0.1
_SHORTEST_BAR: Final = 8
_LONGEST_BAR: Final = 40
_DONE: Final = "━"
_TO_DO: Final = "─"


class ProgressLine:
    """Shows the progress of a load or a download.

    A terminal has one line that is redrawn. Anything else gets a line now and then.
    """

    def __init__(self, stream: TextIO, *, label: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._label = label
        self._clock = clock
        self._log = ProgressLog()
        self._drawn_s = float("-inf")
        self._has_colours = wants_colours(os.environ)

    def __enter__(self) -> Self:
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._make_way)
        return self

    def __exit__(self, *_: object) -> None:
        for handler in logging.getLogger().handlers:
            handler.removeFilter(self._make_way)
        self._clear()

    def _make_way(self, _record: logging.LogRecord) -> bool:
        """Clear the bar, so that a log record begins on a line of its own. The bar is drawn again below it."""
        self._clear()
        self._drawn_s = self._clock()
        return True

    def _clear(self) -> None:
        if self._stream.isatty():
            self._write("\r\033[K")

    def report(self, progress: LoadProgress) -> None:
        """Show the progress, unless something was shown a moment ago."""
        now_s = self._clock()
        if not self._stream.isatty():
            if self._log.line(progress, now_s=now_s) is not None:
                self._write(f"{self._label}: {describe(progress)}\n")
        elif now_s - self._drawn_s >= _REDRAW_S:
            self._drawn_s = now_s
            bar = render_bar(self._label, progress, width=shutil.get_terminal_size().columns)
            self._write(f"\r\033[K{_coloured(bar) if self._has_colours else bar}")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):  # a closed terminal is no error
            self._stream.write(text)
            self._stream.flush()


def _coloured(bar: str) -> str:
    """The bar with its done part in cyan, and the rest dim."""
    bar = re.sub(f"{_DONE}+", "\033[36m\\g<0>\033[0m", bar)
    return re.sub(f"{_TO_DO}+", "\033[2m\\g<0>\033[0m", bar)


def render_bar(label: str, progress: LoadProgress, *, width: int) -> str:
    """`label  ━━━━────  downloading 42 %, …` in at most `width - 1` characters. Parts without room are left out."""
    words = describe(progress)
    room = width - 1 - len(label) - len(words) - 4
    bar = ""
    if progress.fraction is not None and room >= _SHORTEST_BAR:
        length = min(room, _LONGEST_BAR)
        filled = int(length * progress.fraction)
        bar = _DONE * filled + _TO_DO * (length - filled) + "  "
    return f"{label}  {bar}{words}"[: max(0, width - 1)]

"""What commands show: tables, pairs, JSON, and a line that says what a command waits for.

On a terminal rich draws them. Elsewhere they are plain lines, so that other programs can read them, and what a command
waits for is not shown. rich is imported when something is drawn, because it takes longer to load than most commands.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn, TextIO

if TYPE_CHECKING:
    from rich.console import Console

__all__ = (
    "STYLES",
    "console",
    "counting",
    "ended_by_signals",
    "print_json",
    "print_line",
    "print_pairs",
    "print_table",
    "shown",
    "waiting",
    "whole_screen",
)

STYLES: Final[Mapping[str, str]] = {
    "good": "green",
    "busy": "cyan",
    "warning": "yellow",
    "bad": "bold red",
    "dim": "dim",
}
"""The styles of cells. A style is never the only sign of a state: the words say it too."""

_NARROWEST: Final = 40
"""A narrower terminal wraps plain lines itself, which shows more than columns of a few characters."""
_CURSOR: Final = b"\033[?25h"
_NO_CURSOR: Final = b"\033[?25l"
_USUAL_SCREEN: Final = b"\033[?1049l" + _CURSOR
_OWN_SCREEN: Final = b"\033[?1049h" + _NO_CURSOR


def shown(text: str) -> str:
    """A text from elsewhere in one line, without anything that moves a cursor."""
    return "".join(each if each.isprintable() else "?" for each in " ".join(text.split()))


def print_json(value: Any) -> None:
    """Print JSON for programs: indented, in the order of the keys."""
    print(json.dumps(value, indent=2))


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    styles: Sequence[tuple[str, str]] = (),
) -> None:
    """Print rows under headings. `right` are the headings of columns whose cells stand at the right.

    `styles` has, for each row, a heading and the style of the cell below it. A terminal is not shown columns whose
    cells are all empty.
    """
    cells = [[shown(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty() or shutil.get_terminal_size().columns < _NARROWEST:
        _print_plain(headings, cells, right)
        return
    from rich.table import Table
    from rich.text import Text

    folded = 0 if headings[-1] in right else len(headings) - 1  # a number is never folded
    texts: list[list[Text]] = []
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    styled = dict(enumerate(styles))
    for number, heading in enumerate(headings):
        column = [row[number] for row in cells]
        if not any(column):
            continue
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            overflow="fold",
            no_wrap=number != folded,
        )
        texts.append([Text(cell, style=_style(styled.get(row), heading)) for row, cell in enumerate(column)])
    for row in zip(*texts, strict=True):
        table.add_row(*row)
    console().print(table)


def _style(styled: tuple[str, str] | None, heading: str) -> str:
    return "" if styled is None or styled[0] != heading else STYLES[styled[1]]


def print_line(*parts: tuple[str, str]) -> None:
    """Print texts in one line, each with a style of `STYLES` or with none."""
    if not sys.stdout.isatty():
        print("".join(text for text, _ in parts), flush=True)
        return
    from rich.text import Text

    line = Text.assemble(*((text, STYLES.get(style, "")) for text, style in parts))
    console().print(line, soft_wrap=True)


def print_pairs(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair a line."""
    width = max((len(name) for name, _ in pairs), default=0)
    if not sys.stdout.isatty():
        for name, value in pairs:
            print(f"{name:<{width}}  {shown(value)}".rstrip())
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in pairs:
        grid.add_row(Text(name, style="bold"), Text(shown(value), overflow="fold"))
    console().print(grid)


def console(stream: TextIO | None = None) -> "Console":
    """Rich's console for stdout, or for another stream. It changes nothing of what it is given to print."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


@contextlib.contextmanager
def whole_screen() -> Iterator[Callable[[], None]]:
    """Take the whole terminal until the end of the block, which brings back what stood there.

    Yields a function that clears the screen.
    """
    with ended_by_signals(), _stopped_in_order(sys.stdout, leave=_USUAL_SCREEN, enter=_OWN_SCREEN), console().screen():
        yield lambda: console().clear()


@contextlib.contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr what the command waits for, as long as the block runs. Yields a function that changes the text.

    Without a terminal nothing is said.
    """
    if not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.text import Text

    with _spinning(), console(sys.stderr).status(Text(shown(text)), spinner="dots") as status:
        yield lambda changed: status.update(Text(shown(changed)))


@contextlib.contextmanager
def counting(total: int) -> Iterator[Callable[[], None]]:
    """Show a bar on stderr as long as the block runs. Yields what is called for each of `total` things that are done.

    Without a terminal nothing is shown.
    """
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _spinning(), Progress(*columns, console=console(sys.stderr)) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the command by `SystemExit` as long as the block runs.

    So the terminal gets back its cursor and what stood there. A signal that is ignored, as by nohup, stays ignored.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    ours = [number for number, handler in before.items() if handler is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _spinning() -> Iterator[None]:
    """What has the terminal right after signals while rich hides its cursor on stderr."""
    with ended_by_signals(), _stopped_in_order(sys.stderr, leave=_CURSOR, enter=_NO_CURSOR):
        yield


@contextlib.contextmanager
def _stopped_in_order(stream: TextIO, *, leave: bytes, enter: bytes) -> Iterator[None]:
    """Write `leave` to a terminal before Ctrl-Z stops the command, and `enter` when the command goes on."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        os.write(stream.fileno(), leave)  # past the buffer, because the signal may have come in the middle of a write
        os.kill(os.getpid(), signal.SIGSTOP)
        os.write(stream.fileno(), enter)

    if signal.getsignal(signal.SIGTSTP) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)


def _print_plain(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = (
            cell.rjust(width) if heading in right else cell.ljust(width)
            for heading, cell, width in zip(headings, row, widths, strict=True)
        )
        print("  ".join(cells).rstrip())

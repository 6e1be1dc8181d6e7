import io
import logging

import pytest

from neuron_lib.types import LoadProgress, LoadStage
from neuron_service.cli.progress_line import ProgressLine, render_bar

HALF = LoadProgress(
    stage=LoadStage.DOWNLOADING, fraction=0.5, bytes=5 * 10**8, total_bytes=10**9, bytes_per_s=10**6, eta_s=500
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_shows_how_much_is_done_and_never_wraps() -> None:
    words = "downloading 50 %, 0.5 of 1.0 GB, 1.0 MB/s, 8 min left"
    assert render_bar("o/m", HALF, width=90) == f"o/m  {'━' * 14}{'─' * 15}  {words}"
    assert render_bar("o/m", HALF, width=70) == f"o/m  {'━' * 4}{'─' * 5}  {words}"
    assert render_bar("o/m", HALF, width=60) == f"o/m  {words}"[:59]
    for width in range(200):
        assert len(render_bar("org/model", HALF, width=width)) <= max(0, width - 1)


def test_a_log_record_begins_on_a_line_of_its_own_and_the_bar_comes_back_below() -> None:
    terminal = Terminal()
    handler = logging.StreamHandler(terminal)
    logging.getLogger().handlers = [handler]  # put back by the fixture of all service tests
    now = [1.0]
    with ProgressLine(terminal, label="o/m", clock=lambda: now[0]) as line:
        line.report(HALF)
        logging.getLogger("x").warning("look")
        line.report(HALF)  # too early
        now[0] = 2.0
        line.report(HALF)
    bar = terminal.getvalue().partition("\r\033[K")[2].partition("\r")[0]
    assert terminal.getvalue() == f"\r\033[K{bar}\r\033[Klook\n\r\033[K{bar}\r\033[K"
    assert not handler.filters


def test_on_a_terminal_one_line_is_redrawn_and_elsewhere_a_line_is_printed_now_and_then() -> None:
    terminal, now = Terminal(), [0.0]
    line = ProgressLine(terminal, label="o/m", clock=lambda: now[0])
    with line:
        for step in range(100):
            now[0] = step / 100
            line.report(HALF)
    assert terminal.getvalue().count("\r") == 11
    assert terminal.getvalue().endswith("\r\033[K")
    pipe = io.StringIO()
    line = ProgressLine(pipe, label="o/m", clock=lambda: now[0])
    with line:
        for _ in range(100):
            line.report(HALF)
    assert pipe.getvalue() == "o/m: downloading 50 %, 0.5 of 1.0 GB, 1.0 MB/s, 8 min left\n"


def test_the_part_that_is_done_has_a_colour_unless_the_person_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.setenv("TERM", "xterm")
    for no_color, expected in (("", f"\033[36m{'━' * 14}\033[0m\033[2m{'─' * 15}\033[0m"), ("1", "━" * 14 + "─" * 15)):
        monkeypatch.setenv("NO_COLOR", no_color)
        terminal = Terminal()
        with ProgressLine(terminal, label="o/m") as line:
            line.report(HALF)
        assert expected in terminal.getvalue()

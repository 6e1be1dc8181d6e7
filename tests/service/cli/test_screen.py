"""What commands show, on a terminal and elsewhere."""

import io
import json
import re
import signal

import pytest

from neuron_service.cli import screen

ROWS = [("a/one", "loaded", "", "7"), ("a/\x1b[2Jtwo", "lost", "", "12")]
HEADINGS = ("MODEL", "STATE", "EMPTY", "NUMBER")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def use_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Called in the test itself, because pytest puts its own streams in place after the fixtures."""
    found = Terminal()
    monkeypatch.setattr("sys.stdout", found)
    monkeypatch.setattr("sys.stderr", found)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return found


def test_elsewhere_a_table_is_lines_of_columns_and_nothing_moves_the_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    screen.print_table(HEADINGS, ROWS, right=["NUMBER"], styles=[("STATE", "good"), ("STATE", "bad")])
    assert capsys.readouterr().out.splitlines() == [
        "MODEL      STATE   EMPTY  NUMBER",
        "a/one      loaded              7",
        "a/?[2Jtwo  lost               12",
    ]


def test_a_terminal_is_shown_colours_and_no_empty_column(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    screen.print_table(HEADINGS, ROWS, right=["NUMBER"], styles=[("STATE", "good"), ("STATE", "bad")])
    text = terminal.getvalue()
    assert "EMPTY" not in text
    assert "\x1b[32mloaded" in text
    assert "\x1b[2J" not in text


def test_who_wants_no_colour_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    screen.print_table(HEADINGS, ROWS, styles=[("STATE", "good"), ("STATE", "bad")])
    screen.print_line(("FAILED", "bad"), (" why", ""))
    assert "\x1b[3" not in terminal.getvalue()
    assert re.sub(r"\x1b\[[01]m", "", terminal.getvalue()).endswith("FAILED why\n")


def test_pairs_have_their_values_below_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_pairs([("id", "a/b"), ("context", "5 tokens")])
    assert capsys.readouterr().out == "id       a/b\ncontext  5 tokens\n"


def test_what_a_command_waits_for_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = use_terminal(monkeypatch)
    with screen.waiting("waits for one") as say:
        say("waits for \x1b[2Jtwo")
    assert "waits for ?[2Jtwo" in terminal.getvalue()
    pipe = io.StringIO()
    monkeypatch.setattr("sys.stderr", pipe)
    with screen.waiting("waits") as say:
        say("waits for two")
    assert pipe.getvalue() == ""


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    screen.print_json({"a": "é\n"})
    assert json.loads(capsys.readouterr().out) == {"a": "é\n"}


def test_a_terminal_that_is_too_narrow_folds_a_name_and_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "44")
    screen.print_table(HEADINGS, [("acme/" + 30 * "x", "loaded", "", "1234567")], right=["NUMBER"])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert lines[1].split()[1:] == ["loaded", "1234567"]
    assert lines[2].strip("x ") == ""


def test_a_terminal_of_a_few_characters_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = use_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "5")
    screen.print_table(HEADINGS, ROWS, right=["NUMBER"])
    assert terminal.getvalue().splitlines()[1].split() == ["a/one", "loaded", "7"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_command_gives_the_terminal_back(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = use_terminal(monkeypatch)
    with pytest.raises(SystemExit) as ended, screen.whole_screen():
        signal.raise_signal(number)
    assert ended.value.code == 128 + number
    assert terminal.getvalue().endswith("\x1b[?1049l\x1b[?25h")
    assert signal.getsignal(number) is signal.SIG_DFL

"""Lines of measurements become medians, ratios and a table."""

from pathlib import Path

import pytest

from benchmarks.report import Line, markdown, median, plot, ratios

AROUND = {
    "date": "2026-01-02",
    "cpu": "A CPU",
    "cpus": 2,
    "threads": 2,
    "kernel": "6.1",
    "python": "3.11.0",
    "llama_cpp_python": "0.3.36",
    "model": "model.gguf",
}


def line(number: int, subject: str, tok_per_s: float | None, *, traffic: str = "chat-1") -> Line:
    return {"round": number, "traffic": traffic, "subject": subject, "tok_per_s": tok_per_s} | AROUND


LINES = [
    line(1, "neuron", 100.0),
    line(1, "llama-server", 50.0),
    line(2, "llama-server", 100.0),
    line(2, "neuron", 110.0),
    line(3, "neuron", 30.0),
    line(3, "llama-server", 20.0),
]


def test_a_ratio_is_taken_within_a_round() -> None:
    assert ratios(LINES, "chat-1", "llama-server", "tok_per_s") == pytest.approx([2.0, 1.1, 1.5])


@pytest.mark.parametrize("missing", [0, 1])
def test_a_round_that_lacks_one_of_the_two_gives_no_ratio(missing: int) -> None:
    lines = LINES[:missing] + LINES[missing + 1 :]
    assert ratios(lines, "chat-1", "llama-server", "tok_per_s") == pytest.approx([1.1, 1.5])


def test_a_subject_without_a_number_has_no_median() -> None:
    lines = [line(1, "neuron", None), line(1, "llama-server", 4.0)]
    assert median(lines, "chat-1", "neuron", "tok_per_s") is None
    assert median(lines, "chat-1", "llama-server", "tok_per_s") == 4.0


def test_the_table_shows_medians_and_ratios_with_their_range() -> None:
    text = markdown(LINES)
    assert "| chat-1 | neuron | 100 |" in text
    assert "| chat-1 | llama-server | 1.50 (1.10 – 2.00) |" in text
    assert "medians of 3 rounds" in text


def test_a_measurement_that_failed_is_a_row_without_numbers() -> None:
    failed = {"round": 1, "traffic": "shared-prompt", "subject": "llama-server", "error": "it is gone"} | AROUND
    assert "| shared-prompt | llama-server | – |" in markdown([*LINES, failed])


def test_a_single_subject_is_compared_with_nobody() -> None:
    assert "÷" not in markdown([line(1, "neuron", 100.0)])


def test_the_plot_is_an_image(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="it comes with the bench extra")
    plot(LINES, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")

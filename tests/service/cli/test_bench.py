"""`neuron bench`: the figures of replies, and how they are measured and shown."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from neuron_service.cli import bench, main
from neuron_service.cli.bench_figures import HEADINGS, Figures, Timed, bars, cells, figures_of, prompt_of
from neuron_service.cli.talk.pieces import SpeakerFailed
from tests.fakes.scripted_speaker import ScriptedSpeaker

ONE = Timed(asked_s=10.0, pieces_s=(10.5, 10.6, 10.7, 11.0), ended_s=11.0, prompt_tokens=20, completion_tokens=4)
TWO = Timed(asked_s=10.0, pieces_s=(11.0, 12.0), ended_s=12.0, prompt_tokens=22, completion_tokens=2)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_figures_of_replies_that_ran_together() -> None:
    figures = figures_of([ONE, TWO])
    assert (figures.streams, figures.prompt_tokens, figures.completion_tokens) == (2, 21, 6)
    assert figures.tokens_per_s == pytest.approx(3.0)  # 6 tokens in 2 s
    assert figures.tokens_per_s_each == pytest.approx(1.0)  # the slower half
    assert (figures.first_text_s, figures.first_text_s_p95) == (0.5, 1.0)
    assert figures.gap_s == pytest.approx(0.1)
    assert (figures.gap_s_p95, figures.gap_s_longest) == (1.0, 1.0)


def test_a_reply_of_one_piece_has_no_gaps() -> None:
    figures = figures_of([Timed(asked_s=1, pieces_s=(2,), ended_s=2, prompt_tokens=1, completion_tokens=1)])
    assert (figures.gap_s_longest, figures.tokens_per_s_each, figures.tokens_per_s) == (0, 0, 1)


def test_a_row_has_a_cell_for_each_heading() -> None:
    row = cells(figures_of([ONE]))
    assert row == ("1", "4.0", "6.0", "500 ms", "500 ms", "100 ms", "300 ms", "300 ms")
    assert len(row) == len(HEADINGS)


def test_the_longest_bar_is_that_of_the_highest_rate() -> None:
    def level(streams: int, rate: float) -> Figures:
        values: dict[str, Any] = dict.fromkeys(Figures.__struct_fields__, 0)
        return Figures(**(values | {"streams": streams, "tokens_per_s": rate}))

    heading, one, ten, none = bars([level(1, 10.0), level(10, 20.0), level(12, 0.0)])
    assert heading == "tokens/s by streams"
    assert one == f" 1 {'█' * 20}{' ' * 20} 10.0"
    assert ten == f"10 {'█' * 40} 20.0"
    assert none == f"12 {' ' * 40} 0.0"
    assert bars([level(1, 0.0)])[1].endswith(" 0.0")


def test_no_two_prompts_begin_alike() -> None:
    prompts = [prompt_of(50, number=number) for number in range(100)]
    assert len({prompt[:10] for prompt in prompts}) == 100
    assert all(40 < len(prompt.split()) < 60 for prompt in prompts)


def test_each_number_of_streams_is_measured_after_a_warm_up() -> None:
    speaker = ScriptedSpeaker(*[["a", "b"]] * 4)
    levels = bench.measure(speaker, [1, 2], tokens=16, prompt_words=20)
    assert [(each.streams, each.completion_tokens) for each in levels] == [(1, 5), (2, 10)]
    warm_up, *orders = speaker.orders
    assert warm_up.max_tokens == 4
    assert all((order.max_tokens, order.temperature, order.ignore_eos) == (16, 0, True) for order in orders)
    assert len({order.messages for order in speaker.orders}) == 4
    assert speaker.running == 0


def test_a_reply_that_fails_ends_the_others_and_is_the_reason() -> None:
    endless = ["a"] * 100_000
    speaker = ScriptedSpeaker(["warm"], endless, [SpeakerFailed("too many wait")], endless)
    with pytest.raises(SpeakerFailed, match="too many wait"):
        bench.measure(speaker, [3], tokens=16, prompt_words=20)
    assert speaker.running == 0


@pytest.fixture
def _scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def open_speaker(*_ignored: object, **_options: object) -> Iterator[ScriptedSpeaker]:
        yield ScriptedSpeaker(*[["a", "b"]] * 4)

    monkeypatch.setattr(bench, "open_speaker", open_speaker)


@pytest.mark.usefixtures("_scripted")
def test_a_person_gets_a_table_and_a_plot(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "a/b", "--streams", "1, 2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "acme/model in this test: prompts of about 10 tokens"
    assert lines[1].split()[:2] == ["STREAMS", "TOKENS/S"]
    assert [line.split()[0] for line in lines[2:4]] == ["1", "2"]
    assert lines[5] == "tokens/s by streams"


@pytest.mark.usefixtures("_scripted")
def test_a_program_gets_the_same_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "a/b", "--streams", "1", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["model"], answer["place"]) == ("acme/model", "in this test")
    assert set(answer["levels"][0]) == set(Figures.__struct_fields__)


@pytest.mark.parametrize("streams", ["0", "257", "1,,2", "1,x", "", "-1", ",".join(["1"] * 17)])
def test_numbers_of_streams_that_are_none_are_refused(streams: str) -> None:
    assert run("bench", "a/b", f"--streams={streams}") == os.EX_USAGE

"""Lines of a child become log records, and the line that explains its end is remembered."""

import logging
from collections.abc import Iterable
from typing import Any

import anyio
import pytest
from anyio.abc import ByteReceiveStream
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.child.log import ChildLog
from neuron_lib.logs import get_logger
from tests.fakes.log_lines import said

LOGGER = get_logger("tests.child")


def log_of(*lines: str, loaded_after: int | None = None, **options: Any) -> ChildLog:
    log = ChildLog(LOGGER, fields={"pid": 7}, **options)
    for number, line in enumerate(lines):
        if number == loaded_after:
            log.mark_loaded()
        log.take(line)
    return log


def test_a_line_becomes_a_record_with_its_level_and_the_fields(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    log_of("ERROR on fire", "DEBUG fine", "no level", "INFORMATION too", "", "INFO  ", "WARNING  indented")
    assert [(record.levelname, said(record)) for record in caplog.records] == [
        ("ERROR", "on fire"),
        ("DEBUG", "fine"),
        ("WARNING", "no level"),
        ("WARNING", "INFORMATION too"),
        ("WARNING", " indented"),
    ]
    assert {record.name for record in caplog.records} == {"tests.child"}
    assert {vars(record)["pid"] for record in caplog.records} == {7}


def test_a_line_without_a_level_has_the_level_that_the_owner_gives_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log_of("listening", loose_level=logging.INFO)
    assert [record.levelname for record in caplog.records] == ["INFO"]


def test_a_line_is_cleaned_before_it_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    log = log_of(
        "WARNING hf_secret is no secret", clean=lambda line: line.replace("hf_secret", "…"), longest_line=len("hf_sec")
    )
    assert [said(record) for record in caplog.records] == ["… is n"]
    assert log.last_line == "… is n"


LAST_WORDS: dict[str, tuple[tuple[str, ...], int | None, str | None]] = {
    "no grave line": (("INFO fine", "WARNING hm"), None, None),
    "the first error while loading": (("ERROR the cause", "ERROR a consequence"), None, "the cause"),
    "the last error while serving": (("ERROR one", "ERROR another"), 0, "another"),
    "no error of before the load": (("ERROR survived", "INFO fine"), 1, None),
    "a death mark without a level": (("a.c:7: GGML_ASSERT(x) failed",), 0, "a.c:7: GGML_ASSERT(x) failed"),
    "a death mark with a level": (("WARNING GGML_ASSERT(x)",), 0, "GGML_ASSERT(x)"),
    "a loose line is not grave": (("oops",), 0, None),
}


@pytest.mark.parametrize(("lines", "loaded_after", "words"), LAST_WORDS.values(), ids=LAST_WORDS)
def test_the_last_words_are_the_grave_line_that_counts(
    lines: tuple[str, ...], loaded_after: int | None, words: str | None
) -> None:
    log = log_of(*lines, loaded_after=loaded_after, death_marks=("GGML_ASSERT",))
    assert log.last_words == words
    assert log.words_before(-9) == words


TRACEBACK = ("INFO on my way", "Traceback (most recent call last):", '  File "a.py", line 1', "ImportError: no x")


@pytest.mark.parametrize(
    ("lines", "returncode", "words"),
    [
        (TRACEBACK, 1, "ImportError: no x"),
        (("chatter", *TRACEBACK), 1, "ImportError: no x"),
        (TRACEBACK, 0, None),
        (TRACEBACK, -9, None),
        (TRACEBACK, None, None),
        (("ERROR the cause", *TRACEBACK), 1, "the cause"),
        ([f"line {number}" for number in range(100)], 2, " ".join(f"line {number}" for number in range(92, 100))),
    ],
)
def test_an_interpreter_that_cannot_begin_is_quoted(
    lines: Iterable[str], returncode: int | None, words: str | None
) -> None:
    assert log_of(*lines).words_before(returncode) == words


def test_a_traceback_while_serving_explains_no_exit_status() -> None:
    assert log_of(*TRACEBACK, loaded_after=0).words_before(1) is None


@pytest.mark.parametrize(
    ("line", "tells"),
    [("libgomp: Thread creation failed: Resource temporarily unavailable", True), ("libgomp: no", False)],
)
def test_native_code_that_had_no_thread_is_known_by_its_words(line: str, tells: bool) -> None:  # noqa: FBT001
    assert log_of(line, death_marks=("libgomp: ",)).tells_of_no_thread is tells


class Output(ByteReceiveStream):
    """An output of a child that arrives in these pieces and ends."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = iter(pieces)

    async def receive(self, max_bytes: int = 65536) -> bytes:  # noqa: ARG002 - the pieces are small
        await checkpoint()
        for piece in self.pieces:
            return piece
        raise anyio.EndOfStream

    async def aclose(self) -> None:
        pass


class Lines(ChildLog):
    def __init__(self) -> None:
        super().__init__(LOGGER, fields={})
        self.taken: list[str] = []

    def take(self, line: str) -> None:
        self.taken.append(line)


@given(st.lists(st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])), max_size=5), st.data())
def test_lines_are_the_same_however_they_arrive(lines: list[str], data: st.DataObject) -> None:
    text = "".join(f"{line}\n" for line in lines).encode() + b"half a line"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    log = Lines()
    anyio.run(log.read, Output(text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)))
    assert log.taken == lines


@pytest.mark.anyio
async def test_of_a_line_without_an_end_the_beginning_is_kept() -> None:
    log = Lines()
    await log.read(Output([b"ERROR " + b"x" * 500_000, *[b"y" * 500_000] * 5, b"\nINFO next\n"]))
    first, second = log.taken
    assert first.startswith("ERROR xxx")
    assert len(first) == 1 << 20
    assert second == "INFO next"


@pytest.mark.anyio
async def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    log = Lines()
    await log.read(Output([b"\xff\xfe\n"]))
    assert log.taken == ["��"]

import fcntl
import logging
import os

import pytest

from neuron_service.log_config import _BackgroundHandler, configure_logging


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    """What has been logged to stderr, all of it."""
    for handler in logging.getLogger().handlers:
        handler.flush()
    return capsys.readouterr().err


def test_a_record_is_one_line_with_its_fields_behind_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    logging.getLogger("neuron_lib.x").info("loaded %s", "it", extra={"model_id": "org/a", "elapsed_ms": 12})
    assert logged(capsys).endswith(" INFO    neuron_lib.x: loaded it model_id=org/a elapsed_ms=12\n")


@pytest.mark.parametrize(
    ("value", "written"), [("a b", '"a b"'), ("", '""'), ("a=b", '"a=b"'), ('say "x"', '"say \\"x\\""'), (None, "None")]
)
def test_a_value_that_would_blur_is_quoted(capsys: pytest.CaptureFixture[str], value: object, written: str) -> None:
    configure_logging("info")
    logging.getLogger().info("m", extra={"field": value})
    assert logged(capsys).endswith(f"m field={written}\n")


@pytest.mark.parametrize("forged", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x00b", "a\x7fb"])
def test_no_value_can_forge_a_second_line_or_steer_a_terminal(capsys: pytest.CaptureFixture[str], forged: str) -> None:
    configure_logging("info")
    logging.getLogger().info("m %s", forged, extra={"path": forged})
    (line, end) = logged(capsys).split("\n")
    assert end == ""
    assert line.isprintable()


def test_records_below_the_level_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    assert logged(capsys).count("\n") == 1


def test_a_traceback_follows_the_line_of_its_record(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    logging.getLogger("x").error("bug", exc_info=ZeroDivisionError("one over nothing"))
    first, *_, last, _ = logged(capsys).split("\n")
    assert first.endswith("x: bug")
    assert last == "ZeroDivisionError: one over nothing"


def test_a_reader_that_stops_reading_stops_nobody_and_learns_what_it_missed() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reading, "rb") as reader:
        full = os.write(writing, bytes(fcntl.fcntl(writing, fcntl.F_GETPIPE_SZ)))
        handler = _BackgroundHandler(stream, most_waiting=2)
        for number in range(10):
            handler.emit(logging.makeLogRecord({"msg": f"record {number}"}))
        reader.read(full)
        handler.flush()
        handler.emit(logging.makeLogRecord({"msg": "the last"}))
        handler.flush()
        stream.close()
        first, *_, notice, last = reader.read().decode().splitlines()
    assert first == "record 0"
    assert "records were dropped here" in notice
    assert last == "the last"


def test_a_process_without_stderr_logs_nowhere() -> None:
    handler = _BackgroundHandler(None)
    handler.emit(logging.makeLogRecord({"msg": "lost"}))
    handler.flush()

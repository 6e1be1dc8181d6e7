import fcntl
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from neuron_lib.logs import get_logger
from neuron_service.cli import main
from neuron_service.journal import is_journal
from neuron_service.log_config import _BackgroundHandler, configure_logging, hold_records


def logged(capsys: pytest.CaptureFixture[str]) -> str:
    """Everything that has been logged to stderr."""
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
def test_a_value_whose_end_would_not_be_clear_is_quoted(
    capsys: pytest.CaptureFixture[str], value: object, written: str
) -> None:
    configure_logging("info")
    logging.getLogger().info("m", extra={"field": value})
    assert logged(capsys).endswith(f"m field={written}\n")


@pytest.mark.parametrize(
    "forged", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x00b", "a\x7fb", "a\u2028b", "a\u202eb", "a\x9bb", "a\udc80b"]
)
@pytest.mark.parametrize("get", [logging.getLogger, get_logger])
def test_no_value_can_forge_a_second_line_or_steer_a_terminal(
    capsys: pytest.CaptureFixture[str], forged: str, get: Callable[[str], Any]
) -> None:
    configure_logging("info")
    get("x").info("m %s", forged, extra={"path": forged})
    (line, end) = logged(capsys).split("\n")
    assert end == ""
    assert line.isprintable()
    assert line.count(forged[1:-1].encode("unicode_escape").decode()) == 2


@pytest.mark.parametrize("get", [logging.getLogger, get_logger])
def test_fields_are_written_once(capsys: pytest.CaptureFixture[str], get: Callable[[str], Any]) -> None:
    configure_logging("info")
    get("x").info("engine ready", extra={"model_id": "org/a"})
    assert logged(capsys).endswith(" x: engine ready model_id=org/a\n")


@pytest.mark.parametrize(("zone", "written"), [("UTC", "+00:00"), ("XXX-5:30", "+05:30"), ("YYY+4", "-04:00")])
def test_a_time_is_local_and_says_how_far_it_is_from_utc(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, zone: str, written: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        configure_logging("info")
        before = datetime.now(UTC)
        logging.getLogger("x").info("m")
        stamp, _, rest = logged(capsys).partition(" ")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert stamp.endswith(written)
    assert abs((datetime.fromisoformat(stamp) - before).total_seconds()) < 60
    assert rest == "INFO    x: m\n"


@contextmanager
def journal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file that stands for the journal: our stderr is this file, and `JOURNAL_STREAM` names it."""
    path = folder / "journal"
    with path.open("w", buffering=1) as stream, monkeypatch.context() as patch:
        status = os.fstat(stream.fileno())
        patch.setattr(sys, "stderr", stream)
        patch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        yield path
        flush()


def flush() -> None:
    for handler in logging.getLogger().handlers:
        handler.flush()


@pytest.mark.parametrize(
    ("level", "priority"),
    [("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3), ("CRITICAL", 2), (25, 6), (35, 4)],
)
def test_the_journal_gets_a_priority_and_no_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str | int, priority: int
) -> None:
    number = level if isinstance(level, int) else logging.getLevelNamesMapping()[level]
    with journal(tmp_path, monkeypatch) as path:
        configure_logging("debug", environ=os.environ)
        get_logger("x").log(number, "m", extra={"model_id": "org/a"})
    assert path.read_text() == f"<{priority}>x: m model_id=org/a\n"


def test_each_line_of_a_traceback_has_the_priority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal(tmp_path, monkeypatch) as path:
        configure_logging("info", environ=os.environ)
        logging.getLogger("x").error("bug", exc_info=ZeroDivisionError("one\nover\n<0>nothing"))
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("<3>") for line in lines)


@pytest.mark.process
@pytest.mark.parametrize(
    ("arguments", "status"),
    [("serve --config /nowhere/neuron.toml", 78), ("serve --port none", os.EX_USAGE), ("serve --host 203.0.113.7", 71)],
)
def test_the_reason_why_a_service_does_not_start_has_the_priority_of_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("neuron.toml").write_text("")
    with journal(tmp_path, monkeypatch) as path, pytest.raises(SystemExit, match=f"^{status}$"):
        main(arguments.split())
    (line,) = path.read_text().splitlines()
    assert line.startswith("<3>neuron: ")


def test_a_service_whose_stderr_is_redirected_writes_no_priorities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    with journal(tmp_path, monkeypatch) as path, elsewhere.open("w", buffering=1) as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        configure_logging("info", environ=os.environ)
        logging.getLogger("x").info("m")
        flush()
    assert elsewhere.read_text().endswith(" INFO    x: m\n")
    assert path.read_text() == ""


@pytest.mark.parametrize("value", [None, "", "1", "a:b", "1:2:3", "0:0"])
def test_a_journal_variable_that_names_another_stream_is_ignored(value: str | None) -> None:
    assert not is_journal(sys.stdout, {} if value is None else {"JOURNAL_STREAM": value})
    assert not is_journal(None, {} if value is None else {"JOURNAL_STREAM": value})


def test_a_traceback_is_bounded_and_keeps_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    logging.getLogger("x").error(
        "bug", exc_info=ZeroDivisionError("\n".join("y" * 100_000 for _ in range(1000)) + "end")
    )
    log = logged(capsys)
    assert len(log) < 20_000
    assert "the beginning of this traceback is left out" in log
    assert "y" * 100 in log


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


def test_a_reader_that_stops_reading_does_not_block_and_is_told_how_many_records_were_dropped() -> None:
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


# ---------------------------------------------------------------------------------------------------------------- JSON


def objects(log: str) -> list[Any]:
    """The objects of a log in JSON, read strictly."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return [json.loads(line, parse_constant=refuse) for line in log.splitlines()]


@pytest.mark.parametrize("get", [logging.getLogger, get_logger])
def test_in_json_a_record_is_one_object_whose_fields_keep_their_types(
    capsys: pytest.CaptureFixture[str], get: Callable[[str], Any]
) -> None:
    configure_logging("info", log_format="json")
    fields = {"model_id": "org/a", "queue_ms": 12, "share": 0.5, "retried": True, "code": None, "devices": (0, 1)}
    get("x").info("loaded %s", "it", extra=fields)
    (told,) = objects(logged(capsys))
    assert abs(datetime.fromisoformat(told.pop("time")).timestamp() - time.time()) < 60
    said = {"level": "INFO", "logger": "x", "message": "loaded it"}
    assert told == said | fields | {"devices": [0, 1]}


def test_in_json_the_time_is_that_of_utc(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XXX-5:30")
    time.tzset()
    try:
        configure_logging("info", log_format="json")
        logging.getLogger("x").info("m")
        (told,) = objects(logged(capsys))
    finally:
        monkeypatch.undo()
        time.tzset()
    assert told["time"].endswith("Z")
    assert abs(datetime.fromisoformat(told["time"]).timestamp() - time.time()) < 60


@pytest.mark.parametrize(
    "value",
    ["a\nb", "a\x1b[31mb", "a\u2028b", "a\u202eb", "\udc80", "ä", "x" * 100_000, float("nan"), float("inf"), 10**400,
     [["y" * 1000] * 1000], {"k\n": {1, 2}}, object(), b"\xff", ZeroDivisionError("z\n")],
)  # fmt: skip
def test_in_json_no_value_breaks_a_line_or_makes_it_long(capsys: pytest.CaptureFixture[str], value: object) -> None:
    configure_logging("info", log_format="json")
    get_logger("x").info("m", extra={"field": value})
    log = logged(capsys)
    (told,) = objects(log)
    assert "field" in told
    assert log.isascii()
    assert log.removesuffix("\n").isprintable()
    assert len(log) < 8000


def test_in_json_no_field_takes_the_place_of_the_record_s_own(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", log_format="json")
    logging.getLogger("x").info("m", extra={"time": "never", "level": "none", "logger": "y"})
    (told,) = objects(logged(capsys))
    assert (told["level"], told["logger"], told["message"]) == ("INFO", "x", "m")
    assert told["time"] != "never"


def test_in_json_a_traceback_is_a_field_and_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info", log_format="json")
    logging.getLogger("x").error(
        "bug", exc_info=ZeroDivisionError("\n".join("y" * 1000 for _ in range(1000)) + "\nend")
    )
    log = logged(capsys)
    (told,) = objects(log)
    assert told["exception"].endswith("end")
    assert len(log) < 20_000


def test_in_json_the_journal_gets_a_priority_in_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal(tmp_path, monkeypatch) as path:
        configure_logging("info", log_format="json", environ=os.environ)
        logging.getLogger("x").warning("m")
    assert path.read_text().startswith('<4>{"time": ')


def test_records_are_held_until_it_is_known_how_to_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    hold_records("info")
    logging.getLogger("x").info("early")
    logging.getLogger("x").debug("never")
    assert logged(capsys) == ""
    configure_logging("info", log_format="json")
    logging.getLogger("x").info("late")
    assert [told["message"] for told in objects(logged(capsys))] == ["early", "late"]

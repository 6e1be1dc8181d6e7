"""The lines between a child process and its parent: what is written is what is read."""

import logging
from typing import Any

import pytest

from neuron_lib.child.lines import ChildFormatter, ChildLine, parse_line
from neuron_lib.child.log import ChildLog
from neuron_lib.logs import FieldLogger, get_logger


def written(get: Any, message: str, **fields: object) -> str:
    """The line of one record."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    logger = logging.getLogger("child")
    logger.setLevel(logging.DEBUG)
    handler = Keep()
    handler.setFormatter(ChildFormatter())
    logger.addHandler(handler)
    logger.propagate = False
    try:
        get("child").warning(message, extra=fields)
    finally:
        logger.removeHandler(handler)
    (line,) = lines
    return line


@pytest.mark.parametrize("get", [logging.getLogger, get_logger])
def test_a_line_about_a_request_names_it_once_and_in_front(get: Any) -> None:
    line = written(get, "request ends", request_id="abc-1")
    assert line == "WARNING request_id=abc-1 request ends"
    assert parse_line(line) == ChildLine(logging.WARNING, "request ends", "abc-1")


def test_other_fields_stay_behind_the_message() -> None:
    assert written(get_logger, "m", request_id="abc", seats=2) == "WARNING request_id=abc m seats=2"


@pytest.mark.parametrize(("request_id", "shown"), [("a b\nc", "a_b_c"), ("ä" * 300, "_" * 128), ("", None)])
def test_an_id_of_any_text_stays_one_word(request_id: str, shown: str | None) -> None:
    line = written(get_logger, "m", request_id=request_id)
    assert line == ("WARNING m" if shown is None else f"WARNING request_id={shown} m")


@pytest.mark.parametrize("line", ["", "no level here", "request_id=abc m", "warning m"])
def test_a_line_of_native_code_has_no_level_and_no_id(line: str) -> None:
    assert parse_line(line) == ChildLine(None, line)


class KeepingLogger(FieldLogger):
    def __init__(self) -> None:
        super().__init__(logging.getLogger("kept"))
        self.kept: list[tuple[int, str, dict[str, object]]] = []

    def log(self, level: int, msg: object, *args: object, **options: Any) -> None:
        self.kept.append((level, str(msg) % args, options["extra"]))


def test_the_parent_makes_a_field_of_the_id() -> None:
    logger = KeepingLogger()
    log = ChildLog(logger, fields={"pid": 7})
    log.take("DEBUG request_id=abc request begins request=3")
    log.take("ERROR no request here")
    assert logger.kept == [
        (logging.DEBUG, "request begins request=3", {"pid": 7, "request_id": "abc"}),
        (logging.ERROR, "no request here", {"pid": 7}),
    ]

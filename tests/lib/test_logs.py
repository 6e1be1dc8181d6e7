import ast
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

import neuron_lib
from neuron_lib.logs import get_logger

LIBRARY = Path(neuron_lib.__file__).parent


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the handler of a program that embeds the library writes, in a format of its own."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(funcName)s: %(message)s"))
    log = logging.getLogger("host.program")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield stream
    log.removeHandler(handler)


def test_the_fields_of_a_record_are_in_the_line_of_any_handler(written: io.StringIO) -> None:
    get_logger("host.program").info("engine %s", "ready", extra={"model_id": "org/a", "pid": 12})
    assert written.getvalue() == (
        "INFO test_the_fields_of_a_record_are_in_the_line_of_any_handler: engine ready model_id=org/a pid=12\n"
    )


def test_the_fields_are_attributes_of_the_record_as_well(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("host.program").warning("engine ready", extra={"model_id": "org/a"})
    (record,) = caplog.records
    assert record.__dict__["model_id"] == "org/a"


def test_a_message_without_fields_is_as_it_was(written: io.StringIO) -> None:
    get_logger("host.program").info("%d %% of it", 5)
    get_logger("host.program").info("100 % of it")
    assert [line.partition(": ")[2] for line in written.getvalue().splitlines()] == ["5 % of it", "100 % of it"]


def test_an_exception_is_logged_with_its_traceback(written: io.StringIO) -> None:
    try:
        json.loads("{")
    except ValueError:
        get_logger("host.program").exception("no JSON", extra={"file": "x"})
    first, *_, last = written.getvalue().splitlines()
    assert first.endswith("no JSON file=x")
    assert last.startswith("json.decoder.JSONDecodeError")


def test_a_message_is_one_bounded_line_whatever_is_in_it(written: io.StringIO) -> None:
    huge = "x\n" * 1_000_000
    get_logger("host.program").info("%s", huge, extra={"model_id": huge, "devices": [huge] * 1000})
    assert written.getvalue().count("\n") == 1
    assert len(written.getvalue()) < 6000


def test_a_record_below_the_level_is_not_formatted(written: io.StringIO) -> None:
    class Precious:
        def __str__(self) -> str:
            raise AssertionError

    get_logger("host.program").debug("%s", Precious())
    assert written.getvalue() == ""


@pytest.mark.parametrize("package", ["neuron_lib", "neuron_service"])
def test_every_record_with_fields_comes_from_a_logger_that_shows_them(package: str) -> None:
    for path in (LIBRARY.parent / package).rglob("*.py"):
        text = path.read_text()
        logs_fields = any(
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and any(keyword.arg == "extra" for keyword in call.keywords)
            for call in ast.walk(ast.parse(text))
        )
        assert not logs_fields or "logging.getLogger(" not in text, path

import logging

import pytest

from neuron_service.log_config import configure_logging


def test_a_record_is_one_line_with_its_fields_behind_the_message(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    logging.getLogger("neuron_lib.x").info("loaded %s", "it", extra={"model_id": "org/a", "elapsed_ms": 12})
    assert capsys.readouterr().err.endswith(" INFO    neuron_lib.x: loaded it model_id=org/a elapsed_ms=12\n")


@pytest.mark.parametrize(
    ("value", "written"), [("a b", '"a b"'), ("", '""'), ("a=b", '"a=b"'), ('say "x"', '"say \\"x\\""'), (None, "None")]
)
def test_a_value_that_would_blur_is_quoted(capsys: pytest.CaptureFixture[str], value: object, written: str) -> None:
    configure_logging("info")
    logging.getLogger().info("m", extra={"field": value})
    assert capsys.readouterr().err.endswith(f"m field={written}\n")


@pytest.mark.parametrize("forged", ["a\nb", "a\r\nb", "a\x1b[31mb", "a\x00b", "a\x7fb"])
def test_no_value_can_forge_a_second_line_or_steer_a_terminal(capsys: pytest.CaptureFixture[str], forged: str) -> None:
    configure_logging("info")
    logging.getLogger().info("m %s", forged, extra={"path": forged})
    (line, end) = capsys.readouterr().err.split("\n")
    assert end == ""
    assert line.isprintable()


def test_records_below_the_level_are_dropped(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning")
    logging.getLogger("x").info("quiet")
    logging.getLogger("x").warning("loud")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_traceback_follows_the_line_of_its_record(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("info")
    logging.getLogger("x").error("bug", exc_info=ZeroDivisionError("one over nothing"))
    first, *_, last, _ = capsys.readouterr().err.split("\n")
    assert first.endswith("x: bug")
    assert last == "ZeroDivisionError: one over nothing"

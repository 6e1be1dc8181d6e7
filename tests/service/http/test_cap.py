import logging

import pytest

from neuron_lib.errors import OverloadReason
from neuron_service.http.cap import ConnectionCap, Welcome


@pytest.mark.parametrize("descriptors", [16, 64, 256, 1024, 8192, 65536])
def test_connections_leave_descriptors_to_the_rest_of_the_process(descriptors: int) -> None:
    cap = ConnectionCap.for_descriptors(descriptors)
    assert 4 <= cap.limit <= 4096
    assert cap.limit < cap.limit + cap.spare <= descriptors - min(256, descriptors // 2)


@pytest.mark.parametrize(
    ("open_connections", "welcome"),
    [(1, Welcome.FULL), (8, Welcome.FULL), (9, Welcome.QUESTIONS), (10, Welcome.QUESTIONS), (11, Welcome.NONE)],
)
def test_a_new_connection_is_judged_by_the_number_of_open_connections(open_connections: int, welcome: Welcome) -> None:
    assert ConnectionCap(8, spare=2).welcome(open_connections) is welcome


@pytest.mark.parametrize(
    ("welcome", "admitted"),
    [
        (Welcome.FULL, {"GET", "HEAD", "OPTIONS", "POST", "DELETE"}),
        (Welcome.QUESTIONS, {"GET", "HEAD", "OPTIONS"}),
        (Welcome.NONE, set()),
    ],
)
def test_beyond_the_limit_only_questions_are_answered(welcome: Welcome, admitted: set[str]) -> None:
    assert {method for method in ("GET", "HEAD", "OPTIONS", "POST", "DELETE") if welcome.admits(method)} == admitted


def test_a_client_beyond_the_limit_is_told_when_to_come_back() -> None:
    refusal = ConnectionCap(8, spare=2).refusal()
    assert (refusal.reason, refusal.retry_after_s) == (OverloadReason.QUEUE_FULL, 5)
    assert "8 connections" in refusal.message


def test_a_burst_is_logged_at_its_begin_and_when_an_eighth_is_free_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cap = ConnectionCap(16, spare=4)
    for count in (16, 17, 18, 17, 21):
        cap.welcome(count)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (vars(caplog.records[0])["open_connections"], vars(caplog.records[0])["max_connections"]) == (17, 16)
    for count in range(20, 13, -1):
        cap.note_closed(count)
    (_, told) = caplog.records
    assert (told.levelname, vars(told)["open_connections"], vars(told)["refused_connections"]) == ("INFO", 14, 4)
    cap.welcome(17)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]

"""The lines of server-sent events."""

from neuron_service.client.event_lines import ServerSentEvent, read_events


def test_an_event_has_a_name_a_text_of_all_its_lines_and_the_last_id() -> None:
    lines = ["event: state", "id: 7", "data: a", "data:b", "", "data: c", ""]
    assert list(read_events(lines)) == [ServerSentEvent("state", "a\nb", "7"), ServerSentEvent("message", "c", "7")]


def test_comments_and_fields_that_nobody_knows_are_skipped() -> None:
    assert list(read_events([": ping", "", "retry: 5", "x", "data:  a", ""])) == [ServerSentEvent("message", " a")]


def test_an_event_that_the_end_cuts_off_is_dropped() -> None:
    assert list(read_events(["data: a"])) == []

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.text.stop_strings import StopStrings

# Few letters, so that stops, their beginnings and their overlaps really occur.
texts = st.text(alphabet="abé", max_size=30)
stop_lists = st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=4)


def shown(stops: StopStrings, pieces: list[str]) -> str:
    return "".join(stops.feed(piece) for piece in pieces) + stops.finish()


def test_text_before_the_stop_is_shown_and_the_rest_is_dropped() -> None:
    stops = StopStrings(["END"])
    assert stops.feed("one END two") == "one "
    assert stops.hit
    assert stops.feed("three") == ""
    assert stops.finish() == ""
    assert stops.hit


def test_a_stop_is_found_across_pieces() -> None:
    stops = StopStrings(["\n\nUser:"])
    assert [stops.feed(piece) for piece in ("Hi\n", "\nUs", "er", ": x")] == ["Hi", "", "", ""]
    assert stops.hit


def test_text_is_held_back_only_while_a_stop_may_still_come_of_it() -> None:
    stops = StopStrings(["stop"])
    assert [stops.feed(piece) for piece in ("a st", "a", "sto")] == ["a ", "sta", ""]
    assert not stops.hit
    assert stops.finish() == "sto"
    assert stops.finish() == ""


def test_without_stops_text_passes_through_untouched() -> None:
    stops = StopStrings([])
    text = "anything"
    assert stops.feed(text) is text
    assert stops.finish() == ""
    assert not stops.hit


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty stop string"):
        StopStrings(["x", ""])


def test_the_longest_of_several_stops_that_end_together_is_the_one_that_was_found() -> None:
    stops = StopStrings(["b", "ab", "c"])
    assert stops.feed("xab c") == "x"
    assert stops.found == "ab"


@given(stop_lists, texts, st.data())
def test_how_the_text_is_cut_into_pieces_changes_nothing(stops: list[str], text: str, data: st.DataObject) -> None:
    borders = data.draw(st.lists(st.integers(0, len(text))).map(sorted))
    pieces = [text[start:end] for start, end in zip([0, *borders], [*borders, len(text)], strict=True)]
    whole, split = StopStrings(stops), StopStrings(stops)
    assert shown(split, pieces) == shown(whole, [text])
    assert split.found == whole.found


@given(stop_lists, texts)
def test_what_is_shown_is_a_beginning_of_the_text_without_any_stop(stops: list[str], text: str) -> None:
    watched = StopStrings(stops)
    output = shown(watched, [text])
    assert text.startswith(output)
    assert not any(stop in output for stop in stops)
    assert watched.hit == any(stop in text for stop in stops)
    assert watched.hit or output == text
    assert watched.found is None or text.startswith(output + watched.found)

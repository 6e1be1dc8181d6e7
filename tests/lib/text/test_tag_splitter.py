import pytest

from neuron_lib.text.tag_splitter import Cut, cut_at_tag


@pytest.mark.parametrize(
    ("text", "tags", "expected"),
    [
        ("", ("<a>",), Cut("", None, "")),
        ("plain", ("<a>",), Cut("plain", None, "")),
        ("one<a>two", ("<a>",), Cut("one", "<a>", "two")),
        ("one<a>two<a>", ("<a>",), Cut("one", "<a>", "two<a>")),
        ("one<", ("<a>",), Cut("one", None, "<")),
        ("one<a", ("<a>",), Cut("one", None, "<a")),
        ("one<b", ("<a>",), Cut("one<b", None, "")),
        ("x<<a", ("<a>",), Cut("x<", None, "<a")),
        ("aa", ("aab",), Cut("", None, "aa")),
        ("aab", ("aabaac",), Cut("", None, "aab")),
        ("aabaab", ("aabaac",), Cut("aab", None, "aab")),
        ("x[y]<a>", ("<a>", "[y]"), Cut("x", "[y]", "<a>")),
        ("é", ("é!",), Cut("", None, "é")),
    ],
)
def test_text_is_cut_at_the_first_tag_or_before_what_may_become_one(
    text: str, tags: tuple[str, ...], expected: Cut
) -> None:
    assert cut_at_tag(text, tags) == expected


def test_the_tag_completed_first_wins_over_one_that_begins_earlier() -> None:
    assert cut_at_tag("abcd", ("abcd", "bc")) == Cut("a", "bc", "d")


def test_of_tags_completed_together_the_longest_wins() -> None:
    assert cut_at_tag("xabc", ("bc", "abc")) == Cut("x", "abc", "")

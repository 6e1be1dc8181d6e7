from neuron_lib.engine.pair_writer import PairWriter
from neuron_lib.engine.prompt_writer import Prompt
from neuron_lib.text.control_text import ControlTexts, Piece, Strips

CONTROLS = ControlTexts({"<sep>": Strips()})
TEMPLATE = "<sep>Q: {query} D: {document}!"


def written(
    query: str, document: str, *, template: str | None = None, controls: ControlTexts | None = CONTROLS
) -> Prompt:
    return PairWriter(template=template, separator="<sep>", controls=controls).write(
        query, document, param="documents[2]"
    )


def test_without_a_template_control_tokens_stand_between_two_foreign_texts() -> None:
    prompt = written("who?", "me")
    assert prompt.text == "who?<sep>me"
    assert prompt.pieces == (
        Piece("who?", is_foreign=True),
        Piece("<sep>", is_foreign=False),
        Piece("me", is_foreign=True),
    )
    assert prompt.param == "documents[2]"


def test_an_empty_document_is_ranked_like_any_other() -> None:
    assert written("who?", "").pieces == (Piece("who?", is_foreign=True), Piece("<sep>", is_foreign=False))


def test_a_template_says_where_query_and_document_go_and_is_read_in_one_piece() -> None:
    assert written("who?", "me", template=TEMPLATE) == Prompt("<sep>Q: who? D: me!", param="documents[2]")


def test_a_template_may_show_a_text_twice_and_texts_that_look_like_places_stay() -> None:
    prompt = written("{document}", "{query}", template="{query}{document}{query}")
    assert prompt.text == "{document}{query}{document}"


def test_a_query_that_spells_a_control_token_is_told_apart_from_the_template() -> None:
    prompt = written("a<sep>b", "me", template=TEMPLATE)
    assert prompt.pieces == (
        Piece("<sep>Q: ", is_foreign=False),
        Piece("a<sep>b", is_foreign=True),
        Piece(" D: ", is_foreign=False),
        Piece("me", is_foreign=True),
        Piece("!", is_foreign=False),
    )


def test_an_operator_may_let_texts_write_control_tokens() -> None:
    assert written("a<sep>b", "me", template=TEMPLATE, controls=None).pieces is None
    pieces = written("a<sep>b", "me", controls=None).pieces
    assert pieces is not None
    assert not any(piece.is_foreign for piece in pieces)

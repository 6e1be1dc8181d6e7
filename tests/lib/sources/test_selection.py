"""Which GGUF files of a repository a quant means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.selection import Selection, select_gguf


def choose(quant: str | None, *files: str) -> tuple[str, ...]:
    return select_gguf(files, quant=quant, model_id="org/name").files


def refusal(quant: str | None, *files: str) -> PreflightFailed:
    with pytest.raises(PreflightFailed) as raised:
        choose(quant, *files)
    return raised.value


MANY = ("m-Q2_K.gguf", "m-Q4_0.gguf", "m-Q4_K_S.gguf", "m-Q4_K_M.gguf", "m-Q5_K_M.gguf", "m-Q8_0.gguf", "m-BF16.gguf")


@pytest.mark.parametrize(
    ("quant", "files", "chosen"),
    [
        ("Q4_K_M", MANY, "m-Q4_K_M.gguf"),
        ("q4km", MANY, "m-Q4_K_M.gguf"),
        ("q4-k-m", MANY, "m-Q4_K_M.gguf"),
        ("q4k", MANY, "m-Q4_K_M.gguf"),
        ("q4", MANY, "m-Q4_K_M.gguf"),
        ("q40", MANY, "m-Q4_0.gguf"),
        ("q5k", MANY, "m-Q5_K_M.gguf"),
        ("bf16", MANY, "m-BF16.gguf"),
        (" Q8_0 ", MANY, "m-Q8_0.gguf"),
        ("m-Q8_0.gguf", MANY, "m-Q8_0.gguf"),
        ("q4k", ("m-Q4_K_S.gguf", "m-IQ4_K_M.gguf"), "m-Q4_K_S.gguf"),
        ("q6k", ("m-Q6_K_P.gguf", "m-Q4_K_M.gguf"), "m-Q6_K_P.gguf"),
        ("f16", ("m-BF16.gguf", "m-F16.gguf"), "m-F16.gguf"),
        ("q4_0", ("m-IQ4_0.gguf", "m-Q4_0_8_8.gguf", "m-Q4_0.gguf"), "m-Q4_0.gguf"),
        ("q4_k_m", ("m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"), "m-Q4_K_M.gguf"),
        ("q4_k_m", ("A-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"), "m-Q4_K_M.gguf"),
        ("ud-q4_k_m", ("m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"), "m-UD-Q4_K_M.gguf"),
        ("q4_k_m", ("m-UD-Q4_K_M.gguf",), "m-UD-Q4_K_M.gguf"),
        ("q4_1", ("SmolLM2-135M-Instruct.Q4_1.gguf",), "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("q8_0", ("model_q8_0.GGUF",), "model_q8_0.GGUF"),
        ("q8_0", ("Q8_0/model.gguf", "Q4_0/model.gguf"), "Q8_0/model.gguf"),
    ],
)
def test_a_quant_finds_the_file_that_carries_it(quant: str, files: tuple[str, ...], chosen: str) -> None:
    assert choose(quant, *files) == (chosen,)
    assert choose(quant, *reversed(files)) == (chosen,)


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("f16", "m-bf16.gguf"),
        ("q4_0", "m-iq4_0.gguf"),
        ("q4_0", "m-q4_0_8_8.gguf"),
        ("q4", "m-q40.gguf"),
        ("4", "m-q4_k.gguf"),
        ("__", "m-q4_k.gguf"),
        (".*", "m-q4_k.gguf"),
        ("q" * 100_000, "m-q4_k.gguf"),
    ],
)
def test_a_quant_does_not_find_what_merely_contains_it(quant: str, file: str) -> None:
    assert refusal(quant, file).kind is PreflightKind.QUANT_NOT_FOUND


@pytest.mark.parametrize("quant", [None, "", "  "])
def test_without_a_quant_the_default_preference_decides(quant: str | None) -> None:
    assert choose(quant, *MANY) == ("m-Q4_K_M.gguf",)
    assert choose(quant, "m-IQ1_S.gguf", "m-Q8_0.gguf") == ("m-Q8_0.gguf",)
    assert choose(quant, "b.gguf", "a.gguf") == ("a.gguf",)


def test_files_that_are_no_language_model_are_never_chosen() -> None:
    others = ("mmproj-m-Q4_K_M.gguf", "m-imatrix.gguf", "m.imatrix.Q4_K_M.gguf", "README.md", "config.json")
    assert choose("q4_k_m", *others, "x/mmproj.gguf", "z-Q4_K_M.gguf") == ("z-Q4_K_M.gguf",)
    assert refusal(None, *others).kind is PreflightKind.EMPTY_REPO


@pytest.mark.parametrize("name", ["../m.gguf", "a/../m.gguf", "/m.gguf", "a\\m.gguf", "a\x00.gguf", "./m.gguf"])
def test_a_file_name_that_could_leave_its_directory_is_never_chosen(name: str) -> None:
    assert refusal(None, name).kind is PreflightKind.EMPTY_REPO


def test_a_quant_that_is_not_there_is_refused_with_what_is() -> None:
    error = refusal("Q6_K", "README.md", "M-Q6_L.gguf", "M.Q8_0.gguf")
    assert error.kind is PreflightKind.QUANT_NOT_FOUND
    assert error.fields == {
        "model_id": "org/name",
        "requested": "Q6_K",
        "available": ("m-q6_l.gguf", "m.q8_0.gguf"),
        "nearest": "q6_l",
    }
    assert "m-q6_l.gguf" in error.message


def test_a_repository_without_weights_and_one_without_gguf_are_told_apart() -> None:
    assert refusal("q4_0").kind is PreflightKind.EMPTY_REPO
    assert refusal("q4_0", "README.md").kind is PreflightKind.EMPTY_REPO
    assert refusal("q4_0", "model.safetensors").kind is PreflightKind.GGUF_REQUIRED
    assert choose("q4_0", "model.safetensors", "m-q4_0.gguf") == ("m-q4_0.gguf",)


def test_a_split_model_is_one_candidate_with_all_its_parts_in_order() -> None:
    parts = tuple(f"q8/m-Q8_0-{i:05}-of-00003.gguf" for i in (1, 2, 3))
    assert choose("q8_0", *reversed(parts)) == parts
    assert choose("q4", *parts, "m-Q4_K_M.gguf") == ("m-Q4_K_M.gguf",)


def test_a_split_model_with_a_missing_part_is_refused_naming_it() -> None:
    error = refusal("q8_0", "m-Q8_0-00001-of-00003.gguf", "m-Q8_0-00003-of-00003.gguf")
    assert error.kind is PreflightKind.FILE_NOT_FOUND
    assert "m-Q8_0-00002-of-00003.gguf" in error.message


NAMES = st.lists(
    st.from_regex(
        r"[a-z]{0,3}[-.]?(Q4_K_M|q8_0|iq4_xs|bf16|F16|mmproj)?(-0000[0-3]-of-0000[0-3])?\.gguf", fullmatch=True
    ),
    max_size=6,
    unique=True,
)


@given(NAMES, st.none() | st.sampled_from(["q4k", "Q8_0", "f16", "iq4", "", "zz"]) | st.text(max_size=8))
def test_the_choice_is_from_the_listing_and_does_not_depend_on_its_order(files: list[str], quant: str | None) -> None:
    def outcome(names: list[str]) -> Selection | PreflightKind:
        try:
            return select_gguf(names, quant=quant, model_id="org/name")
        except PreflightFailed as error:
            return error.kind

    result = outcome(files)
    assert result == outcome(files[::-1])
    if isinstance(result, Selection):
        assert result.files
        assert set(result.files) <= set(files)

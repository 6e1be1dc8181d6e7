"""Which GGUF files of a repository a quant means."""

import re
from collections.abc import Sequence
from random import Random
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.repository import RepoFile
from neuron_lib.sources.selection import Selection, quant_of, select_gguf


def listing(names: Sequence[str]) -> list[RepoFile]:
    return [RepoFile(name) for name in names]


def choose(quant: str | None, *names: str) -> tuple[str, ...]:
    return tuple(file.path for file in select_gguf(listing(names), quant=quant, model_id="org/name").files)


def refusal(quant: str | None, *names: str, model_id: str = "org/name") -> PreflightFailed:
    with pytest.raises(PreflightFailed) as raised:
        select_gguf(listing(names), quant=quant, model_id=model_id)
    return raised.value


def outcome(files: Sequence[RepoFile], quant: str | None, room_bytes: int | None = None) -> Selection | PreflightKind:
    try:
        return select_gguf(files, quant=quant, model_id="org/name", room_bytes=room_bytes)
    except PreflightFailed as error:
        return error.kind


MANY: Final = (
    *("m-Q2_K.gguf", "m-Q4_0.gguf", "m-Q4_K_S.gguf", "m-Q4_K_M.gguf"),
    *("m-Q5_K_M.gguf", "m-Q8_0.gguf", "m-BF16.gguf"),
)


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
        ("q4k", ("m-Q4_K_XL.gguf", "m-Q4_K_L.gguf", "m-Q4_K_S.gguf"), "m-Q4_K_S.gguf"),
        ("q4k", ("m-Q4_K_XL.gguf", "m-Q4_K_L.gguf"), "m-Q4_K_L.gguf"),
        ("q6k", ("m-Q6_K_P.gguf", "m-Q4_K_M.gguf"), "m-Q6_K_P.gguf"),
        ("f16", ("m-BF16.gguf", "m-F16.gguf"), "m-F16.gguf"),
        ("f16", ("m-bf16.gguf", "m-fp16.gguf"), "m-fp16.gguf"),
        ("f16", ("m-Q4_K_M-f16.gguf", "m-f16.gguf"), "m-f16.gguf"),
        ("q4_0", ("m-IQ4_0.gguf", "m-Q4_0_8_8.gguf", "m-Q4_0.gguf"), "m-Q4_0.gguf"),
        ("q8_0", ("m-Q8_0_L.gguf", "m-Q8_0.gguf"), "m-Q8_0.gguf"),
        ("q8_0", ("m-Q8_0_L.gguf",), "m-Q8_0_L.gguf"),
        ("q4_k_m", ("A-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"), "m-Q4_K_M.gguf"),
        ("q4_k_m", ("m-UD-Q4_K_M.gguf",), "m-UD-Q4_K_M.gguf"),
        ("q2k", ("m-UD-Q2_K.gguf", "m-Q2_K_L.gguf"), "m-UD-Q2_K.gguf"),
        ("ud-q4_k_m", ("m-UD-Q4_K_M.gguf", "m-Q4_K_M.gguf"), "m-UD-Q4_K_M.gguf"),
        ("ud-q4k", ("m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf"), "m-UD-Q4_K_XL.gguf"),
        ("q4_1", ("SmolLM2-135M-Instruct.Q4_1.gguf",), "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("q8_0", ("model_q8_0.GGUF",), "model_q8_0.GGUF"),
        ("q8_0", ("Q8_0/model.gguf", "Q4_0/model.gguf"), "Q8_0/model.gguf"),
        ("q4_k_m", ("m-Q4_K_M-mtp.gguf", "m-Q4_K_M.gguf"), "m-Q4_K_M.gguf"),
        ("q4_k_m", ("x/m-Q4_K_M.gguf", "longer-Q4_K_M.gguf"), "longer-Q4_K_M.gguf"),
        ("13b-q4_0", ("m-7b-Q4_0.gguf", "m-13b-Q4_0.gguf"), "m-13b-Q4_0.gguf"),
        ("13B", ("m-7b-Q4_0.gguf", "m-13b-Q8_0.gguf", "m-13b-Q4_0.gguf"), "m-13b-Q4_0.gguf"),
    ],
)
def test_a_quant_finds_the_file_that_carries_it(quant: str, files: tuple[str, ...], chosen: str) -> None:
    assert choose(quant, *files) == (chosen,)
    assert choose(quant, *reversed(files)) == (chosen,)


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("f16", "m-bf16.gguf"),
        ("f16", "m-Q4_K_M-f16.gguf"),
        ("q4_0", "m-iq4_0.gguf"),
        ("q4_0", "m-q4_0_8_8.gguf"),
        ("q4", "m-q4_0_4_4.gguf"),
        ("q4k", "m-q4_0.gguf"),
        ("q8_0", "m-q8_k_xl.gguf"),
        ("q4_k_m", "m-q4_k.gguf"),
        ("ud-q4_k_m", "m-q4_k_m.gguf"),
        ("13b-q4_0", "m-3b-q4_0.gguf"),
        ("4", "m-q4_k.gguf"),
        ("__", "m-q4_k.gguf"),
        (".*", "m-q4_k.gguf"),
        ("q" * 100_000, "m-q4_k.gguf"),
        ("q4" * 100_000, "m-q4_k.gguf"),
    ],
)
def test_a_quant_does_not_find_what_merely_contains_it(quant: str, file: str) -> None:
    assert refusal(quant, file).kind is PreflightKind.QUANT_NOT_FOUND


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("m-Q4_K_M.gguf", "Q4_K_M"),
        ("m.q4_k_m.gguf", "q4_k_m"),
        ("UD-Q4_K_XL/m-UD-Q4_K_XL-00001-of-00002.gguf", "UD-Q4_K_XL"),
        ("BF16/m-00001-of-00002.gguf", "BF16"),
        ("m.i1-IQ2_XXS.gguf", "i1-IQ2_XXS"),
        ("m-IQ4_XS.gguf", "IQ4_XS"),
        ("m-Q4_0_4_8.gguf", "Q4_0_4_8"),
        ("m-IQ4_K_R4.gguf", "IQ4_K_R4"),
        ("m-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("m-UD-TQ1_0.gguf", "UD-TQ1_0"),
        ("m-BF16-abliterated.i1-IQ4_XS.gguf", "i1-IQ4_XS"),
        ("m.f16.q5.gguf", "q5"),
        ("cloud-fp16.gguf", "fp16"),
        ("m.Q6_K.gguf-00001-of-00006.gguf", "Q6_K"),
        ("Qwen2.5-7B-Instruct.gguf", None),
        ("m-IQ\u0664_XS.gguf", None),  # an Arabic digit
        ("m-Q4_K_\u017f.gguf", "Q4_K"),  # a letter whose capital is S
        ("", None),
    ],
)
def test_a_path_names_its_quant(path: str, quant: str | None) -> None:
    assert quant_of(path) == quant


@pytest.mark.parametrize("quant", [None, "", "  "])
def test_without_a_quant_the_default_preference_decides(quant: str | None) -> None:
    assert choose(quant, *MANY) == ("m-Q4_K_M.gguf",)
    assert choose(quant, "m-UD-Q4_K_M.gguf", "longer-Q4_K_M.gguf") == ("longer-Q4_K_M.gguf",)
    assert choose(quant, "m-UD-Q4_K_M.gguf", "m-Q4_K_S.gguf") == ("m-UD-Q4_K_M.gguf",)
    assert choose(quant, "m-IQ1_S.gguf", "m-Q8_0.gguf") == ("m-Q8_0.gguf",)
    assert choose(quant, "m-F16.gguf", "m-Q2_K.gguf") == ("m-Q2_K.gguf",)
    assert choose(quant, "m-Q4_0_4_4.gguf", "m-Q2_K.gguf") == ("m-Q2_K.gguf",)
    assert choose(quant, "b.gguf", "a.gguf") == ("a.gguf",)


def test_a_size_that_is_not_known_counts_as_fitting() -> None:
    files = [RepoFile("m-Q4_K_M.gguf"), RepoFile("m-Q2_K.gguf", 10)]
    assert outcome(files, None, room_bytes=100) == Selection((files[0],), "Q4_K_M")


def test_a_fifth_of_the_room_is_left_for_context_and_buffers() -> None:
    files = [RepoFile("m-Q4_K_M.gguf", 81), RepoFile("m-Q4_K_S.gguf", 80), RepoFile("m-Q2_K.gguf", 40)]
    assert outcome(files, None, room_bytes=100) == Selection((files[1],), "Q4_K_S")


def test_a_quant_that_is_asked_for_is_given_even_if_it_does_not_fit() -> None:
    files = [RepoFile("m-Q8_0.gguf", 1000), RepoFile("m-Q2_K.gguf", 10)]
    assert outcome(files, "q8_0", room_bytes=100) == Selection((files[0],), "Q8_0")


HELPERS: Final = (
    "mmproj-m-Q4_K_M.gguf",
    "x/mmproj.gguf",
    "m-imatrix.gguf",
    "m.imatrix.Q4_K_M.gguf",
    "ggml-vocab-llama-bpe.gguf",
    "ggml-adapter-Q4_K_M.gguf",
    "m-lora-Q4_K_M.gguf",
    "loras/m-Q4_K_M.gguf",
    "mtp-m-Q4_K_M.gguf",
    "MTP/m-Q4_K_M.gguf",
    "draft/m-Q4_K_M.gguf",
    "m-Eagle3-Q4_K_M.gguf",
    "m-DFlash-b16-Q4_K_M.gguf",
    "m-Q4_K_M-00002-of-00001.gguf",
    "m-Q4_K_M-00000-of-00003.gguf",
    "m-Q4_K_M.gguf.part1of2",
)


@pytest.mark.parametrize("helper", HELPERS)
def test_a_helper_file_is_never_chosen(helper: str) -> None:
    assert choose("q4_k_m", helper, "a/longer/z-Q4_K_M.gguf") == ("a/longer/z-Q4_K_M.gguf",)
    assert refusal(None, helper).kind in {PreflightKind.EMPTY_REPO, PreflightKind.GGUF_REQUIRED}


@pytest.mark.parametrize("word", ["draft", "EAGLE", "mtp", "embeddings", "head"])
def test_a_word_of_helpers_in_a_name_counts_only_beside_other_models(word: str) -> None:
    file = f"m-{word}-Q8_0.gguf"
    assert choose("q8_0", file) == (file,)
    assert choose(None, file, "m-Q2_K.gguf") == ("m-Q2_K.gguf",)
    assert refusal("q8_0", file, "m-Q2_K.gguf").kind is PreflightKind.QUANT_NOT_FOUND


@pytest.mark.parametrize("name", ["../m.gguf", "a/../m.gguf", "/m.gguf", "a\\m.gguf", "a\x00.gguf", "./m.gguf"])
def test_a_file_name_that_could_leave_its_directory_is_never_chosen(name: str) -> None:
    assert refusal(None, name).kind is PreflightKind.EMPTY_REPO


def test_a_refusal_repeats_no_unsafe_name_and_takes_no_time_for_one() -> None:
    error = refusal(None, "mmproj.gguf", "mmproj\x1b[2J.gguf", "a\nb.gguf", "ggml" * 1_000_000)
    assert error.message.endswith("no model among them: mmproj.gguf")


@pytest.mark.parametrize("name", ["../m.gguf", "/m.gguf", "m\x1b[2J.gguf", "n" * 5000 + ".gguf", "\ud800.gguf"])
def test_names_that_are_not_safe_are_told_from_none(name: str) -> None:
    error = refusal(None, name)
    assert error.kind is PreflightKind.EMPTY_REPO
    assert "only under names that are not safe, such as" in error.message
    assert error.message.isprintable()
    assert len(error.message) < 400


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


UNLOADABLE: Final = (
    *("IQ1_S_R4", "IQ2_K", "IQ2_KS", "IQ2_KL", "IQ2_KT", "IQ2_BN", "IQ3_K", "IQ3_KS", "IQ4_K", "IQ4_KS", "IQ4_KSS"),
    *("IQ4_KS_R4", "IQ4_NL_R4", "IQ5_K", "IQ5_KS", "IQ5_K_R4", "IQ6_K", "IQ1_KT", "Q6_0", "Q8_KV", "Q8_KV_R8"),
    *("Q8_K_R8", "Q4_K_R4", "Q4_0_R8", "BF16_R16", "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8"),
    *("I2_S", "TL1", "TL2", "TQ3_0", "TQ4_1", "MXFP8"),
)


@pytest.mark.parametrize("tag", UNLOADABLE)
def test_a_type_that_llama_cpp_does_not_load_is_never_chosen_and_refused_with_the_reason(tag: str) -> None:
    file = f"m-{tag}.gguf"
    assert choose(None, file, "m-F32.gguf") == ("m-F32.gguf",)
    error = refusal(tag.lower(), file, "m-Q8_0.gguf", "m-Q2_K.gguf")
    assert error.kind is PreflightKind.QUANT_NOT_FOUND
    assert f"{file} " in error.message
    assert "llama.cpp" in error.message
    assert error.fields["available"] == ("m-q2_k.gguf", "m-q8_0.gguf")
    alone = refusal(None, file)
    assert alone.kind is PreflightKind.GGUF_REQUIRED
    assert file in alone.message


@pytest.mark.parametrize(
    "tag", [*("Q8_0", "Q6_K", "Q4_K_M", "Q4_K_S", "Q4_K_XL", "IQ4_NL", "IQ4_XS", "IQ3_M", "IQ3_S")]
)
def test_what_llama_cpp_loads_is_chosen(tag: str) -> None:
    assert choose(tag, f"m-{tag}.gguf") == choose(None, f"m-{tag}.gguf") == (f"m-{tag}.gguf",)


def test_each_reason_is_the_one_of_its_type() -> None:
    assert "does not load; ik_llama.cpp does" in refusal(None, "m-IQ4_KS.gguf").message
    assert "does not load; bitnet.cpp does" in refusal(None, "ggml-model-i2_s.gguf").message
    assert "no longer loads" in refusal(None, "m-Q4_0_4_4.gguf").message


def test_a_family_does_not_reach_a_type_that_cannot_be_loaded() -> None:
    assert choose("iq4", "m-IQ4_KS.gguf", "m-IQ4_XS.gguf") == ("m-IQ4_XS.gguf",)
    assert "IQ4_KS.gguf is of a type" in refusal("iq4", "m-IQ4_KS.gguf", "m-Q4_K_M.gguf").message


@pytest.mark.parametrize(
    "ending",
    [
        *(".part1of2", "-part-a", ".part-aa", ".part1", "-split-a", ".split-b", ".a", ".aa", ".00", ".001", "-p1"),
        *(".split00", "-00001-of-00002", ".1of2"),
    ],
)
def test_a_quant_that_is_only_there_in_pieces_is_refused_with_the_reason(ending: str) -> None:
    piece = f"m.Q8_0.gguf{ending}"
    error = refusal("q8_0", piece, "m.Q2_K.gguf", "m.Q6_K.gguf")
    assert error.kind is PreflightKind.QUANT_NOT_FOUND
    assert f"{piece} is a piece of a file that must be joined first" in error.message
    assert error.fields["nearest"] == "q6_k"
    assert refusal(None, piece).kind is PreflightKind.GGUF_REQUIRED
    assert "pieces" not in refusal("q5_0", piece, "m.Q2_K.gguf").message


@pytest.mark.parametrize("piece", ["m.Q8_0.part1of2.gguf", "m-Q8_0-part-01-of-12.gguf", "m-Q8_0.split-a.gguf"])
def test_a_piece_may_have_the_suffix_of_a_whole_file(piece: str) -> None:
    error = refusal("q8_0", piece, "m.Q2_K.gguf")
    assert f"{piece} is a piece of a file that must be joined first" in error.message
    assert refusal(None, piece).kind is PreflightKind.GGUF_REQUIRED
    assert choose(None, piece, "m.Q2_K.gguf") == ("m.Q2_K.gguf",)


@pytest.mark.parametrize(
    "name", ["m-part-2.gguf", "my-story-part1.gguf", "m-part-00001-of-00001.gguf", "split-brain.gguf"]
)
def test_a_whole_file_may_have_the_name_of_a_part_of_something(name: str) -> None:
    assert choose(None, name) == (name,)


@pytest.mark.parametrize("name", ["m.Q8_0.gguf.md", "m.Q8_0.gguf.sha256", "m.Q8_0.gguf.json", "m.Q8_0.gguf.meta"])
def test_what_lies_beside_a_file_is_no_piece_of_it(name: str) -> None:
    assert refusal(None, name).kind is PreflightKind.EMPTY_REPO


@pytest.mark.parametrize(
    ("asked", "there", "nearest"),
    [
        ("Q8_0", ("Q2_K", "Q6_K", "F16"), "q6_k"),
        ("Q5_K_M", ("Q4_K_M", "Q6_K", "Q5_0"), "q5_0"),
        ("Q6_K", ("Q8_0", "Q5_K_M", "Q3_K_M"), "q5_k_m"),
        ("Q4_K_M", ("IQ4_XS", "Q4_1", "Q8_0"), "q4_1"),
        ("Q3_K_M", ("IQ3_M", "Q2_K", "Q4_K_M"), "iq3_m"),
        ("IQ2_XXS", ("Q2_K", "IQ1_M", "Q8_0"), "iq1_m"),
        ("BF16", ("F32", "F16", "Q8_0"), "f16"),
        ("q4k", ("Q2_K", "Q5_K_S"), "q5_k_s"),
        ("IQ4_KS", ("Q2_K", "Q4_K_S", "Q8_0"), "q4_k_s"),
        ("q8_1", ("BF16", "UD-Q8_K_XL", "Q8_0"), "q8_0"),
        ("int4", ("F16", "Q4_K_M", "Q8_0"), "q4_k_m"),
        ("8-bit", ("F16", "Q4_K_M", "Q8_0"), "q8_0"),
        ("fp8", ("F16", "Q6_K", "Q2_K"), "q6_k"),
        ("banana", ("Q8_0", "Q2_K"), "q2_k"),
    ],
)
def test_the_nearest_quant_is_the_one_with_about_as_many_bits(asked: str, there: tuple[str, ...], nearest: str) -> None:
    error = refusal(asked, *(f"m-{tag}.gguf" for tag in there))
    assert error.fields["nearest"] == nearest


def test_a_listing_of_any_size_makes_a_refusal_that_a_line_of_json_holds() -> None:
    long = (f"{'d' * 250}/{number}-{'n' * 200}-Q8_0.gguf" for number in range(5000))
    error = refusal("q4_k_m", *long, *(f"{number}-Q8_0.gguf" for number in range(5000)))
    assert len(error.fields["available"]) == 300
    assert len(str(error.fields)) < 10_000
    assert len(error.message) < 2000


def test_a_quant_of_any_length_makes_a_short_refusal() -> None:
    assert len(refusal("q" * 100_000, "m-Q8_0.gguf").message) < 500


def test_there_is_no_nearest_quant_where_no_name_has_one() -> None:
    assert refusal("q4_k_m", "model.gguf").fields["nearest"] is None


def test_of_hundreds_of_files_the_field_has_all_and_the_text_a_few() -> None:
    error = refusal("q4_k_m", *(f"m{number}-Q8_0.gguf" for number in range(300)))
    assert len(error.fields["available"]) == 300
    assert error.message.endswith("and 288 more")
    assert len(error.message) < 500


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("model.safetensors",), "safetensors"),
        (("model_index.json", "unet/model.safetensors"), "diffusion"),
        (("adapter_config.json", "adapter_model.safetensors"), "adapter"),
        (("pytorch_model.bin",), "PyTorch"),
        (("consolidated.00.pth",), "PyTorch"),
        (("onnx/model.onnx",), "ONNX"),
        (("weights.npz",), "MLX"),
        (("llama.ggmlv3.q4_0.bin",), "GGML"),
        (("tf_model.h5",), "TensorFlow"),
        (("m.Q8_0.gguf.part1of2", "m.Q8_0.gguf.part2of2"), "pieces"),
    ],
)
def test_weights_of_another_kind_are_refused_in_words_of_their_own(files: tuple[str, ...], words: str) -> None:
    error = refusal("q4_0", "README.md", *files)
    assert error.kind is PreflightKind.GGUF_REQUIRED
    assert words in error.message
    assert "GGUF" in error.message


@pytest.mark.parametrize("name", ["name", "name-AWQ", "name-GPTQ-Int4", "name-4bit", "name-unsloth-bnb-4bit"])
def test_a_repository_without_gguf_is_refused_with_the_usual_names_of_those_that_have_one(name: str) -> None:
    error = refusal(None, "model.safetensors", model_id=f"huggingface:org/{name}")
    usual = ("org/name-GGUF", "unsloth/name-GGUF", "bartowski/name-GGUF", "bartowski/org_name-GGUF")
    assert set(usual) <= set(error.fields["suggestions"])
    assert all(each in error.message for each in usual)


def test_a_repository_is_suggested_once() -> None:
    suggestions = refusal(None, "model.safetensors", model_id="unsloth/name").fields["suggestions"]
    assert suggestions.count("unsloth/name-GGUF") == 1


def test_a_repository_without_any_weights_is_empty() -> None:
    assert refusal("q4_0").kind is PreflightKind.EMPTY_REPO
    assert refusal("q4_0", "README.md").kind is PreflightKind.EMPTY_REPO
    error = refusal("q4_0", "mmproj-m.gguf")
    assert error.kind is PreflightKind.EMPTY_REPO
    assert "mmproj-m.gguf" in error.message


def test_gguf_files_go_before_weights_of_another_kind() -> None:
    assert choose("q4_0", "model.safetensors", "m-q4_0.gguf") == ("m-q4_0.gguf",)
    assert choose(None, "model_index.json", "m-q4_0.gguf") == ("m-q4_0.gguf",)


def parts(stem: str, count: int) -> list[str]:
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def test_a_split_model_is_one_candidate_with_all_its_parts_in_order() -> None:
    names = parts("q8/m-Q8_0", 3)
    assert choose("q8_0", *reversed(names)) == tuple(names)
    assert choose("q4", *names, "m-Q4_K_M.gguf") == ("m-Q4_K_M.gguf",)


def test_the_sizes_of_all_parts_count_when_a_split_model_must_fit() -> None:
    split = [RepoFile(name, 30) for name in parts("m-Q4_K_M", 3)]
    small = RepoFile("m-Q2_K.gguf", 80)
    assert outcome([*split, small], None, room_bytes=100) == Selection((small,), "Q2_K")


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("quant", ["q8_0", None])
def test_a_split_model_with_a_missing_part_is_refused_naming_it(quant: str | None, number: int) -> None:
    names = parts("Q8_0/m-Q8_0", 3)
    missing = names.pop(number - 1)
    error = refusal(quant, *names)
    assert error.kind is PreflightKind.FILE_NOT_FOUND
    assert error.fields["file"] == missing
    assert missing in error.message


def test_of_two_split_models_of_one_quant_the_complete_one_is_chosen() -> None:
    assert choose("q8_0", *parts("m-Q8_0", 2)[:1], *parts("m-Q8_0", 3)) == tuple(parts("m-Q8_0", 3))
    assert choose("q8_0", *parts("m-Q8_0", 2), *parts("m-Q8_0", 3)) == tuple(parts("m-Q8_0", 2))


def test_parts_that_differ_in_the_case_of_their_ending_are_chosen_alike_in_any_order() -> None:
    names = ("m-Q8_0-00001-of-00001.gguf", "m-Q8_0-00001-of-00001.GGUF")
    assert choose("q8_0", *names) == choose("q8_0", *reversed(names))


def test_without_a_quant_an_incomplete_model_is_passed_over() -> None:
    assert choose(None, *parts("m-Q4_K_M", 2)[:1], "m-Q8_0.gguf") == ("m-Q8_0.gguf",)


TAGS: Final = (
    *("Q2_K", "Q3_K_L", "Q4_0", "Q4_1", "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q6_K", "Q6_K_L", "Q8_0", "IQ1_S", "IQ2_XXS"),
    *("IQ3_M", "IQ4_XS", "IQ4_NL", "UD-Q4_K_XL", "UD-Q4_K_M", "UD-IQ1_S", "i1-Q4_K_M", "TQ1_0", "MXFP4_MOE", "BF16"),
    *("F16", "F32"),
)
NAMES = st.from_regex(
    r"([a-z]{0,3}|UD|Q8_0|mtp|draft)[-./]?(Q4_K_M|q8_0|iq4_xs|bf16|F16|Q4_0_4_4|mmproj|lora)?"
    r"(-0000[0-3]-of-0000[0-3])?\.(gguf|GGUF|safetensors)",
    fullmatch=True,
)
FILES = st.lists(
    st.builds(RepoFile, NAMES | st.text(max_size=12), st.none() | st.integers(0, 100)),
    max_size=8,
    unique_by=lambda file: file.path,
)
QUANTS = st.none() | st.sampled_from([*TAGS, "q4k", "q4", "iq4", "", "zz"]) | st.text(max_size=12)


@given(FILES, QUANTS, st.none() | st.integers(0, 200), st.randoms(use_true_random=False))
def test_the_choice_is_from_the_listing_in_any_order_and_never_a_helper(
    files: list[RepoFile], quant: str | None, room_bytes: int | None, shuffler: Random
) -> None:
    result = outcome(files, quant, room_bytes)
    shuffled = shuffler.sample(files, len(files))
    assert result == outcome(shuffled, quant, room_bytes)
    if isinstance(result, Selection):
        assert result.files
        assert set(result.files) <= set(files)
        assert all(file.path.lower().endswith(".gguf") for file in result.files)
        assert not any(re.search(r"mmproj|imatrix|\blora\b|^mtp-|^draft/", file.path) for file in result.files)


@st.composite
def spellings(draw: st.DrawFn, tag: str) -> str:
    """The tag with the case of each letter and each separator changed at will."""
    pieces = re.split("[_-]", tag)
    separators = [draw(st.sampled_from(["", "_", "-", ".", " "])) for _ in pieces[1:]]
    text = "".join(piece + separator for piece, separator in zip(pieces, [*separators, ""], strict=True))
    return "".join(draw(st.sampled_from([letter.lower(), letter.upper()])) for letter in text)


@given(st.sampled_from(TAGS).flatmap(lambda tag: st.tuples(st.just(tag), spellings(tag), spellings(tag))))
def test_every_spelling_of_a_tag_finds_the_same_file_however_that_spells_it(case: tuple[str, str, str]) -> None:
    tag, asked, named = case
    others = [f"m-{other}.gguf" for other in TAGS if other != tag]
    assert choose(asked, *others, f"m-{named}.gguf") == (f"m-{named}.gguf",)

"""Rules about every option, parameter and key of the other servers."""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuron_lib.config import Config, load_config
from neuron_lib.shown import printable
from neuron_service.backends import BACKENDS
from neuron_service.cli.import_config import ImportFormat, as_file, translate
from neuron_service.migration import Command, Draft, Translation, translate_command
from neuron_service.migration.llama_server_options import OPTIONS
from tests.examples import examples

HOME = PurePosixPath("/srv/old")
MODEL = ["-m", "/srv/a.gguf", "-c", "512"]

words = st.one_of(
    st.sampled_from(["0", "1", "-1", "4", "99", "0.5", "8192", "1e9", "on", "off", "none", "q8_0", "bf16", "layer"]),
    st.sampled_from(["a/b:Q4_K_M", "/x/y.gguf", "../y.gguf", "CUDA0,CUDA1", "nan", "-inf", "", "ü\x00\n[x]", "9" * 40]),
    st.text(max_size=12),
)
option_lines = st.lists(st.tuples(st.sampled_from([*OPTIONS, "--other", "word"]), words), max_size=8)


def translated(arguments: list[str]) -> Translation:
    draft = Draft()
    translate_command(Command(arguments=tuple(arguments)), draft, folder=HOME)
    return draft.finish()


def loaded(translation: Translation, folder: Path) -> Config:
    """The configuration that a start would have. Raises for a file that a start would refuse."""
    file = folder / "neuron.toml"
    file.write_text(as_file(translation, format_="llama-server", files=["-"]), "utf-8")
    return load_config(file, {}, sections=BACKENDS, strict=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("translated")


def test_every_option_changes_the_result_of_a_command() -> None:
    plain = translated(MODEL)
    silent = [
        option
        for option, known in OPTIONS.items()
        if option not in {"-m", "--model", "-c", "--ctx-size"}
        and translated([*MODEL, option, *([] if known.takes == "nothing" else ["1"])]) == plain
    ]
    # These are read where there is no -m, which comes before them.
    assert set(silent) <= {
        "-hf",
        "-hfr",
        "--hf-repo",
        "-hff",
        "--hf-file",
        "-mu",
        "--model-url",
        "-dr",
        "--docker-repo",
    }


@given(option_lines)
@settings(max_examples=examples(50))
def test_whatever_a_command_says_the_result_is_a_configuration(folder: Path, lines: list[tuple[str, str]]) -> None:
    arguments = [word for line in lines for word in line]
    for before in ([], MODEL):
        result = translated([*before, *arguments])
        loaded(result, folder)
        assert all(printable(note.text) for note in result.notes)


@given(
    format_=st.sampled_from(["ollama", "llama-swap", "llama-server"]),
    text=st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from([
                "FROM a.gguf", "FROM hf.co/a/b:Q4", "PARAMETER top_k 3", "PARAMETER num_ctx x", 'SYSTEM """', '"""',
                "OLLAMA_HOST=:::", "OLLAMA_KEEP_ALIVE=1h", "models:", "  a: {cmd: llama-server -m /a.gguf}",
                "  b: [1]", "[*]", "[a]", "model = /a.gguf", "mlock = maybe", " hf = x",
                "groups: {x: {members: [a, 1, null]}}", "hooks: {on_startup: {preload: {a: 1}}}", "macros: [1]",
                "routing: {router: {settings: {groups: 3}}}", "logLevel: [1]", "globalTTL: x", "llama-server -m a",
                "  c: {cmd: llama-server -m /c.gguf, ttl: x, aliases: {a: b}, env: 3, filters: 3, macros: 3}",
            ]),
            max_size=10,
        ).map("\n".join),
    ),
)  # fmt: skip
@settings(max_examples=examples(100))
def test_whatever_a_file_says_it_is_translated_or_refused(folder: Path, format_: ImportFormat, text: str) -> None:
    try:
        result = translate(format_, [("/srv/old/file", text)], name=None, environ={})
    except ValueError as error:
        assert str(error).startswith("/srv/old/file: ")  # noqa: PT017 - most of these files are refused
        return
    loaded(result, folder)


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join(10 * [f'*a{n - 1}'])}]\n" for n in range(1, 30)
)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (f"{BOMB}models: {{a: {{cmd: llama-server -m /a.gguf, env: *a29}}}}", "it has more than 100000 values"),
        (f"{BOMB}models: {{a: {{cmd: llama-server -m /a.gguf, ttl: 1}}}}", "it has more than 100000 values"),
        ("models: &m {a: *m}", "an alias in it stands for a value that contains the alias"),
    ],
)
def test_aliases_that_stand_for_too_much_are_refused(lines: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        translate("llama-swap", [("config.yaml", lines)], name=None, environ={})


def test_aliases_of_a_usual_size_are_read() -> None:
    models = ", ".join(f"{name}: {{cmd: llama-server -m /{name}.gguf, macros: *m}}" for name in "ab")
    text = f"macros: &m {{x: 1}}\nmodels: {{{models}}}"
    assert len(translate("llama-swap", [("config.yaml", text)], name=None, environ={}).config["models"]) == 2

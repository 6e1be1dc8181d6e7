"""The pages that are made from the code have everything that the code has."""

import re

import pytest

pytest.importorskip("sphinx", reason="the packages of the extra docs are not installed")

from neuron_docs import contents, errors, generated, library, operations, settings

import neuron_lib
from neuron_lib.errors import ConfigError, LoadFailed, NeuronError, PreflightKind, RequestRejected
from tests.documents import ROOT, all_blocks, pages

ABSTRACT = {NeuronError, RequestRejected, ConfigError}


def test_every_public_name_of_the_library_is_on_its_page() -> None:
    shown = set(re.findall(r"^\.\. auto\w+:: neuron_lib\.(\w+)$", library.page(), re.MULTILINE))
    assert set(neuron_lib.__all__) - shown == set()


def test_every_module_that_a_program_on_a_page_imports_from_is_on_the_page_of_the_library() -> None:
    programs = [block.text for page in pages() for block in all_blocks(page) if block.language == "python"]
    named = {
        module
        for text in programs
        for module in re.findall(r"^\s*from (neuron_lib\.[\w.]+) import", text, re.MULTILINE)
    }
    assert named - set(library.HOMES.values()) == set()


def test_every_key_of_the_configuration_is_on_its_page_once() -> None:
    page = settings.page()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    keys = [name.rpartition(".")[2] for name in settings.described() if name != "harness"]
    assert sorted(rows) == sorted(keys)


def test_a_key_is_shown_with_its_bounds_and_its_default() -> None:
    assert settings.described()["port"] == ("whole number from 0 to 65535", "`13131`")
    assert settings.described()["models.id"][1] == "must be given"
    assert settings.described()["tls_cert"] == ("path", "none")


def test_every_operation_is_on_its_page_and_every_body_that_a_page_links_to_is_there() -> None:
    paths, bodies = operations.paths(), operations.bodies()
    assert {
        path
        for path in operations.described()["paths"]
        if path.replace("_", "\\_") not in paths.replace("`", "") and path not in paths
    } == set()
    linked = set(re.findall(r"\(#(body-\w+)\)", paths + bodies))
    assert linked - set(re.findall(r"^\((body-\w+)\)=$", bodies, re.MULTILINE)) == set()


def test_every_error_of_a_request_or_a_load_has_a_row() -> None:
    rows = set(re.findall(r"^\| `\w+` \| `(\w+)` \|", f"{errors.requests()}\n{errors.loads()}", re.MULTILINE))
    public = {each for each in errors.subclasses(NeuronError) if each.__module__ == "neuron_lib.errors"}
    assert {each.__name__ for each in public - ABSTRACT} - rows == set()
    assert LoadFailed.__name__ in rows


def test_an_error_has_the_status_that_each_api_answers() -> None:
    (row,) = [line for line in errors.requests().splitlines() if "`TemplateFailed`" in line]
    assert row.startswith("| `template_render_failed` | `TemplateFailed` | 422 | 400 |")


def test_every_refusal_that_the_page_about_troubles_names_is_one_that_there_is() -> None:
    page = (ROOT / "docs/how-to/troubleshoot.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| (\d{3}) `(\w+)`", page, re.MULTILINE))
    rows = re.findall(r"^\| `(\w+)` \| `\w+` \| (\d{3}) \|", errors.requests(), re.MULTILINE)
    assert named
    assert named - {(status, code) for code, status in rows} == set()


def test_the_page_about_troubles_has_every_reason_for_which_a_file_is_refused() -> None:
    page = (ROOT / "docs/how-to/troubleshoot.md").read_text(encoding="utf-8")
    assert [kind for kind in PreflightKind if f"`{kind}`" not in page] == []


def test_the_sidebar_has_the_lists_of_the_index() -> None:
    assert contents.contents_of("## Learn\n- [A](a/b.md): x\n## Do\n[C](../c.md) [D](https://d.md)") == [
        ("Learn", ["a/b.md"]),
        ("Do", ["../c.md"]),
    ]
    assert ":caption: Do\n\n/c" in contents.toctrees("## Do\n[C](../c.md)", "docs/index")


@pytest.mark.parametrize("name", generated.PARTS)
def test_every_part_that_can_be_generated_is_on_a_page(name: str) -> None:
    assert any(f"{{generated}} {name}\n" in (ROOT / page).read_text(encoding="utf-8") for page in pages())

from pathlib import Path

import pytest

from neuron_service.cli.service_files import (
    Act,
    Layout,
    act_of_installing,
    act_of_undoing,
    hidden_by_the_unit,
    system_layout,
    user_layout,
)

PROGRAM = Path("/opt/neuron/bin/neuron")
SYSTEM = system_layout(PROGRAM)
USER = user_layout(PROGRAM, Path("/home/ada/.config"))


def content(layout: Layout, name: str) -> str:
    return next(file.content for file in layout.files if file.path.name == name)


@pytest.mark.parametrize(
    ("layout", "configuration"), [(SYSTEM, "/etc/neuron/neuron.toml"), (USER, "%E/neuron/neuron.toml")]
)
def test_the_unit_starts_the_installed_program_with_its_configuration(layout: Layout, configuration: str) -> None:
    (line,) = [line for line in content(layout, "neuron.service").splitlines() if line.startswith("ExecStart=")]
    assert line.startswith(f"ExecStart={PROGRAM} serve --config {configuration}")


def test_a_path_with_characters_that_systemd_reads_differently_is_quoted() -> None:
    unit = content(system_layout(Path('/opt/a "b"/100%/neuron')), "neuron.service")
    assert '\nExecStart="/opt/a \\"b\\"/100%%/neuron" serve ' in unit


def test_everything_lies_below_the_root_that_was_named() -> None:
    layout = system_layout(PROGRAM, Path("/image"))
    assert all(file.path.is_relative_to("/image/etc") for file in layout.files)
    assert all("--root=/image" in command for command in layout.prepare)
    assert content(layout, "neuron.service") == content(SYSTEM, "neuron.service")


def test_a_file_that_nobody_has_changed_is_replaced_by_a_newer_one_and_deleted_by_undoing() -> None:
    older = system_layout(Path("/opt/older/bin/neuron"))
    for file, found in zip(SYSTEM.files, older.files, strict=True):
        assert act_of_installing(file, found.content) in {Act.REPLACE, Act.KEEP}
        assert act_of_undoing(file, found.content) is Act.DELETE
    assert act_of_installing(SYSTEM.files[0], older.files[0].content) is Act.REPLACE


@pytest.mark.parametrize("found", ["[Service]\nExecStart=/bin/true\n", f"{SYSTEM.files[0].content}# mine\n", ""])
def test_a_file_that_somebody_else_wrote_or_changed_is_neither_replaced_nor_deleted(found: str) -> None:
    unit = SYSTEM.files[0]
    assert act_of_installing(unit, found) is Act.REFUSE
    assert act_of_undoing(unit, found) is Act.LEAVE


@pytest.mark.parametrize("layout", [SYSTEM, USER])
def test_a_configuration_that_is_there_stays_as_it_is(layout: Layout) -> None:
    (file,) = [file for file in layout.files if file.is_configuration]
    assert act_of_installing(file, "port = 1\n") is Act.KEEP
    assert act_of_undoing(file, "port = 1\n") is Act.LEAVE
    assert act_of_undoing(file, file.content) is Act.DELETE
    assert file.mode & 0o007 == 0


@pytest.mark.parametrize("layout", [SYSTEM, USER])
def test_what_is_not_there_is_written_and_undoing_does_nothing_about_it(layout: Layout) -> None:
    assert {act_of_installing(file, None) for file in layout.files} == {Act.WRITE}
    assert {act_of_undoing(file, None) for file in layout.files} == {Act.NOTHING}


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("/home/ada/venv/bin/neuron", "ProtectHome=yes"),
        ("/root/.local/bin/neuron", "ProtectHome=yes"),
        ("/var/tmp/venv/bin/neuron", "PrivateTmp=yes"),  # noqa: S108 - a path that the unit hides
    ],
)
def test_a_program_that_the_unit_hides_from_its_service_is_found_with_the_line_that_does(path: str, line: str) -> None:
    assert f"\n{line}\n" in content(SYSTEM, "neuron.service")
    assert hidden_by_the_unit([PROGRAM, Path(path)]) == (Path(path), line)
    assert hidden_by_the_unit([PROGRAM]) is None

"""Options that stand before a command."""

import pytest

from neuron_service.cli.command_group import split_at_command


@pytest.mark.parametrize(
    ("text", "before", "command", "after"),
    [
        ("", "", None, ""),
        ("ls", "", "ls", ""),
        ("--json ls -c x", "--json", "ls", "-c x"),
        ("-c ls ls", "-c ls", "ls", ""),
        ("-c=x ls", "-c=x", "ls", ""),
        ("-c", "-c", None, ""),
        ("--json", "--json", None, ""),
        ("- x", "", "-", "x"),
    ],
)
def test_the_command_is_the_first_word_that_is_neither_an_option_nor_its_value(
    text: str, before: str, command: str | None, after: str
) -> None:
    assert split_at_command(text.split(), {"-c"}.__contains__) == (before.split(), command, after.split())

"""`neuron completion`."""

import click

from neuron_service.cli.options import COMPLETION_VARIABLE

__all__ = ("completion",)

_WHERE = """\b
Where the script belongs:
  bash  ~/.local/share/bash-completion/completions/neuron
  zsh   a file _neuron in a directory of $fpath, before compinit
  fish  ~/.config/fish/completions/neuron.fish
"""


@click.command(epilog=_WHERE)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script for a shell."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    script = found(context.find_root().command, {}, "neuron", COMPLETION_VARIABLE)
    click.echo(script.source_template % script.source_vars())

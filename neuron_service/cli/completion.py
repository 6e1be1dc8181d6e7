"""Words that a shell offers for an argument: the ids of models, asked from the daemon.

A daemon that does not answer at once, or refuses, offers nothing. Completion must never print or wait.
"""

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from neuron_service.cli.daemon import find_client

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

    from neuron_service.client.client import Client

__all__ = ("complete_known_models", "complete_models_and_files", "complete_resident_models")

_LIMIT_S: Final = 1.0
_MOST: Final = 200


def complete_resident_models(
    context: "click.Context", _parameter: "click.Parameter", incomplete: str
) -> list["CompletionItem"]:
    """The models that the daemon has in memory."""
    return _offer(
        context, incomplete, lambda client: [each["id"] for each in client.get("/models", timeout_s=_LIMIT_S)]
    )


def complete_known_models(
    context: "click.Context", _parameter: "click.Parameter", incomplete: str
) -> list["CompletionItem"]:
    """The models that the daemon has in memory or would load on demand."""
    return _offer(
        context,
        incomplete,
        lambda client: [each["id"] for each in client.get("/v1/models", timeout_s=_LIMIT_S)["data"]],
    )


def complete_models_and_files(
    context: "click.Context", parameter: "click.Parameter", incomplete: str
) -> list["CompletionItem"]:
    """The models of `complete_known_models`, and the files of this machine."""
    from click.shell_completion import CompletionItem

    files = [CompletionItem(incomplete, type="file")]
    if incomplete.startswith((".", "/")):
        return files
    return files + complete_known_models(context, parameter, incomplete)


def _offer(
    context: "click.Context", incomplete: str, ask: Callable[["Client"], Iterable[Any]]
) -> list["CompletionItem"]:
    from click.shell_completion import CompletionItem

    host, config = context.params.get("host"), context.params.get("config")
    try:
        ids = list(ask(find_client(host, Path(config) if config else None, os.environ)))
    except Exception:  # noqa: BLE001 - a shell in the middle of a line shows no error
        return []
    texts = [each for each in ids if isinstance(each, str) and each.isprintable() and each.startswith(incomplete)]
    return [CompletionItem(each) for each in sorted(texts)[:_MOST]]

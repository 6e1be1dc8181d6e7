"""HTML of the page. The only module of the service that imports Jinja. Everything that it is given is escaped."""

from functools import cache
from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined

from neuron_service.page.view import View

__all__ = ("render_locked", "render_page", "render_state")


def render_page(view: View) -> bytes:
    """The whole page."""
    return _environment().get_template("page.html").render(view=view).encode()


def render_state(view: View) -> bytes:
    """The parts of the page that change, each with the id that it has in the page."""
    return _environment().get_template("state.html").render(view=view).encode()


def render_locked() -> bytes:
    """The page for a caller who may not see the state: a field for a key. Says nothing about the host."""
    return _environment().get_template("page.html").render(view=None).encode()


@cache
def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(lambda name: files(__package__).joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )

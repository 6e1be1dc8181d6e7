"""How a text is to be written, and who asks: the parts of a `Task`, free of any wire format."""

from typing import Literal

from msgspec import Struct

__all__ = ("Grammar", "Principal", "ToolChoice")


class Grammar(Struct, frozen=True):
    """What the text of a reply must look like: a JSON schema, a regular expression, or a grammar.

    A grammar (`lark`) is in llguidance's variant of Lark, or in llama.cpp's GBNF, which is known by its rules.
    `param` is what the client calls it, for errors; None stands for the usual name of its kind.
    """

    kind: Literal["json_schema", "regex", "lark"]
    source: str
    param: str | None = None


class Principal(Struct, frozen=True):
    """Who asks, as stamped by the gateway; None in a request means anonymous."""

    account_id: str
    key_id: str


class ToolChoice(Struct, frozen=True):
    """Whether a reply calls the tools of its request.

    `auto` leaves it to the model. `none` does not show the tools to the model. `required` binds the reply to at least
    one call. `name` is the only tool that may be called, and is given only with `required`. A reply that is not
    `parallel` has one call at most.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    parallel: bool = True

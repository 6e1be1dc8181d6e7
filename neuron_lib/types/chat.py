"""How a text is to be written, and who asks: the parts of a `Task`, free of any wire format."""

from hashlib import sha256
from typing import Final, Literal

from msgspec import Struct

__all__ = ("Grammar", "Principal", "ToolChoice")

_PSEUDONYM_DIGITS: Final = 12


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

    @property
    def pseudonym(self) -> str:
        """What a log shows instead of the two ids: the first 12 hexadecimal digits of the SHA-256 of
        `account_id/key_id`. The same on every host, so that an operator who knows the ids finds their lines.
        """
        return sha256(f"{self.account_id}/{self.key_id}".encode(errors="replace")).hexdigest()[:_PSEUDONYM_DIGITS]


class ToolChoice(Struct, frozen=True):
    """Whether a reply calls the tools of its request.

    `auto` leaves it to the model. `none` does not show the tools to the model. `required` binds the reply to at least
    one call. `name` is the only tool that may be called, and is given only with `required`. A reply that is not
    `parallel` has one call at most.
    """

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    parallel: bool = True

"""The types of an ASGI application, for modules that must not load a web framework."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

__all__ = ("ASGIApp", "Receive", "Scope", "Send")

Scope: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

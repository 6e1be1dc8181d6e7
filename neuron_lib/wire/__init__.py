"""Converts between the shapes of the wire and the library's own types: bytes in, bytes out. Pure."""

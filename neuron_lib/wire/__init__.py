"""Wire shapes ↔ the library's own types: bytes in, bytes out. Pure; owns no connection and no status but its tables."""

"""How many examples a property gets that wants more or fewer of them than the others."""

from hypothesis import settings

__all__ = ("examples",)


def examples(count: int) -> int:
    """`count` in the full profile, in another profile its share of that: a tenth with `--fast`. At least 1."""
    return max(1, count * settings().max_examples // 100)

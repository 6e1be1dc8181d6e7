import pytest

from neuron_lib.sizes import format_size


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0.0 MB"),
        (4_000_000, "4.0 MB"),
        (98_363_392, "98 MB"),
        (999_000_000, "999 MB"),
        (1_000_000_000, "1.0 GB"),
        (1 << 30, "1.1 GB"),
        (42_500_000_000, "42 GB"),
    ],
)
def test_megabytes_and_gigabytes_are_decimal(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text

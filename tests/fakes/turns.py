"""Steps through concurrent code without a clock."""

from anyio.lowlevel import checkpoint


async def let_others_run(turns: int = 20) -> None:
    """Give every other task that many turns: enough for all of them to get to something that they wait for."""
    for _ in range(turns):
        await checkpoint()

"""Something that many may wait for, and that may never come."""

from __future__ import annotations

import asyncio

from dure.errors import DureError

__all__ = ["Awaited"]


class Awaited:
    """Waits are ended by `keep` or `fail`, whichever comes first; nobody needs to wait."""

    def __init__(self) -> None:
        self._done = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        """Wait for it. Raises the error that it failed with."""
        await asyncio.shield(self._done)

    def keep(self) -> None:
        """Let those who wait go on."""
        if not self._done.done():
            self._done.set_result(None)

    def fail(self, error: DureError) -> None:
        """Raise an error in those who wait."""
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # mark it as retrieved: nobody may wait

"""Waiting for an event, but not forever."""

import asyncio


async def is_set_within(event: asyncio.Event, limit_s: float) -> bool:
    """Returns once the event is set: True; or False after `limit_s` seconds."""
    try:
        async with asyncio.timeout(limit_s):
            await event.wait()
    except TimeoutError:
        return False
    return True

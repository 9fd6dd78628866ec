"""What a provider's API answers, as far as it may be trusted."""

from aiohttp import ClientResponse


class NoAnswer(Exception):
    """No answer, or none that can be used: nobody knows what was done."""


async def read(response: ClientResponse, most_bytes: int) -> bytes:
    """The body. Raises: NoAnswer if it is longer than `most_bytes`."""
    text = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        text += chunk
        if len(text) > most_bytes:
            raise NoAnswer(f"the answer of {response.url.path} is longer than {most_bytes} bytes")
    return bytes(text)

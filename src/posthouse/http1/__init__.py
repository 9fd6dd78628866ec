"""HTTP/1.1 on asyncio's protocols and httptools: what the server and the gateway listen with, and ask others with."""

"""The gateway: OpenAI's API in front of the endpoints of a server. It finds workers as every client does."""

from posthouse.gateway.settings import GatewaySettings

__all__ = ["GatewaySettings"]

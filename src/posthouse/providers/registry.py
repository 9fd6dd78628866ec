"""Opens the providers that the settings name, each behind its wrappers."""

from typing import cast

from posthouse.config import ProviderSettings
from posthouse.errors import Refused
from posthouse.plugins import PROVIDERS, installed
from posthouse.ports import Provider
from posthouse.providers.plugin import Context, Plugin
from posthouse.providers.wrappers import Breaker, Metered, Throttled


def plugin(type_name: str) -> Plugin:
    """The class of an installed provider. Raises: Refused if there is none of that name."""
    found = installed(PROVIDERS)
    if type_name not in found:
        raise Refused(f"providers: no provider of type {type_name!r} is installed; there are: {', '.join(found)}")
    return cast(Plugin, found[type_name].load())


async def opened(settings: ProviderSettings, context: Context) -> tuple[Provider, Metered]:
    """The provider behind its wrappers, and the one of them that counts. Raises: Refused."""
    metered = Metered(await plugin(settings.type).open(settings, context))
    return Breaker(Throttled(metered, settings.calls_per_s, context.servers)), metered

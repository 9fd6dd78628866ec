"""The providers that the settings name, and how each is looked at."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from posthouse.config import ProviderSettings, Settings
from posthouse.engine.choice import chosen, words_of
from posthouse.engine.observer import Observer
from posthouse.engine.offers import Offers
from posthouse.engine.orphans import Orphans
from posthouse.errors import BadRequest, Refused
from posthouse.ports import Provider
from posthouse.providers.plugin import Context
from posthouse.providers.registry import opened
from posthouse.providers.wrappers import Metered


async def open_providers(
    settings: Settings,
    data_dir: Path,
    installation: str,
    url: str,
    stack: AsyncExitStack,
    bells: Mapping[str, asyncio.Event],
    servers: Callable[[], int],
) -> tuple[dict[str, Provider], dict[str, Metered]]:
    """Every provider that the settings name, open as long as the stack is, and what counts its calls.

    `url`: where workers report, unless the settings of their provider name another. `bells`: by name, set when a
    provider has something to show. `servers`: how many share the installation now.
    """
    found: dict[str, Provider] = {}
    meters: dict[str, Metered] = {}
    for name, table in settings.providers.items():
        if table.enabled:
            context = Context(name, installation, data_dir, bells[name].set, table.public_url or url, servers)
            found[name], meters[name] = await opened(table, context)
            stack.push_async_callback(found[name].close)
    types = {name: settings.providers[name].type for name in found}
    try:
        chosen(settings.default_provider, types, {name: words_of(settings.providers[name].classes) for name in found})
    except BadRequest as error:
        raise Refused(f"default_provider: {str(error).partition(': ')[2]}") from None
    return found, meters


def looks(
    name: str, provider: Provider, settings: ProviderSettings, observer: Observer, orphans: Orphans, offers: Offers
) -> dict[str, Callable[[], Awaitable[None]]]:
    """What is looked at with a provider, each in a task of its own: a slow catalogue delays no list."""
    return {
        f"instances of {name}": partial(observer.run, provider, settings.poll_s, orphans.sweep),
        f"catalogue of {name}": partial(offers.run, provider, settings.catalog_s),
    }

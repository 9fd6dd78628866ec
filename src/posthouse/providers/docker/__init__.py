"""Workers as containers of an engine that speaks Docker's API: Docker or podman, here or on another machine.

A worker is a volume and a container, both named and labelled as the worker is. The volume, `/workspace` inside, is made
first and goes last: it is what holds the worker's place, its ports and its GPUs. An update makes another container on
the same volumes. The name of a container that is meant to be stopped ends in `.halted`, so that the list alone tells a
worker that was stopped from one that has ended.
"""

from typing import ClassVar
from urllib.parse import urlsplit

from posthouse.errors import Refused
from posthouse.hosts import is_loopback
from posthouse.ports import Provider
from posthouse.providers.docker.settings import DockerSettings
from posthouse.providers.plugin import Context


class DockerPlugin:
    """What the entry point names. The engine's client is loaded only by who uses it: it is an extra."""

    Settings: ClassVar[type[DockerSettings]] = DockerSettings

    @classmethod
    async def open(cls, settings: DockerSettings, context: Context) -> Provider:
        """The provider with these settings.

        Raises: Refused without the extra, for certificates of no use, and where workers could not report.
        """
        url = urlsplit(context.report_url)
        local = settings.network == "host" and is_loopback(urlsplit(settings.url).hostname or "localhost")
        if is_loopback(url.hostname or "") and not local:
            raise Refused(
                f"provider {context.name}: its workers cannot reach the server at {url.netloc}, which in a container "
                f"is the container; let server.host listen where they reach it, and name that address in "
                f"providers.{context.name}.public_url; or, for an engine of this machine, set its network to host"
            )
        try:
            from posthouse.providers.docker.provider import DockerProvider
        except ModuleNotFoundError as error:
            raise Refused(
                f"provider {context.name}: {error.name} is not installed; run: pip install 'posthouse[docker]'"
            ) from error
        return DockerProvider(settings, context)

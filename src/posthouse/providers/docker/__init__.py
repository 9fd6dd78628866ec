"""Workers as containers of an engine that speaks Docker's API: Docker or podman, here or on another machine.

A worker is a volume and a container, both named and labelled as the worker is. The volume, `/workspace` inside, is made
first and goes last: it is what holds the worker's place, its ports and its GPUs. An update makes another container on
the same volumes. The name of a container that is meant to be stopped ends in `.halted`, so that the list alone tells a
worker that was stopped from one that has ended.
"""

from typing import ClassVar

from posthouse.domain.errors import Refused
from posthouse.ports import Provider
from posthouse.providers.docker.settings import DockerSettings
from posthouse.providers.plugin import Context


class DockerPlugin:
    """What the entry point names. The engine's client is loaded only by who uses it: it is an extra."""

    Settings: ClassVar[type[DockerSettings]] = DockerSettings

    @classmethod
    async def open(cls, settings: DockerSettings, context: Context) -> Provider:
        """The provider with these settings. Raises: Refused without the extra, and for certificates of no use."""
        try:
            from posthouse.providers.docker.provider import DockerProvider
        except ModuleNotFoundError as error:
            raise Refused(
                f"provider {context.name}: {error.name} is not installed; run: pip install 'posthouse[docker]'"
            ) from error
        return DockerProvider(settings, context)

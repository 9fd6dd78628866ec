"""Workers on machines of one's own that are reached by ssh.

On each box a program of ours, `remote`, is the process provider: it does there what the provider `process` does on the
server's own machine, with all that this promises. Here is what lies between: one connection per box (`link`), what a
box must have first (`stock`), the box itself (`box`), and what is known of boxes that cannot be reached (`known`).

    <dir>/agents/<version>/     this Python, this Posthouse and what they need, put there once
    <dir>/workers/              as `providers/process` describes
"""

from typing import ClassVar
from urllib.parse import urlsplit

from posthouse.errors import Refused
from posthouse.hosts import is_loopback
from posthouse.ports import Provider
from posthouse.providers.plugin import Context
from posthouse.providers.ssh.settings import SshSettings


class SshPlugin:
    """What the entry point names. The client is loaded only by who uses it: it is an extra."""

    Settings: ClassVar[type[SshSettings]] = SshSettings

    @classmethod
    async def open(cls, settings: SshSettings, context: Context) -> Provider:
        """The provider with these settings.

        Raises: Refused without the extra, for keys that cannot be used, and where workers could not report.
        """
        url = urlsplit(context.report_url)
        for host in settings.hosts if is_loopback(url.hostname or "") else ():
            if host.engine or not is_loopback(host.address):
                raise Refused(
                    f"provider {context.name}: workers on box {host.name} cannot reach the server at {url.netloc}; let "
                    f"server.host listen where they reach it, and name that address in "
                    f"providers.{context.name}.public_url"
                )
        try:
            from posthouse.providers.ssh.provider import SshProvider
        except ModuleNotFoundError as error:
            raise Refused(
                f"provider {context.name}: {error.name} is not installed; run: pip install 'posthouse[ssh]'"
            ) from error
        return SshProvider(settings, context)

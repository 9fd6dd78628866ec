"""Workers as Pods of a Kubernetes cluster.

A worker is a few objects, all named as the worker is. The first to be made and the last to go is a ConfigMap, its
record: it says which offer the worker has, whether it is meant to be stopped, and what its Pod is. Beside it there are
the Pod itself, a claim on a volume that is `/workspace` inside, a Service and a route of a Gateway where its address
needs them, and Secrets with its environment. A stopped worker has no Pod, and keeps all else. A record without a Pod
whose worker should run tells of an eviction, a lost node, or a server that died in between.

All of them are labelled with the installation, and owned by the record: should somebody delete that, the cluster
removes the rest. There are no finalizers: no Pod has to wait for this server to be gone, and what is lost with a Pod
is told by its record.
"""

from typing import ClassVar
from urllib.parse import urlsplit

from posthouse.errors import Refused
from posthouse.hosts import is_loopback
from posthouse.ports import Provider
from posthouse.providers.kubernetes.settings import KubernetesSettings
from posthouse.providers.plugin import Context


class KubernetesPlugin:
    """What the entry point names. The cluster's client is loaded only by who uses it: it is an extra."""

    Settings: ClassVar[type[KubernetesSettings]] = KubernetesSettings

    @classmethod
    async def open(cls, settings: KubernetesSettings, context: Context) -> Provider:
        """The provider with these settings.

        Raises: Refused without the extra, for a kubeconfig of no use, and where workers could not report.
        """
        url = urlsplit(context.report_url)
        if is_loopback(url.hostname or ""):
            raise Refused(
                f"provider {context.name}: its workers cannot reach the server at {url.netloc}, which in a Pod is the "
                f"Pod; let server.host listen where they reach it, and name that address in "
                f"providers.{context.name}.public_url"
            )
        if settings.address == "gateway" and not (settings.gateway and settings.gateway_url):
            raise Refused(
                f"providers.{context.name}: address gateway needs gateway, the Gateway's name, and gateway_url, where "
                f"clients reach a worker through it"
            )
        if settings.agent == "init" and not settings.agent_image:
            raise Refused(
                f"providers.{context.name}.agent_image: name an image with Posthouse, of which the agent is copied; or "
                f"set agent to image, if images bring their own"
            )
        try:
            from posthouse.providers.kubernetes.provider import KubernetesProvider
        except ModuleNotFoundError as error:
            raise Refused(
                f"provider {context.name}: {error.name} is not installed; run: pip install 'posthouse[kubernetes]'"
            ) from error
        return await KubernetesProvider.open(settings, context)

"""Addresses of workers: where a provider placed one, and where a worker says that it is.

A provider states an address as `host:port`, or as a whole URL where there is a path prefix, a tunnel or an ingress.
"""

_PORTS = {"http": 80, "https": 443}
_NEVER_THERE = frozenset("/?#@\\ ")


def believed(reported: str, known: str, addresses: frozenset[str]) -> str:
    """The URL at which clients reach a worker that its provider placed at `addresses`; empty if it is at none of them.

    `reported`: where it says that it is, empty if it does not say; then `known` counts, from an earlier report. The
    oldest generations never say, and behind a tunnel or an ingress none knows: there the only address is taken.
    """
    url = reported or known
    if _host_port(url) in addresses:
        return url
    whole = {address.rstrip("/") for address in addresses if "://" in address}
    if url.rstrip("/") in whole:
        return url
    if len(addresses) == 1:
        if whole:
            return whole.pop()
        if not reported:
            return f"http://{next(iter(addresses))}"
    return ""


def _host_port(url: str) -> str:
    """`host:port` of a URL without a path; empty if it is not one."""
    scheme, _, rest = url.partition("://")
    if scheme not in _PORTS or not rest or not _NEVER_THERE.isdisjoint(rest):
        return ""
    return rest if ":" in rest else f"{rest}:{_PORTS[scheme]}"

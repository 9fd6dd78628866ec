"""The certificate that the server shows, reloaded when its files change."""

import ssl
from pathlib import Path
from typing import Final

from posthouse.errors import Refused


class ServerCertificate:
    """A certificate chain and its key, in files that somebody renews; both may be in one."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Raises: Refused when the files cannot be used."""
        self._files = chain, key
        self.context: Final = _loaded(chain, key)
        """Of the listening socket; every connection that begins shows what was loaded last."""
        self._seen = self._state()

    def reload_if_changed(self) -> None:
        """Raises: Refused, once for each change, when the files cannot be used; what was loaded before stays."""
        if (state := self._state()) != self._seen:
            self._seen = state
            _loaded(*self._files)  # first into a context of its own: half a success would leave nothing that works
            self.context.load_cert_chain(*self._files)

    def _state(self) -> tuple[object, ...]:
        try:
            return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in (f.stat() for f in self._files))
        except OSError:
            return ()


def _loaded(chain: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(chain, key, password=lambda: "")  # without this it would ask on the terminal
    except ssl.SSLError as error:
        raise Refused(f"server.tls: {chain} and {key} are not a certificate and its open key: {error.reason}") from None
    except OSError as error:
        raise Refused(f"server.tls: {chain} or {key} cannot be read: {error.strerror}") from None
    return context

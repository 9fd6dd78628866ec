"""The installation's certificate authority: its root, and the certificates of workers and of the server itself."""

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from posthouse.files import write_over

ROOT_LIFETIME: Final = timedelta(days=3650)
LIFETIME: Final = timedelta(days=90)
"""Lifetime of every certificate but the root. The protocol's own worker asks once, when it starts."""
RENEWED_AFTER: Final = LIFETIME * 2 / 3
"""Age at which the server and our agents renew; that leaves a month of attempts."""

_EVERY_ADDRESS: Final = [x509.IPAddress(ipaddress.ip_network(net)) for net in ("0.0.0.0/0", "::/0")]
_CLOCKS_DIFFER: Final = timedelta(hours=1)
_RSA_BITS: Final = range(2048, 4097)  # less is weak; the check of a longer one takes the server too long
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)  # that every client of TLS knows

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class Authority:
    """A root certificate and its key, kept beside each other; both are made where they are not there.

    The key is written first, so that a crash in between leaves a key for which a certificate is made next time.
    """

    def __init__(self, key_path: Path, now: float, names: Iterable[str] = ()) -> None:
        """`names`: a root that is made is good for these, what is below them and every IP address; if none, for all.

        Raises: ValueError when the files hold no such key and certificate; OSError.
        """
        if not key_path.exists():
            write_over(key_path, _pem(ec.generate_private_key(ec.SECP256R1())))
        try:
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{key_path}: holds no unencrypted PEM private key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError(f"{key_path}: must hold a key on an elliptic curve")
        self._key = key
        path = key_path.with_suffix(".cer")
        wanted = frozenset(name for name in map(_host, names) if isinstance(name, x509.DNSName))
        if not path.exists():
            write_over(path, self._new_root(now, wanted))
        self.root_pem = path.read_bytes()
        """The root certificate, PEM."""
        try:
            self._root = x509.load_pem_x509_certificate(self.root_pem)
            public_key = self._root.public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ValueError(f"{path}: holds no certificate in PEM") from error
        if public_key != key.public_key():
            raise ValueError(f"{path}: is not the certificate of the key in {key_path.name}")
        self._permitted = _permitted(self._root)
        if self._permitted is not None and any(not self._permits(name) for name in wanted):
            write_over(path, self._new_root(now, wanted | self._permitted))
            self.root_pem = path.read_bytes()
            self._root = x509.load_pem_x509_certificate(self.root_pem)
            self._permitted = _permitted(self._root)

    def sign_request(self, request_pem: bytes, name: str, hosts: Iterable[str], now: float) -> bytes:
        """Return a certificate, PEM, for the key in a request, and for these hosts whatever the request says.

        Raises: ValueError when it is no PKCS#10 request in PEM, signed with its own key, or the key is weak or unusual.
        """
        try:
            request = x509.load_pem_x509_csr(request_pem)
            genuine = request.is_signature_valid
            key = request.public_key()
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise ValueError("must be a certificate signing request in PEM") from error
        if not genuine:
            raise ValueError("is not signed with the key that is in it")
        if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
            return self._certificate(key, name, hosts, now)
        if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES):
            return self._certificate(key, name, hosts, now)
        raise ValueError("must be for a key of RSA with 2048 to 4096 bits, or on the curve P-256 or P-384")

    def renew(self, path: Path, hosts: Iterable[str], now: float, *, begin: bool = False) -> None:
        """Write a new key and a certificate for these hosts to `path`: to `begin` with, and once it is old."""
        if begin or now - path.stat().st_mtime >= RENEWED_AFTER.total_seconds():
            key = ec.generate_private_key(ec.SECP256R1())
            write_over(path, _pem(key) + self._certificate(key.public_key(), "Posthouse server", hosts, now), now)

    def _certificate(self, key: PublicKey, name: str, hosts: Iterable[str], now: float) -> bytes:
        at, names = datetime.fromtimestamp(now, UTC), [_host(host) for host in sorted(hosts)]
        for refused in (host for host in names if not self._permits(host)):
            raise ValueError(
                f"may not be for {refused.value}: the authority is for its own names; see server.tls_names"
            )
        usage = _usage(digital_signature=True, key_encipherment=isinstance(key, rsa.RSAPublicKey))
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._root.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - _CLOCKS_DIFFER)
            .not_valid_after(min(at + LIFETIME, self._root.not_valid_after_utc))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(authority, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM)

    def _permits(self, host: x509.GeneralName) -> bool:
        """Whether the root lets this authority certify a host."""
        if self._permitted is None or not isinstance(host, x509.DNSName):
            return True
        name = host.value.lower()
        return any(name == base.value or name.endswith(f".{base.value}") for base in self._permitted)

    def _new_root(self, now: float, names: frozenset[x509.DNSName]) -> bytes:
        at = datetime.fromtimestamp(now, UTC)
        name = _name("Posthouse authority")
        key = self._key.public_key()
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(at - _CLOCKS_DIFFER)
            .not_valid_after(at + ROOT_LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )
        if names:
            subtrees = [*_EVERY_ADDRESS, *sorted(names, key=lambda name: name.value)]
            builder = builder.add_extension(x509.NameConstraints(subtrees, None), critical=True)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _permitted(root: x509.Certificate) -> frozenset[x509.DNSName] | None:
    """The names that a root is good for, with those below them; None if it is good for all."""
    try:
        subtrees = root.extensions.get_extension_for_class(x509.NameConstraints).value.permitted_subtrees
    except x509.ExtensionNotFound:
        return None
    return frozenset(name for name in subtrees or () if isinstance(name, x509.DNSName))


def new_request() -> tuple[bytes, bytes]:
    """Return a new private key and a request to certify it, both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(_name("Posthouse agent")).sign(key, hashes.SHA256())
    return _pem(key), request.public_bytes(serialization.Encoding.PEM)


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.lower())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _usage(
    *,
    digital_signature: bool = False,
    key_encipherment: bool = False,
    key_cert_sign: bool = False,
    crl_sign: bool = False,
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

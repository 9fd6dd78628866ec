"""The RSA key whose signatures workers verify: RSA-2048, PKCS#1 v1.5, SHA-256, base64."""

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from posthouse.files import write_new

Verify = Callable[[bytes, str], bool]
"""Whether a signature, in base64, of some data was made by the key's owner."""

_KEY_BITS: Final = 2048  # the smallest that workers of all generations take; larger ones sign more slowly


class RsaKey:
    """A private key in memory."""

    def __init__(self, key: rsa.RSAPrivateKey) -> None:
        self._key = key
        self.public_pem: Final = (
            key.public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
            .decode()
        )

    @classmethod
    def generate(cls) -> Self:
        """Return a new key."""
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS))

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """Return the key in `path`, after writing a new one there if there is none.

        Processes that start at the same moment all get the same key.

        Raises: ValueError when the file holds no unencrypted RSA key of at least 2048 bits; OSError.
        """
        try:
            return cls._load(path)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_new(path, cls.generate().private_pem())
            return cls._load(path)

    @classmethod
    def _load(cls, path: Path) -> Self:
        try:
            return cls.from_pem(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_pem(cls, pem: bytes) -> Self:
        """Return a key in PEM. Raises: ValueError when it is no unencrypted RSA key of at least 2048 bits."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise ValueError("holds no unencrypted PEM private key") from error
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < _KEY_BITS:
            raise ValueError(f"must hold an RSA key of at least {_KEY_BITS} bits")
        return cls(key)

    def private_pem(self) -> bytes:
        """Return the key as `from_pem` takes it."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, data: bytes) -> str:
        """Return the signature of `data`; the same data always gives the same signature."""
        return base64.b64encode(self._key.sign(data, padding.PKCS1v15(), hashes.SHA256())).decode()


def verifier(public_pem: str) -> Verify:
    """Return the check of signatures by the owner of this key.

    Raises: ValueError when `public_pem` is no RSA public key in PEM.
    """
    try:
        key = serialization.load_pem_public_key(public_pem.encode())
    except ValueError as error:
        raise ValueError("the public key is not in PEM") from error
    if not isinstance(key, rsa.RSAPublicKey):
        raise ValueError("the public key is not an RSA key")

    def verify(data: bytes, signature: str) -> bool:
        try:
            key.verify(base64.b64decode(signature, validate=True), data, padding.PKCS1v15(), hashes.SHA256())
        except (InvalidSignature, binascii.Error, ValueError):  # ValueError: text that is not ASCII
            return False
        return True

    return verify

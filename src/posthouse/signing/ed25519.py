"""The Ed25519 keys whose signatures on grants our own agents verify; JWK after RFC 8037, key ids after RFC 7638."""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

LIFETIME_S: Final = 30 * 86_400.0
"""How long a key signs before a new one takes over; it is offered for as long again."""

Verify = Callable[[bytes, str], bool]


class Ed25519Keys:
    """The key that signs, and the one before it, whose signatures stay valid. Each is a file, named by its turn."""

    def __init__(self, path: Path, now: float) -> None:
        """Loads the keys at `path`, after making a new one there if there is none. The caller has the folder to itself.

        Raises: ValueError when a file holds no unencrypted Ed25519 key; OSError.
        """
        self._path = path
        self._previous_path = path.with_stem(f"{path.stem}-previous")
        if not path.exists():
            os.replace(_new_key(path, now), path)
        self._load()
        self.rotate_if_old(now)

    def rotate_if_old(self, now: float) -> None:
        """Lets a new key take over from one that has signed for `LIFETIME_S`."""
        if now - self._path.stat().st_mtime >= LIFETIME_S:
            new = _new_key(self._path, now)
            os.replace(self._path, self._previous_path)
            os.replace(new, self._path)
            self._load()

    def sign(self, data: bytes) -> tuple[str, str]:
        """Return the id of the key that signs, and the signature of `data` in base64."""
        return self._kid, base64.b64encode(self._key.sign(data)).decode()

    def _load(self) -> None:
        self._key = _read(self._path)
        jwks = [_jwk(self._key.public_key())]
        self._kid: str = jwks[0]["kid"]
        if self._previous_path.exists():
            jwks.append(_jwk(_read(self._previous_path).public_key()))
        self.jwks = msgspec.json.encode({"keys": jwks})
        """The public halves, as a JSON Web Key Set."""


def verifiers(jwks: bytes) -> dict[str, Verify]:
    """Return, by key id, the checks of signatures by the Ed25519 keys in a JSON Web Key Set. Other keys are left out.

    Raises: ValueError when it is no such set, or an Ed25519 key in it is malformed.
    """
    try:
        keys = msgspec.json.decode(jwks, type=dict[str, Any])["keys"]
        return {
            key["kid"]: _verifier(Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key["x"] + "=")))
            for key in keys
            if (key["kty"], key.get("crv")) == ("OKP", "Ed25519")
        }
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError("not a JSON Web Key Set") from error


def _verifier(key: Ed25519PublicKey) -> Verify:
    def verify(data: bytes, signature: str) -> bool:
        try:
            key.verify(base64.b64decode(signature, validate=True), data)
        except (InvalidSignature, binascii.Error, ValueError):  # ValueError: text that is not ASCII
            return False
        return True

    return verify


def _jwk(key: Ed25519PublicKey) -> dict[str, str]:
    required = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(key.public_bytes_raw())}
    thumbprint = hashlib.sha256(msgspec.json.encode(required)).digest()  # of these members in this order: RFC 7638, 3
    return {**required, "kid": _base64url(thumbprint), "use": "sig", "alg": "EdDSA"}


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _read(path: Path) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: holds no unencrypted PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path}: must hold an Ed25519 key")
    return key


def _new_key(path: Path, now: float) -> Path:
    """The file of a new key, to be moved to `path`, so that a key is there whole or not at all."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)  # left by a crash
    new.touch(mode=0o600, exist_ok=False)
    new.write_bytes(pem)
    os.utime(new, (now, now))
    return new

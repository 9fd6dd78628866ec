"""The signed bytes: against literal texts, against the json module, and against the peer's own verification."""

import base64
import json
import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from posthouse.signing.rsa import RsaKey, verifier
from posthouse.wire.signed import Scheme, scheme_for, signed_text, wire_cost

URL = "http://1.2.3.4:40123"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> RsaKey:
    return RsaKey.load_or_create(tmp_path_factory.mktemp("key") / "rsa.pem")


COSTS = [
    (256, "256"),
    (256.0, "256.0"),
    (0.1, "0.1"),
    (1234.5678, "1234.5678"),
    (9007199254740993, "9007199254740993"),
    (1e15, "1000000000000000.0"),
    (1e16, "1e+16"),
    (1e22, "1e+22"),
    (0.0001, "0.0001"),
    (1e-5, "1e-05"),
    (5e-324, "5e-324"),
]
NAMES = [
    ("Llama-2-70b-chat", "Llama-2-70b-chat"),
    ("Größe", r"Gr\u00f6\u00dfe"),
    ("模型", r"\u6a21\u578b"),
    ("horse \U0001f434", r"horse \ud83d\udc34"),
    ('say "hi"\\ to/me\n', r"say \"hi\"\\ to/me\n"),
]


@pytest.mark.parametrize(("cost", "token"), COSTS)
@pytest.mark.parametrize(("name", "escaped"), NAMES)
def test_the_signed_bytes_are_these(key: RsaKey, cost: int | float, token: str, name: str, escaped: str) -> None:
    lines = {
        "cost": f'    "cost": {token}',
        "endpoint": f'    "endpoint": "{escaped}"',
        "reqnum": '    "reqnum": 14395',
        "request_idx": '    "request_idx": 77',
        "url": f'    "url": "{URL}"',
    }
    orders = {
        Scheme.A4: ["cost", "endpoint", "reqnum", "url"],
        Scheme.A5: ["cost", "endpoint", "reqnum", "url", "request_idx"],
        Scheme.A5S: ["cost", "endpoint", "reqnum", "request_idx", "url"],
        Scheme.U: ["url"],
    }
    verify = verifier(key.public_pem)
    assert set(orders) == set(Scheme)
    for scheme, order in orders.items():
        text = signed_text(scheme, cost=cost, endpoint=name, reqnum=14395, request_idx=77, url=URL)
        assert text == ("{\n" + ",\n".join(lines[field] for field in order) + "\n}").encode("ascii")
        signature = key.sign(text)
        assert verify(text, signature)
        assert not verify(text + b" ", signature)


@given(
    cost=st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    endpoint=st.text(),
    reqnum=st.integers(min_value=0),
    request_idx=st.integers(min_value=0),
    url=st.text(),
)
def test_the_signed_bytes_are_those_of_the_json_module(
    cost: int | float, endpoint: str, reqnum: int, request_idx: int, url: str
) -> None:
    def text(scheme: Scheme) -> bytes:
        return signed_text(scheme, cost=cost, endpoint=endpoint, reqnum=reqnum, request_idx=request_idx, url=url)

    four = {"cost": cost, "endpoint": endpoint, "reqnum": reqnum, "url": url}
    five = four | {"request_idx": request_idx}
    assert text(Scheme.A4) == json.dumps(four, indent=4, sort_keys=True).encode()
    assert text(Scheme.A5) == json.dumps(five, indent=4).encode()
    assert text(Scheme.A5S) == json.dumps(five, indent=4, sort_keys=True).encode()
    assert text(Scheme.U) == json.dumps({"url": url}, indent=4, sort_keys=True).encode()


@given(cost=st.floats(allow_nan=False, allow_infinity=False))
def test_a_cost_keeps_its_value_and_is_an_integer_where_that_is_exact(cost: float) -> None:
    token = wire_cost(cost)
    assert token == cost
    assert isinstance(token, int) == (cost.is_integer() and abs(cost) < 2**53)


@pytest.mark.parametrize("cost", [float("nan"), float("inf"), float("-inf")])
def test_a_cost_that_is_not_finite_is_refused(cost: float) -> None:
    with pytest.raises(ValueError, match="cost: must be a finite number"):
        wire_cost(cost)
    with pytest.raises(ValueError, match="cost: must be a finite number"):
        signed_text(Scheme.A4, cost=cost, endpoint="e", reqnum=1, request_idx=1, url=URL)


@pytest.mark.parametrize(
    ("version", "has_working_request_idxs", "scheme"),
    [
        (None, False, Scheme.A4),
        (None, True, Scheme.A5),
        ("0.1.0", True, Scheme.A5S),
        ("0.1.1", True, Scheme.A5S),
        ("0.2.0", True, Scheme.A5S),
        ("1.0.0", True, Scheme.A5S),
        ("1.0.12", True, Scheme.A5S),
        ("1", True, Scheme.A5S),
        ("1.1", True, Scheme.U),
        ("1.1.0", True, Scheme.U),
        ("1.10.0", True, Scheme.U),
        ("1.1.0rc1", True, Scheme.U),
        ("2", True, Scheme.U),
        ("17.3", False, Scheme.U),
        ("9" * 10_000, True, Scheme.U),
        ("", False, Scheme.A4),
        ("", True, Scheme.A5),
        ("latest", False, Scheme.A4),
        ("latest", True, Scheme.A5),
    ],
)
def test_the_scheme_follows_from_the_last_report(
    version: str | None, has_working_request_idxs: bool, scheme: Scheme
) -> None:
    assert scheme_for(version, has_working_request_idxs) is scheme


def test_the_unmodified_worker_accepts_our_signature_of_its_address(key: RsaKey) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer imports modules that Python has deprecated
        from Crypto.PublicKey import RSA
        from vastai.serverless.server.lib.backend import Backend
        from vastai.serverless.server.lib.data_types import AuthData
    check = Backend._Backend__check_signature
    worker = SimpleNamespace(unsecured=False, _pubkey=RSA.import_key(key.public_pem), reqnum=-1)
    text = signed_text(Scheme.U, cost=1, endpoint="e", reqnum=1, request_idx=1, url=URL)
    for cost, name in [(256, "e"), (5e-324, "horse \U0001f434")]:
        grant = AuthData(cost=cost, endpoint=name, reqnum=2, request_idx=3, signature=key.sign(text), url=URL)
        assert check(worker, grant) is True
        grant.url = "http://1.2.3.4:40124"
        assert check(worker, grant) is False


def test_a_key_is_written_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rsa.pem"
    with ThreadPoolExecutor(4) as threads:
        keys = list(threads.map(RsaKey.load_or_create, [path] * 4))
    assert len({key.public_pem for key in keys}) == 1
    assert keys[0].public_pem.startswith("-----BEGIN PUBLIC KEY-----\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["rsa.pem"]
    assert RsaKey.load_or_create(path).sign(b"x") == keys[0].sign(b"x")


@pytest.mark.parametrize("content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_file_without_a_key_is_refused_by_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rsa.pem"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"rsa\.pem: holds no unencrypted PEM private key"):
        RsaKey.load_or_create(path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "ec.pem"
    path.write_bytes(
        other.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    with pytest.raises(ValueError, match="at least 2048 bits"):
        RsaKey.load_or_create(path)
    public = other.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with pytest.raises(ValueError, match="not an RSA key"):
        verifier(public.decode())
    with pytest.raises(ValueError, match="not in PEM"):
        verifier("hello")


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64!", "ünïcode", "=" * 400])
def test_a_bad_signature_is_false_not_an_error(key: RsaKey, signature: str) -> None:
    assert verifier(key.public_pem)(b"x", signature) is False


def test_a_signature_in_other_base64_is_refused(key: RsaKey) -> None:
    signature = key.sign(b"x")
    verify = verifier(key.public_pem)
    assert len(base64.b64decode(signature)) == 256
    assert verify(b"x", signature)
    assert not verify(b"x", signature + "\n")

"""The authority's root is good for its own names and for addresses, whoever has its key."""

from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification

from posthouse.signing.authority import Authority, new_request

NOW = 1_790_000_000.0


def certified(authority: Authority, host: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(authority.sign_request(new_request()[1], "worker 1", {host}, NOW))


def verified(authority: Authority, certificate: x509.Certificate, host: str) -> bool:
    """Whether a client that trusts the root believes the certificate."""
    root = x509.load_pem_x509_certificate(authority.root_pem)
    policy = verification.PolicyBuilder().store(verification.Store([root])).time(datetime.fromtimestamp(NOW, UTC))
    try:
        subject: x509.DNSName | x509.IPAddress = x509.IPAddress(ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    try:
        policy.build_server_verifier(subject).verify(certificate, [])
    except verification.VerificationError:
        return False
    return True


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "gw.example", "eu.gw.example", "localhost"])
def test_its_own_names_and_every_address_are_believed(host: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority.pem", NOW, ["GW.example", "localhost", "127.0.0.1"])
    assert verified(authority, certified(authority, host), host)


def test_another_name_is_refused_and_not_believed_from_a_stolen_key(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority.pem", NOW, ["gw.example"])
    with pytest.raises(ValueError, match=r"may not be for bank.example.*server.tls_names"):
        certified(authority, "bank.example")
    with pytest.raises(ValueError, match="may not be for"):
        certified(authority, "notgw.example")
    authority._permitted = None  # as whoever has the key would do it
    assert not verified(authority, certified(authority, "bank.example"), "bank.example")


def test_a_name_that_comes_later_gets_a_root_of_the_same_key(tmp_path: Path) -> None:
    path = tmp_path / "authority.pem"
    before = Authority(path, NOW, ["gw.example"])
    old = certified(before, "gw.example")
    after = Authority(path, NOW, ["api.example"])
    for host in ("gw.example", "api.example"):
        assert verified(after, certified(after, host), host)
    assert verified(after, old, "gw.example")
    assert Authority(path, NOW, ["api.example"]).root_pem == after.root_pem


def test_a_root_without_constraints_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "authority.pem"
    root = Authority(path, NOW).root_pem
    authority = Authority(path, NOW, ["gw.example"])
    assert authority.root_pem == root
    assert verified(authority, certified(authority, "any.example"), "any.example")

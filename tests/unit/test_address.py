import pytest

from posthouse.domain.address import believed
from posthouse.engine.certificates import host_of

PAIR = frozenset({"10.0.0.1:3000"})
TWO = frozenset({"10.0.0.1:3000", "10.0.0.1:8000"})
TUNNEL = frozenset({"https://tunnel.example/w/7/"})


@pytest.mark.parametrize(
    ("reported", "known", "addresses", "url"),
    [
        ("http://10.0.0.1:3000", "", PAIR, "http://10.0.0.1:3000"),
        ("https://10.0.0.1:3000", "", PAIR, "https://10.0.0.1:3000"),
        ("http://10.0.0.2:3000", "", PAIR, ""),
        ("http://10.0.0.1:3000/x", "", PAIR, ""),
        ("http://10.0.0.1:3000@evil.example", "", PAIR, ""),
        ("ftp://10.0.0.1:3000", "", PAIR, ""),
        ("http://10.0.0.1", "", frozenset({"10.0.0.1:80"}), "http://10.0.0.1"),
        ("", "http://10.0.0.1:8000", TWO, "http://10.0.0.1:8000"),
        ("", "", PAIR, "http://10.0.0.1:3000"),
        ("", "", TWO, ""),
        ("", "http://10.0.0.9:1", TWO, ""),
        # Behind a tunnel no worker knows where it is reached, so the provider's word is taken.
        ("http://10.0.0.1:3000", "", TUNNEL, "https://tunnel.example/w/7"),
        ("", "", TUNNEL, "https://tunnel.example/w/7"),
        ("https://tunnel.example/w/7", "", TUNNEL | PAIR, "https://tunnel.example/w/7"),
        ("https://tunnel.example/w/8", "", TUNNEL | PAIR, ""),
        ("https://tunnel.example", "", TUNNEL | PAIR, ""),
        ("", "", frozenset(), ""),
    ],
)
def test_a_worker_is_believed_only_where_its_provider_placed_it(
    reported: str, known: str, addresses: frozenset[str], url: str
) -> None:
    assert believed(reported, known, addresses) == url


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("10.0.0.1:3000", "10.0.0.1"),
        ("[2001:db8::1]:3000", "2001:db8::1"),
        ("gpu.example:3000", "gpu.example"),
        ("https://tunnel.example/w/7", "tunnel.example"),
        ("https://[2001:db8::1]:8443/w", "2001:db8::1"),
    ],
)
def test_the_host_of_an_address(address: str, host: str) -> None:
    assert host_of(address) == host

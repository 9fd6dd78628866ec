"""Which providers and which regions the words of a workergroup mean."""

from dataclasses import replace

import pytest

from posthouse.domain.offer import Capabilities
from posthouse.engine.choice import check_regions, chosen
from posthouse.errors import BadRequest
from posthouse.wire.matching import matches, values_of
from posthouse.wire.search import parse_search
from tests.kit.shop import SMALL

TYPES = {"box1": "docker", "box2": "docker", "vast": "vast", "cheap": "vast"}
CLASSES = {"box1": ["own"], "cheap": ["own", "spot"]}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("box1", "box1"),
        ("docker", "box1 box2"),
        ("vast", "vast"),  # a name comes before a type
        ("own", "box1 cheap"),
        ("spot, box2", "box2 cheap"),
        ("any", "box1 box2 vast cheap"),
    ],
)
def test_words_name_providers_types_and_classes(words: str, meant: str) -> None:
    assert chosen(words, TYPES, CLASSES) == tuple(meant.split())


def test_a_word_that_means_nothing_is_refused_with_all_that_mean_something() -> None:
    allowed = "allowed: box1, box2, vast, cheap, docker, own, spot, any"
    with pytest.raises(BadRequest, match=f"no provider, type or class 'boxes'; {allowed}"):
        chosen("box1,boxes", TYPES, CLASSES)


@pytest.mark.parametrize(
    ("zone", "search", "found"),
    [
        ("eu-west-1", "region=eu", True),
        ("eu-west-1", "region=EU_west", False),
        ("eu-west-1", "region=eu-west", True),
        ("eu-west-1", "region=eu-west-1", True),
        ("eu-west-1", "region=eu-w", False),
        ("Berlin, DE", "region in [FR,DE]", True),
        ("Berlin, DE", "region!=DE", False),
        ("Paris, FR", "region!=DE", True),
        ("", "region=DE", False),  # who does not say where it is may be anywhere
        ("", "region!=DE", False),
        ("", "region notin [DE]", False),
        ("Paris, FR", "region>DE", False),
        ("Paris, FR", "provider=shop interruptible=false", True),
        ("Paris, FR", "provider=other", False),
        ("Paris, FR", "interruptible=true", False),
    ],
)
def test_a_region_is_a_hard_bound(zone: str, search: str, found: bool) -> None:
    offer = replace(SMALL, zone=zone, capabilities=Capabilities())
    assert matches(parse_search(search), values_of(offer, 1.0)) is found


def test_a_region_where_nobody_has_a_machine_is_refused_once_that_is_known() -> None:
    wanted = parse_search("region in [DE,Mars]")
    check_regions(wanted, None, "vast")
    with pytest.raises(BadRequest, match="region: 'Mars' is not among the regions of vast; there is: Berlin, DE"):
        check_regions(wanted, {"Berlin, DE"}, "vast")
    with pytest.raises(
        BadRequest, match="'DE' is not among the regions of box1; there is: nothing; a provider's setting `region`"
    ):
        check_regions(wanted, set(), "box1")
    check_regions(parse_search("region!=Mars gpu_ram>1"), set(), "box1")

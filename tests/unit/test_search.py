"""The offer query language, and what satisfies a filter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vastai.api.query import offers_alias, offers_fields, offers_mult, parse_query

from posthouse.errors import BadRequest
from posthouse.wire.matching import matches
from posthouse.wire.search import MAX_TEXT, OPS, parse_search

PUBLISHED = [
    "gpu_ram>=23 num_gpus=1 gpu_name=RTX_4090 inet_down>200 direct_port_count>3 disk_space>=64",
    "verified=true rentable=true rented=false",
    "gpu_name in [RTX_3090,RTX_4090] dph < 0.5",
    "gpu_name notin [A100_PCIE, A100_SXM4] cuda_vers >= 12.4",
    "compute_cap nin [750,800]",
    "reliability > 0.98 num_gpus eq 4 dlperf_usd gt 10",
    'gpu_name="RTX 4090" geolocation not in [CN,VN]',
    "geolocation not eq SE num_gpus noteq 2 num_gpus lte 8 num_gpus gte 1 cpu_cores lt 64",
    "driver_version >= 535.86.05 duration > 7.5 cpu_ram>64 gpu_total_ram<=96",
    "num_gpus>=1 num_gpus<=4 num_gpus!=3 num_gpus==2",
    "static_ip=None external=False",
    "num_gpus=1 num_gpus=any gpu_ram>=24 gpu_name=*",
    "num_gpus=1, gpu_ram>=24",
    "",
]


@pytest.mark.parametrize("text", PUBLISHED)
def test_published_queries_mean_what_the_unmodified_client_makes_of_them(text: str) -> None:
    assert parse_search(text) == parse_query(text, {}, offers_fields, offers_alias, offers_mult)


SYMBOLS = ["=", "==", "!=", ">", ">=", "<", "<="]
WORDS = ["eq", "neq", "noteq", "not eq", "gt", "gte", "lt", "lte", "in", "notin", "nin", "not in"]


@pytest.mark.parametrize("op", [*SYMBOLS, *WORDS])
def test_every_operator_means_what_the_unmodified_client_makes_of_it(op: str) -> None:
    value = "[2,4]" if op.endswith("in") else "2"
    for text in (f"num_gpus {op} {value}", f"verified=true cuda_vers {op} {value} rented=false"):
        assert parse_search(text) == parse_query(text, {}, offers_fields, offers_alias, offers_mult)


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("gpu_ram >= 23.5", {"gpu_ram": {"gte": 23_500.0}}),
        ("duration>1", {"duration": {"gt": 86_400.0}}),
        ("driver_version<535.86.5", {"driver_version": {"lt": 535_086_005}}),
        ("dph<0.5", {"dph_total": {"lt": "0.5"}}),
        ("""gpu_name in ['RTX 4090', "A100_SXM"]""", {"gpu_name": {"in": ["RTX 4090", "A100 SXM"]}}),
        ("gpu_name in RTX_4090,L40S", {"gpu_name": {"in": ["RTX 4090", "L40S"]}}),
        ("  num_gpus\t=\n1  ", {"num_gpus": {"eq": "1"}}),
        ('geolocation="Sweden, SE"', {"geolocation": {"eq": "Sweden, SE"}}),
        (
            '{"gpu_ram": {"gte": 24000}, "verified": {"eq": true}}',
            {"gpu_ram": {"gte": 24000}, "verified": {"eq": True}},
        ),
        ("{}", {}),
    ],
)
def test_a_search_is_parsed(text: str, filters: dict[str, dict[str, object]]) -> None:
    assert parse_search(text) == filters


def test_an_object_is_taken_as_it_is() -> None:
    filters: dict[str, object] = {"gpu_ram": {"gte": 24.0}, "gpu_name": {"in": ["L4", "L40S"]}, "rented": {"eq": None}}
    assert parse_search(filters) == filters


@pytest.mark.parametrize(
    ("search", "problem"),
    [
        ("num_gpus", "operator after num_gpus.* at the end"),
        ("num_gpus 4", "operator after num_gpus.* position 8"),
        ("num_gpus=>4", "unknown operator '=>'.* position 8"),
        ("num_gpus like 4", "unknown operator 'like'"),
        ("num_gpus=", "value after num_gpus =.* at the end"),
        ("num_gpus>=1 =2", "name of a field; at position 12, near '=2'"),
        ("verified=true,external=false", "name of a field"),
        ("gpu_name=[a,b]", "gpu_name: a list goes with in and notin only"),
        ("gpu_name in []", "gpu_name: the list is empty"),
        ('gpu_name=""', "gpu_name: the value is empty"),
        ('gpu_name="RTX', "value after gpu_name ="),
        ("num_gpus>any", "any goes with = only"),
        ("gpu_ram>=lots", "gpu_ram: 'lots' is not a number"),
        ("gpu_ram>=nan", "gpu_ram: 'nan' is not a number"),
        ("driver_version>535.x", "'535.x' is not a version"),
        ("x=1; rm -rf /", "name of a field|operator"),
        ("x" * (MAX_TEXT + 1), f"at most {MAX_TEXT}"),
        ('{"gpu_ram": 24}', r"\{field: \{op: value\}\}.*gpu_ram|Expected `object`"),
        ('{"gpu_ram": {"=>": 24}}', "gpu_ram: unknown operator '=>'"),
        ('{"gpu_ram": {"in": [[1]]}}', "search"),
        ('{"gpu_ram": ', "not a JSON object"),
        ('{"a":' * 800, "not a JSON object"),
        ('{"\ud800', "not a JSON object"),
        ({"gpu_ram": {"gte": object()}}, "search"),
        ({"gpu_ram": "\ud800"}, "search"),
    ],
)
def test_a_bad_search_is_told_where_and_why(search: str | dict[str, object], problem: str) -> None:
    with pytest.raises(BadRequest, match=problem):
        parse_search(search)


@given(st.text(max_size=200) | st.text(alphabet="ab_=<>!in[]\"', 1.*?{}:", max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        filters = parse_search(text)
    except BadRequest:
        return
    assert all(op in OPS for conditions in filters.values() for op in conditions)
    assert parse_search(dict(filters)) == filters


OFFER: dict[str, object] = {"gpu_name": "RTX 4090", "num_gpus": 2, "gpu_ram": 24_564, "dph_total": 0.4}


@pytest.mark.parametrize(
    ("text", "matched"),
    [
        ("", True),
        ("gpu_name=rtx_4090", True),
        ("gpu_name=RTX_3090", False),
        ("gpu_name!=RTX_3090", True),
        ("gpu_name in [RTX_3090,RTX_4090]", True),
        ("gpu_name notin [RTX_3090,RTX_4090]", False),
        ("num_gpus=2.0", True),
        ("num_gpus=two", False),
        ("num_gpus!=two", True),
        ("num_gpus>two", False),
        ("num_gpus in [1,2]", True),
        ("num_gpus>2", False),
        ("num_gpus>=2 num_gpus<=2", True),
        ("num_gpus<2", False),
        ("gpu_ram>=24", True),
        ("gpu_ram>=25", False),
        ("dph<0.5 dph>0.39", True),
        ("num_gpus=None", False),
        ("verified=true rentable=true", True),  # fields that the offer does not have
    ],
)
def test_a_filter_is_matched(text: str, matched: bool) -> None:
    assert matches(parse_search(text), OFFER) is matched


def test_a_single_value_is_a_list_of_one() -> None:
    assert matches({"num_gpus": {"in": 2}}, OFFER)
    assert matches({"rented": {"eq": False}}, {"rented": False})
    assert not matches({"rented": {"eq": "true"}}, {"rented": False})

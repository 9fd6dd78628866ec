"""Offer searches: the filter language of the protocol's marketplace. `matching` says what satisfies a filter.

    num_gpus=1 gpu_ram>=24 gpu_name in [RTX_4090,"RTX 5090"] dph<0.5

A filter is kept as the protocol sends it: `{field: {op: value}}`, every op one of `OPS`.
"""

import re
from collections.abc import Mapping
from typing import Final, NoReturn

import msgspec

from posthouse.errors import BadRequest
from posthouse.wire.checks import unknown
from posthouse.wire.matching import OWN_FIELDS, number

MAX_TEXT: Final = 4096
"""Longest search text, in characters. Our choice; real ones are below 300."""

OPS: Final = ("eq", "neq", "gt", "gte", "lt", "lte", "in", "notin")

_SYMBOLS: Final = {"=": "eq", "==": "eq", "!=": "neq", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
_WORDS: Final = {op: op for op in OPS} | {"noteq": "neq", "not eq": "neq", "nin": "notin", "not in": "notin"}
_SPELLINGS: Final = _SYMBOLS | _WORDS
_ALIASES: Final = {
    "cuda_vers": "cuda_max_good",
    "display_active": "gpu_display_active",
    "dlperf_usd": "dlperf_per_dphtotal",
    "dph": "dph_total",
    "flops_usd": "flops_per_dphtotal",
}
FIELDS: Final = (
    *("allocated_storage", "bw_nvlink", "cluster_id", "compute_cap", "cpu_arch"),
    *("cpu_cores", "cpu_cores_effective", "cpu_ghz", "cpu_name", "cpu_ram", "cuda_max_good", "datacenter"),
    *("direct_port_count", "disk_bw", "disk_name", "disk_space", "dlperf", "dlperf_per_dphtotal", "dph_base"),
    *("dph_total", "driver_vers", "driver_version", "duration", "external", "flops_per_dphtotal", "geolocation"),
    *("gpu_arch", "gpu_display_active", "gpu_frac", "gpu_lanes", "gpu_max_power", "gpu_max_temp", "gpu_mem_bw"),
    *("gpu_name", "gpu_ram", "gpu_total_ram", "has_avx", "host_id", "hosting_type", "id", "inet_down"),
    *("inet_down_cost", "inet_up", "inet_up_cost", "machine_id", "min_bid", "mobo_name", "num_gpus", "os_version"),
    *("pci_gen", "pcie_bw", "public_ipaddr", "reliability", "reliability2", "rentable", "rented", "score"),
    *("static_ip", "storage_cost", "total_flops", "ubuntu_version", "verification", "verified", "vms_enabled"),
)
"""What offers of the protocol's marketplace are searched by. An offer without the field satisfies any search."""
_MULTIPLIERS: Final = {"cpu_ram": 1e3, "gpu_ram": 1e3, "gpu_total_ram": 1e3, "duration": 86_400.0}
"""From what people write to what offers state: GB to MB, days to seconds."""

_CONSTANTS: Final = {"true": True, "True": True, "false": False, "False": False, "None": None, "null": None}
_ANYTHING: Final = ("any", "*", "?")

_BLANKS = re.compile(r"[\s,]*")
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OP = re.compile(r"\s*([=<>!]+)\s*|\s+(not\s+in|not\s+eq|[a-z]+)(?=[\s\[\"'])\s*")
_VALUE = re.compile(r"""\[([^\]]*)\]|"([^"]*)"|'([^']*)'|([^\s\["'=<>!]+)""")

_Scalar = str | int | float | bool | None
_JSON_SHAPE = dict[str, dict[str, _Scalar | list[_Scalar]]]


def check_fields(filters: Mapping[str, object]) -> None:
    """Raises: BadRequest for a filter on a field that offers have not."""
    for name in filters:
        if name not in FIELDS + OWN_FIELDS:
            raise unknown(name, FIELDS + OWN_FIELDS)


def parse_search(search: str | Mapping[str, object]) -> dict[str, dict[str, object]]:
    """Return the filters that `search` states, as `{field: {op: value}}`.

    Text is the language above, or a JSON object; an object is taken as it is, without aliases or multipliers.
    Values of text stay strings, but for true, false, None and fields with a multiplier. `field=any` takes back what
    was said of the field before.

    Units: gpu_ram, gpu_total_ram, cpu_ram in MB, written in GB; duration in seconds, written in days.
    Raises: BadRequest, which names the place and what is allowed there.
    """
    if not isinstance(search, str):
        return _checked(search)
    if len(search) > MAX_TEXT:
        raise BadRequest(f"search: {len(search)} characters, at most {MAX_TEXT} are allowed")
    if search.lstrip().startswith("{"):
        try:
            return _checked(msgspec.json.decode(search))
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
            raise BadRequest(f"search: not a JSON object: {error}") from None
    filters: dict[str, dict[str, object]] = {}
    at = _BLANKS.match(search, 0).end()  # type: ignore[union-attr]  # it matches the empty text too
    while at < len(search):
        if (named := _FIELD.match(search, at)) is None:
            _fail(search, at, "expected the name of a field")
        field = _ALIASES.get(named[0], named[0])
        if (said := _OP.match(search, named.end())) is None:
            _fail(search, named.end(), f"expected an operator after {named[0]}, one of {' '.join(_SPELLINGS)}")
        spelling = re.sub(r"\s+", " ", said[1] or said[2])
        if spelling not in _SPELLINGS:
            _fail(search, said.start(), f"unknown operator {spelling!r}, allowed are {' '.join(_SPELLINGS)}")
        op = _SPELLINGS[spelling]
        if (given := _VALUE.match(search, said.end())) is None:
            _fail(search, said.end(), f"expected a value after {named[0]} {spelling}: a word, [a,b] or quoted text")
        if given[0] in _ANYTHING:
            if op != "eq":
                _fail(search, given.start(), f"{given[0]} goes with = only")
            filters.pop(field, None)
        else:
            try:
                filters.setdefault(field, {})[op] = _value(field, op, given)
            except ValueError as error:
                _fail(search, given.start(), f"{named[0]}: {error}")
        at = _BLANKS.match(search, given.end()).end()  # type: ignore[union-attr]
    return filters


def _checked(filters: object) -> dict[str, dict[str, object]]:
    try:
        shaped = msgspec.convert(filters, _JSON_SHAPE)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise BadRequest(f"search: expected {{field: {{op: value}}}}: {error}") from None
    for field, conditions in shaped.items():
        for op in conditions:
            if op not in OPS:
                raise BadRequest(f"search: {field}: unknown operator {op!r}, allowed are {' '.join(OPS)}")
    return {field: dict(conditions) for field, conditions in shaped.items()}


def _fail(search: str, at: int, problem: str) -> NoReturn:
    near = search[at : at + 20].strip()
    raise BadRequest(f"search: {problem}; at position {at}" + (f", near {near!r}" if near else ", at the end"))


def _value(field: str, op: str, given: re.Match[str]) -> object:
    """The value of one term. Raises: ValueError."""
    if given[1] is not None and op not in ("in", "notin"):
        raise ValueError("a list goes with in and notin only")
    quoted = given[2] if given[2] is not None else given[3]
    if op in ("in", "notin"):
        texts = [quoted] if quoted is not None else (given[1] if given[1] is not None else given[4]).split(",")
        items = [_scalar(field, text.strip().strip("\"'")) for text in texts if text.strip()]
        if not items:
            raise ValueError("the list is empty")
        return items
    return _scalar(field, quoted if quoted is not None else given[4].strip(","))


def _scalar(field: str, text: str) -> object:
    """The value that `text` states for `field`. Raises: ValueError."""
    if not text:
        raise ValueError("the value is empty")
    if field in _MULTIPLIERS:
        if (value := number(text)) is None:
            raise ValueError(f"{text!r} is not a number")
        return value * _MULTIPLIERS[field]
    if field == "driver_version" and "." in text:
        # 535.86.05 becomes 535086005, so that versions compare as numbers.
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){2}", text):
            raise ValueError(f"{text!r} is not a version a.b.c")
        return int("".join(part.zfill(3) for part in text.split(".")))
    return _CONSTANTS[text] if text in _CONSTANTS else text.replace("_", " ")

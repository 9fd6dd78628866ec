"""Reads what a model is: of a folder or config.json of Hugging Face, a file in GGUF, or a hub."""

import json
import os
import re
import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from posthouse.errors import BadRequest, NotFound
from posthouse.recipes.memory.shape import Shape, shape

_HUB: Final = "https://huggingface.co"
_TIMEOUT_S: Final = 20.0
_MAX_JSON: Final = 32 * 2**20
_MAX_HEADER: Final = 64 * 2**20  # of a file in GGUF; its vocabulary is the most of it
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_CONFIG: Final = "config.json"
_INDEX: Final = "model.safetensors.index.json"
_PART: Final = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def read_model(model: str) -> Shape:
    """The shape of a model: a folder, a config.json, a file in GGUF, or ORG/NAME at the hub of $HF_ENDPOINT.

    Raises: BadRequest where it is not what it should be; NotFound where it is not there, or the hub is not reached.
    """
    path = Path(model)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        if model.endswith(".gguf"):
            return _of_gguf(path)
        return shape(_json(_beginning(path), model))
    if _NAME.fullmatch(model):
        return _of_hub(model)
    raise NotFound(f"MODEL: {model[:255]!r} is no folder, config.json or file in GGUF here, and no name like ORG/NAME")


def _beginning(path: Path) -> bytes:
    """The file; of one that is too long a byte too many."""
    with path.open("rb") as file:
        return file.read(_MAX_JSON + 1)


def _json(text: bytes, name: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text) if len(text) <= _MAX_JSON else None
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadRequest(f"{name}: must be a JSON object of at most {_MAX_JSON} bytes")
    return value


def _of_folder(folder: Path) -> Shape:
    if not (folder / _CONFIG).is_file():
        raise NotFound(f"MODEL: there is no {_CONFIG} in {str(folder)[:255]!r}")
    weights = [*folder.glob("*.safetensors")] or [*folder.glob("pytorch_model*.bin")]
    config = _json(_beginning(folder / _CONFIG), _CONFIG)
    return shape(config, float(sum(file.stat().st_size for file in weights)))


def _of_hub(name: str) -> Shape:
    config = _json(_fetched(name, _CONFIG), f"{name}: {_CONFIG}")
    try:
        index = _json(_fetched(name, _INDEX), f"{name}: {_INDEX}")
    except NotFound:  # all of it in one file
        index = {}
    metadata = index.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else 0
    return shape(config, float(total) if isinstance(total, int | float) and 0 < total < 2**50 else 0.0)


def _fetched(name: str, file: str) -> bytes:
    """A small file of a model at the hub. Raises: NotFound, with the reason."""
    hub = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _HUB
    if not hub.startswith(("http://", "https://")):
        raise BadRequest(f"HF_ENDPOINT: must be an address like {_HUB}, not {hub[:80]!r}")
    if os.environ.get("HF_HUB_OFFLINE", "") in {"1", "true", "TRUE", "ON", "YES"}:
        raise NotFound(f"MODEL: {name} is not here, and HF_HUB_OFFLINE forbids to ask the hub")
    request = Request(f"{hub}/{name}/resolve/main/{file}")  # noqa: S310 - http and https alone, see above
    if token := os.environ.get("HF_TOKEN", "").strip():
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - likewise
            return bytes(answer.read(_MAX_JSON + 1))
    except HTTPError as error:
        why = {
            401: "needs a token in HF_TOKEN, or does not exist",
            403: "must be asked for at the hub first",
            404: f"has no {file}, or does not exist",
        }
        raise NotFound(f"MODEL: {name} at {hub}: {why.get(error.code, f'status {error.code}')}") from None
    except (URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise NotFound(f"MODEL: {name} is not here, and the hub at {hub} cannot be reached: {reason}") from None


def _of_gguf(path: Path) -> Shape:
    """Source: the specification of GGUF, docs/gguf.md of ggml."""
    with path.open("rb") as file:
        fields = _gguf_fields(BytesIO(file.read(_MAX_HEADER)), path.name)
    kind = str(fields.get("general.architecture", ""))
    named = {name.removeprefix(f"{kind}."): value for name, value in fields.items()}

    def number(name: str, default: int | None = None) -> int:
        value = named.get(name)
        if isinstance(value, list):  # by layer
            value = max((v for v in value if isinstance(v, int)), default=None)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or not 0 < value < 10**8:
            raise BadRequest(f"{path.name}: {kind}.{name} must be a whole number above 0, not {value!r:.60}")
        return value

    heads = number("attention.head_count")
    key = number("attention.key_length", number("embedding_length") // heads)
    kv_heads = number("attention.head_count_kv", heads)
    layers, window = number("block_count"), number("attention.sliding_window", 0)
    parts = [*path.parent.glob(_PART.sub("-*-of-\\1.gguf", path.name))] if _PART.search(path.name) else [path]
    return Shape(
        layers=layers,
        windowed=0,  # which layers have the window is not in the file
        window=window,
        per_layer=kv_heads * (key + number("attention.value_length", key)),
        kv_heads=kv_heads,
        most_tokens=number("context_length", 4096),
        kept_as="int4",
        file_bytes=float(sum(part.stat().st_size for part in parts)),
    )


_SCALARS: Final = {0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d"}
_TEXT: Final = 8
_ARRAY: Final = 9
_KEPT: Final = 4096  # items of an array that are kept; vocabularies are longer


def _gguf_fields(file: BinaryIO, name: str) -> dict[str, Any]:
    try:
        if file.read(4) != b"GGUF" or _scalar(file, "<I") not in (2, 3):
            raise BadRequest(f"{name}: must be a file in GGUF of version 2 or 3")
        _scalar(file, "<Q")  # how many tensors
        return {_text(file): _value(file, _scalar(file, "<I")) for _ in range(min(_scalar(file, "<Q"), 10_000))}
    except (struct.error, KeyError, ValueError, MemoryError, OverflowError):
        raise BadRequest(f"{name}: its header is damaged, or has more than {_MAX_HEADER} bytes") from None


def _scalar(file: BinaryIO, form: str) -> Any:
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]


def _text(file: BinaryIO) -> str:
    size = _scalar(file, "<Q")
    text = file.read(min(size, _MAX_HEADER))
    if len(text) != size:
        raise ValueError
    return text.decode(errors="replace")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _TEXT:
        return _text(file)
    if kind != _ARRAY:
        return _scalar(file, _SCALARS[kind])
    kind, size = _scalar(file, "<I"), _scalar(file, "<Q")
    if kind == _ARRAY or size > _MAX_HEADER:
        raise ValueError
    if kind in _SCALARS:
        form = _SCALARS[kind]
        kept = [_scalar(file, form) for _ in range(min(size, _KEPT))]
        file.seek((size - len(kept)) * struct.calcsize(form), os.SEEK_CUR)
        return kept
    for _ in range(size):
        _text(file)
    return []

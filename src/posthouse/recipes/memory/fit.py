"""What fits on which GPUs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from posthouse.errors import BadRequest, NotFound
from posthouse.recipes import Recipe
from posthouse.recipes.memory.read import read_model
from posthouse.recipes.memory.shape import Shape
from posthouse.wire.checks import unknown

GPUS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "T4": 15_360,
        "RTX 4060 Ti 16GB": 16_380,
        "RTX 4080": 16_376,
        "RTX A4000": 16_376,
        "A10": 23_028,
        "L4": 23_034,
        "RTX 3090": 24_576,
        "RTX 4090": 24_564,
        "RTX A5000": 24_564,
        "RTX 5090": 32_607,
        "V100 32GB": 32_768,
        "A100 40GB": 40_960,
        "L40S": 46_068,
        "RTX A6000": 49_140,
        "RTX 6000 Ada": 49_140,
        "A100 80GB": 81_920,
        "H100": 81_559,
        "RTX PRO 6000": 97_887,
        "H200": 143_771,
        "B200": 183_359,
    }
)
"""Memory of GPUs in MiB, as nvidia-smi shows it."""

UTILIZATION: Final = 0.92
"""vLLM's default of --gpu-memory-utilization."""
APART_BYTES: Final = 2.5 * 2**30
"""On each GPU beside weights and KV cache: context of CUDA, activations, graphs. vLLM takes 2 to 4 GiB."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a model has on some equal GPUs of one machine."""

    weights_bytes: float
    """On each of them."""
    cache_bytes: float
    """What is left on each for the KV cache; below 0 where not even the weights fit."""
    tokens: int
    """How many tokens can be held at once, in requests of that length."""
    requests: float
    """How many requests of that length can be held at once; below 1: it does not start."""

    @property
    def fits(self) -> bool:
        return self.requests >= 1


def gpu(name: str) -> tuple[str, int]:
    """The GPU that a name means, however it is spelled, and its memory in MiB. Raises: BadRequest.

    Several sizes of one name need the size: "A100 80GB".
    """
    wanted = _spelled(name)
    found = [known for known in GPUS if _spelled(known) == wanted]
    found = found or [known for known in GPUS if _spelled(known).startswith(wanted) and wanted]
    if len(found) != 1:
        raise BadRequest(f"--gpu: {unknown(name, found or GPUS, 'GPU')}")
    return found[0], GPUS[found[0]]


def _spelled(name: str) -> str:
    return re.sub(r"[^a-z0-9]|nvidia|geforce|sxm\d?|pcie|nvl", "", name.lower())


def fit(
    shape: Shape,
    memory_mib: int,
    count: int = 1,
    tokens: int = 0,
    quantization: str = "",
    number_bytes: float = 2.0,
    utilization: float = UTILIZATION,
) -> Fit:
    """What the model has on `count` GPUs with so much memory each, for requests of so many `tokens` (0: its longest).

        W   weights;  K   KV cache of a token = 2 x layers x KV heads x head dim x bytes
        cache of each GPU = utilization x memory - W / count - A
        requests at once  = cache / (K x tokens)

    K is divided by the GPUs up to the number of KV heads; that of latent attention (MLA) is not. Layers with a window
    hold at most so many tokens. Sources: vLLM's `v1/core/kv_cache_utils.py` and its log of Llama-3.1-8B (issue 10517:
    weights 14.99 GiB, 131,072 bytes a token); A: 2.5 GiB, where measurements go from 2 to 4.
    """
    tokens = tokens or shape.most_tokens
    weights, each = _shares(shape, count, tokens, quantization, number_bytes)
    cache = utilization * memory_mib * 2**20 - weights - APART_BYTES
    requests = max(cache, 0.0) / each if each else 0.0
    return Fit(weights, cache, int(requests * tokens), requests)


def needed_bytes(
    shape: Shape,
    count: int = 1,
    tokens: int = 0,
    quantization: str = "",
    number_bytes: float = 2.0,
    utilization: float = UTILIZATION,
) -> float:
    """Memory that each of `count` GPUs must have for one request of so many tokens; with less vLLM does not start."""
    weights, each = _shares(shape, count, tokens or shape.most_tokens, quantization, number_bytes)
    return (weights + each + APART_BYTES) / utilization


def _shares(shape: Shape, count: int, tokens: int, quantization: str, number_bytes: float) -> tuple[float, float]:
    """Bytes that each GPU holds of the weights, and of the cache of one request. See `fit`."""
    cache = shape.request_bytes(tokens, number_bytes) / min(count, shape.kv_heads)
    return shape.weight_bytes(quantization) / count, cache


def needed_by(recipe: Recipe, values: Mapping[str, str]) -> float:
    """Memory in bytes that each GPU must have for a recipe with these values. Raises: BadRequest, NotFound."""
    count = int(values.get(recipe.gpus, recipe.gpus))
    tokens = int(values.get("max_model_len") or 0)
    kind = values.get("kv_cache_dtype", "")
    if recipe.memory == "gguf":
        if not values["model"].endswith(".gguf"):
            raise NotFound("the model is at a hub, and its file is not here")
        shape = read_model(values["model"])
        cache = shape.request_bytes(tokens * int(values["parallel"]), {"q8_0": 1.06, "q4_0": 0.56}.get(kind, 2.0))
        return (shape.weight_bytes() + cache) / count + APART_BYTES
    return needed_bytes(
        read_model(values["model"]),
        count,
        tokens,
        values.get("quantization", ""),
        1.0 if kind.startswith("fp8") else 2.0,
        float(values.get("gpu_memory_utilization", UTILIZATION)),
    )

"""What the memory of a language model follows from, read of its configuration."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from posthouse.errors import BadRequest

BYTES: Final[Mapping[str, float]] = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.53,  # with the scales of groups of 128
    "mxfp4": 0.53,  # with the scales of blocks of 32
    "nvfp4": 0.56,
}
"""Bytes of a parameter."""

QUANTIZATIONS: Final[Mapping[str, str]] = {
    "fp8": "fp8",
    "int8": "int8",
    "w8a8_int8": "int8",
    "w8a8_fp8": "fp8",
    "eetq": "int8",
    "awq": "int4",
    "awq_marlin": "int4",
    "gptq": "int4",
    "gptq_marlin": "int4",
    "marlin": "int4",
    "bitsandbytes": "int4",
    "bitsandbytes-nf4": "int4",
    "bitsandbytes-fp4": "int4",
    "int4": "int4",
    "mxfp4": "mxfp4",
    "modelopt": "fp8",
    "nvfp4": "nvfp4",
}
"""What the engines' words for quantizations come to."""

_MAX_NUMBER: Final = 10**7  # of any number in a configuration; no real one comes near


@dataclass(frozen=True, slots=True)
class Shape:
    """A model of transformers, as far as its memory goes."""

    layers: int
    """Those that keep something for each token; layers of linear attention do not."""
    windowed: int
    """How many of them see no more than `window` tokens."""
    window: int
    per_layer: int
    """Numbers that a layer keeps for each token: keys and values of all heads, or what they are made of (MLA)."""
    kv_heads: int
    """Between how many GPUs that can be divided; 1: each has all of it."""
    most_tokens: int
    """Longest request that it was made for."""
    parameters: float = 0.0
    embeddings: float = 0.0
    """Those of them that quantization leaves in 16 bits."""
    experts: float = 0.0
    """Those of them that are in experts, of which all are in memory."""
    kept_as: str = "bfloat16"
    """A key of `BYTES`: how the checkpoint has them."""
    file_bytes: float = 0.0
    """Of all its weights, where that is known."""

    def weight_bytes(self, quantization: str = "") -> float:
        """The memory of its weights.

        Parameters times bytes each; what quantization leaves as it is has two: embeddings, and with MXFP4 all but the
        experts. A checkpoint of known size that is not quantized further has that size. What is no known quantization
        is that of the checkpoint.
        """
        kind = QUANTIZATIONS.get(quantization, self.kept_as)
        if self.file_bytes and (not quantization or kind == self.kept_as or not self.parameters):
            return self.file_bytes
        if BYTES[kind] >= BYTES["float16"]:
            return self.parameters * BYTES[kind]
        smaller = self.experts if kind == "mxfp4" and self.experts else self.parameters - self.embeddings
        return smaller * BYTES[kind] + (self.parameters - smaller) * BYTES["bfloat16"]

    def token_bytes(self, number_bytes: float = 2.0) -> float:
        """Memory of the KV cache for each token of a long request. `number_bytes`: 2, or 1 for a cache in fp8."""
        return (self.layers - self.windowed) * self.per_layer * number_bytes

    def request_bytes(self, tokens: int, number_bytes: float = 2.0) -> float:
        """Memory of the KV cache for a request of so many tokens, prompt and answer together."""
        windowed = self.windowed * self.per_layer * number_bytes * min(tokens, self.window)
        return tokens * self.token_bytes(number_bytes) + windowed


def shape(config: Mapping[str, Any], file_bytes: float = 0.0) -> Shape:
    """The shape that a config.json of Hugging Face describes. Raises: BadRequest naming the field."""
    text = config.get("text_config") or config.get("llm_config") or config
    if not isinstance(text, Mapping):
        raise BadRequest("text_config: must be an object")
    read = _Reader(text)
    layers, hidden, heads = read("num_hidden_layers"), read("hidden_size"), read("num_attention_heads")
    kv_heads = read("num_key_value_heads", heads)
    head_dim = read("head_dim", hidden // heads)
    latent = read("kv_lora_rank", 0)
    if latent:
        per_layer, kv_heads = latent + read("qk_rope_head_dim"), 1
    else:
        per_layer = 2 * kv_heads * head_dim
    kept, windowed, window = _kept_layers(text, read, layers)
    embeddings = read("vocab_size") * hidden * (1 if text.get("tie_word_embeddings", config is not text) else 2)
    blocks, experts = _blocks(read, layers, hidden, heads, head_dim)
    return Shape(
        layers=kept,
        windowed=windowed,
        window=window,
        per_layer=per_layer,
        kv_heads=kv_heads,
        most_tokens=read("max_position_embeddings", 0) or 4096,
        parameters=embeddings + blocks + experts + hidden,
        embeddings=embeddings,
        experts=experts,
        kept_as=_kept_as(config, text),
        file_bytes=file_bytes,
    )


class _Reader:
    """Reads whole numbers of a configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def __call__(self, name: str, default: int | None = None) -> int:
        """Raises: BadRequest where it must be there and is not, or is no number that can be right."""
        value = self._config.get(name)
        if value is None and default is not None:
            return default
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or not 0 < value + (default is not None) <= _MAX_NUMBER
        ):
            raise BadRequest(f"{name}: must be a whole number from 1 to {_MAX_NUMBER}, not {value!r:.60}")
        return value


def _kept_layers(config: Mapping[str, Any], read: _Reader, layers: int) -> tuple[int, int, int]:
    """How many layers keep something for each token, how many of those see a window alone, and how long that is."""
    window = read("sliding_window", 0)
    types = config.get("layer_types")
    if isinstance(types, list) and len(types) == layers:
        windowed = types.count("sliding_attention") if window else 0
        return types.count("full_attention") + types.count("sliding_attention"), windowed, window
    if not window or config.get("use_sliding_window") is False:
        return layers, 0, 0
    if pattern := read("sliding_window_pattern", 0):  # every so many-th sees all
        return layers, layers - layers // pattern, window
    return layers, layers, window


def _blocks(read: _Reader, layers: int, hidden: int, heads: int, head_dim: int) -> tuple[float, float]:
    """Parameters of all layers outside of their experts, and of the experts. Small ones, of biases, are left out."""
    if latent := read("kv_lora_rank", 0):
        rope, nope, value = read("qk_rope_head_dim"), read("qk_nope_head_dim"), read("v_head_dim")
        asked = read("q_lora_rank", 0)
        query = hidden * asked + asked * heads * (nope + rope) if asked else hidden * heads * (nope + rope)
        attention = query + hidden * (latent + rope) + latent * heads * (nope + value) + heads * value * hidden
    else:
        attention = 2 * hidden * head_dim * (heads + read("num_key_value_heads", heads))
    count = read("num_experts", 0) or read("num_local_experts", 0) or read("n_routed_experts", 0)
    inner = read("intermediate_size", 0)
    if not count:
        return layers * (attention + 3 * hidden * inner + 2 * hidden), 0.0
    dense = min(read("first_k_dense_replace", 0), layers)
    own = read("moe_intermediate_size", 0) or inner
    shared = read("n_shared_experts", 0) * own or read("shared_expert_intermediate_size", 0)
    routed = layers - dense
    outside = layers * (attention + 2 * hidden) + dense * 3 * hidden * inner
    outside += routed * (3 * hidden * shared + hidden * count)
    return outside, float(routed * count * 3 * hidden * own)


def _kept_as(config: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """How the checkpoint has its weights, as a key of `BYTES`."""
    how = config.get("quantization_config") or text.get("quantization_config")
    if isinstance(how, Mapping):
        method = str(how.get("quant_method", ""))
        bits = how.get("bits") or (8 if how.get("load_in_8bit") else 4)
        if method in {"gptq", "awq", "bitsandbytes"}:
            return "int8" if bits == 8 else "int4"
        if method == "compressed-tensors":
            return "int4" if "'num_bits': 4" in str(how)[:10_000] else "fp8"
        return QUANTIZATIONS.get(method, "fp8")
    kind = text.get("torch_dtype") or text.get("dtype") or config.get("torch_dtype") or config.get("dtype")
    return str(kind) if kind in BYTES else "bfloat16"

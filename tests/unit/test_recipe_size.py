"""The memory that a model needs, against published configurations and numbers worked out by hand."""

import json
import re
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from posthouse.cli import main
from posthouse.errors import BadRequest, NotFound
from posthouse.recipes import names, recipe
from posthouse.recipes.memory import GPUS, Shape, fit, gpu, needed_by, needed_bytes, read_model
from posthouse.recipes.memory.shape import shape

GIB = 2**30

LLAMA_3_1_8B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
QWEN3_8B = LLAMA_3_1_8B | {
    "num_hidden_layers": 36,
    "head_dim": 128,
    "intermediate_size": 12288,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "sliding_window": None,
    "use_sliding_window": False,
}
QWEN3_30B_A3B = QWEN3_8B | {
    "hidden_size": 2048,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "num_experts": 128,
    "moe_intermediate_size": 768,
    "intermediate_size": 6144,
}
GPT_OSS_20B = {
    "hidden_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "intermediate_size": 2880,
    "num_local_experts": 32,
    "vocab_size": 201088,
    "max_position_embeddings": 131072,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
}
DEEPSEEK_V3 = {
    "hidden_size": 7168,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "max_position_embeddings": 163840,
    "quantization_config": {"quant_method": "fp8"},
}


@pytest.mark.parametrize(
    ("config", "parameters", "token_bytes"),
    [
        # 2 x 128256 x 4096 + 32 x (2 x 4096 x 128 x (32 + 8) + 3 x 4096 x 14336 + 2 x 4096) + 4096: as published
        (LLAMA_3_1_8B, 8_030_261_248, 2 * 32 * 8 * 128 * 2),
        # 2 x 151936 x 4096 + 36 x (41943040 + 3 x 4096 x 12288 + 8192) + 4096; norms of queries, 256 a layer, left out
        (QWEN3_8B, 8_190_735_360 - 36 * 256, 2 * 36 * 8 * 128 * 2),
        # 2 x 151936 x 2048 + 48 x (18874368 + 128 x 3 x 2048 x 768 + 2048 x 128 + 4096) + 2048
        (QWEN3_30B_A3B, 30_532_122_624 - 48 * 256, 2 * 48 * 4 * 128 * 2),
        # 12 of 24 layers keep all: 2 x 12 x 8 x 64 x 2
        # 2 x 201088 x 2880 + 24 x (2 x 2880 x 64 x 72 + 2 x 2880 + 2880 x 32 + 32 x 3 x 2880 x 2880) + 2880
        (GPT_OSS_20B, 20_907_927_360, 24_576),
        # 61 x (512 + 64) x 2
        (DEEPSEEK_V3, 671_024_972_800, 70_272),
    ],
)
def test_parameters_and_cache_follow_from_a_published_configuration(
    config: dict[str, Any], parameters: int, token_bytes: int
) -> None:
    found = shape(config)
    assert found.parameters == pytest.approx(parameters, rel=1e-5)
    assert found.token_bytes() == token_bytes
    assert found.token_bytes(1.0) == token_bytes / 2


def test_weights_follow_from_what_is_quantized() -> None:
    llama = shape(LLAMA_3_1_8B)
    assert llama.weight_bytes() / GIB == pytest.approx(14.957, abs=0.001)  # vLLM's log says 14.99
    embeddings = 2 * 128256 * 4096
    assert llama.weight_bytes("fp8") == (8_030_261_248 - embeddings) + 2 * embeddings
    assert llama.weight_bytes("awq") == pytest.approx((8_030_261_248 - embeddings) * 0.53 + 2 * embeddings)
    # All but the experts stays in 16 bits: 24 x 32 x 3 x 2880 x 2880 = 19.11e9 of 20.91e9 are in experts.
    assert shape(GPT_OSS_20B).weight_bytes() / GIB == pytest.approx(12.8, abs=0.05)
    assert shape(DEEPSEEK_V3).weight_bytes() / GIB == pytest.approx(626.7, abs=0.5)
    awq = shape(LLAMA_3_1_8B | {"quantization_config": {"quant_method": "awq", "bits": 4}}, file_bytes=5.7e9)
    assert awq.weight_bytes() == awq.weight_bytes("awq_marlin") == 5.7e9
    assert shape({"text_config": LLAMA_3_1_8B, "vision_config": {}}).weight_bytes() == llama.weight_bytes()


def test_a_window_bounds_what_a_long_request_keeps() -> None:
    oss = shape(GPT_OSS_20B)
    assert oss.request_bytes(1000) == 1000 * 24_576 + 128 * 24_576
    assert oss.request_bytes(100) == 200 * 24_576
    mistral = shape(LLAMA_3_1_8B | {"sliding_window": 4096})
    assert mistral.request_bytes(10_000) == 4096 * 131_072
    gemma = shape(LLAMA_3_1_8B | {"sliding_window": 1024, "sliding_window_pattern": 4})
    assert gemma.request_bytes(10_000) == 10_000 * 131_072 / 4 + 1024 * 131_072 * 3 / 4
    linear = shape(LLAMA_3_1_8B | {"layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8})
    assert linear.token_bytes() == 131_072 / 4


def test_what_fits_is_what_is_left_of_the_gpus_share() -> None:
    llama = shape(LLAMA_3_1_8B)
    # 0.92 x 24564 MiB - 16060522496 - 2.5 GiB = 4.612 GiB, of 131072 bytes a token: 37781; 8192 each: 4.6 requests
    found = fit(llama, GPUS["RTX 4090"], tokens=8192)
    assert found.tokens == pytest.approx(37_781, rel=0.001)
    assert found.requests == pytest.approx(4.61, abs=0.01)
    assert found.fits
    assert not fit(llama, GPUS["RTX 4090"]).fits  # 131072 tokens need 16 GiB
    assert fit(llama, GPUS["RTX 4090"], tokens=8192, number_bytes=1.0).requests == pytest.approx(2 * found.requests)
    assert fit(llama, GPUS["T4"], tokens=8192).requests == 0
    two = fit(llama, GPUS["RTX 4090"], 2, 8192)
    # 0.92 x 24564 MiB - 7.48 - 2.5 GiB = 12.09 GiB on each, of 65536 bytes a token
    assert two.tokens == pytest.approx(198_092, rel=0.001)
    # Latent attention is not divided.
    deepseek = shape(DEEPSEEK_V3)
    assert fit(deepseek, GPUS["H200"], 8, 1000).tokens == pytest.approx(
        fit(deepseek, GPUS["H200"], 8, 1000).cache_bytes / 70_272, rel=0.001
    )


def test_the_memory_that_is_needed_is_just_enough() -> None:
    llama = shape(LLAMA_3_1_8B)
    for count in (1, 2, 16):
        mib = needed_bytes(llama, count, 8192) / 2**20
        assert fit(llama, int(mib) + 1, count, 8192).fits
        assert not fit(llama, int(mib) - 1, count, 8192).fits


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("RTX_4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("h100_sxm", "H100"),
        ("A100 80GB", "A100 80GB"),
    ],
)
def test_a_gpu_is_known_by_any_of_its_spellings(name: str, found: str) -> None:
    assert gpu(name) == (found, GPUS[found])


@pytest.mark.parametrize("name", ["A100", "RTX 9999", "", "_"])
def test_a_gpu_that_is_not_known_or_not_clear_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="there is no such GPU"):
        gpu(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hidden_size": None}, "hidden_size: must be a whole number from 1 to"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers: must be"),
        ({"vocab_size": "x"}, "vocab_size: must be"),
        ({"num_attention_heads": 0}, "num_attention_heads: must be"),
        ({"text_config": 5}, "text_config: must be an object"),
        ({"kv_lora_rank": 512}, "qk_rope_head_dim: must be"),
        ({"head_dim": -1}, "head_dim: must be"),
    ],
)
def test_a_configuration_that_cannot_be_right_is_told_by_its_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        shape(LLAMA_3_1_8B | change)
    assert words in str(refused.value)


def test_a_folder_has_its_weights_in_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    assert read_model(str(tmp_path)).weight_bytes() == 2 * 8_030_261_248
    for number in (1, 2):
        with (tmp_path / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(2**30 * number)
    assert read_model(str(tmp_path)).weight_bytes() == 3 * GIB
    assert read_model(str(tmp_path / "config.json")).weight_bytes() == 2 * 8_030_261_248
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadRequest, match=r"config\.json: must be a JSON object"):
        read_model(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(NotFound, match=r"there is no config\.json"):
        read_model(str(tmp_path))
    with pytest.raises(NotFound, match="is no folder"):
        read_model(str(tmp_path / "nowhere"))


def gguf(fields: dict[str, tuple[int, bytes]]) -> bytes:
    body = b"".join(
        struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", kind) + value
        for name, (kind, value) in fields.items()
    )
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(fields)) + body


def text(value: str) -> tuple[int, bytes]:
    return 8, struct.pack("<Q", len(value)) + value.encode()


def whole(value: int) -> tuple[int, bytes]:
    return 4, struct.pack("<I", value)


WORDS = struct.pack("<IQ", 8, 2) + text("a")[1] + text("b")[1]
LLAMA_IN_GGUF = gguf(
    {
        "tokenizer.ggml.tokens": (9, WORDS),
        "tokenizer.ggml.scores": (9, struct.pack("<IQ2f", 6, 2, 0.0, 0.0)),
        "general.architecture": text("llama"),
        "llama.block_count": whole(32),
        "llama.embedding_length": whole(4096),
        "llama.attention.head_count": whole(32),
        "llama.attention.head_count_kv": (9, struct.pack("<IQ2i", 5, 2, 8, 8)),
        "llama.context_length": whole(32768),
    }
)


def test_a_file_in_gguf_says_what_it_keeps(tmp_path: Path) -> None:
    content = LLAMA_IN_GGUF
    file = tmp_path / "model-00001-of-00002.gguf"
    file.write_bytes(content)
    (tmp_path / "model-00002-of-00002.gguf").write_bytes(bytes(1000))
    found = read_model(str(file))
    assert (found.token_bytes(), found.most_tokens) == (131_072, 32768)
    assert found.weight_bytes() == len(content) + 1000
    for damaged in (
        content[:100],
        b"GGUF" + bytes(2),
        b"",
        b"PK",
        content.replace(b"llama.block_count", b"llama.block_xount"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(BadRequest, match="gguf"):
            read_model(str(file))


@contextmanager
def hub(files: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """A hub with these files, and the keys that it was shown."""
    keys: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys.append(self.headers.get("Authorization", ""))
            found = files.get(self.path)
            self.send_response(found if isinstance(found, int) else 404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found).encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", keys
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_hub_is_asked_for_what_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/meta/Llama/resolve/main/config.json": LLAMA_3_1_8B,
        "/meta/Llama/resolve/main/model.safetensors.index.json": {"metadata": {"total_size": 16 * GIB}},
        "/small/Llama/resolve/main/config.json": LLAMA_3_1_8B,
        "/gated/Llama/resolve/main/config.json": 401,
    }
    monkeypatch.setenv("HF_TOKEN", "secret")
    with hub(files) as (url, keys):
        monkeypatch.setenv("HF_ENDPOINT", url)
        assert read_model("meta/Llama").weight_bytes() == 16 * GIB
        assert read_model("small/Llama").weight_bytes() == 2 * 8_030_261_248
        assert set(keys) == {"Bearer secret"}
        for name, words in (("gated/Llama", "needs a token in HF_TOKEN"), ("no/Llama", "has no config.json")):
            with pytest.raises(NotFound, match=words):
                read_model(name)
    with pytest.raises(NotFound, match=r"the hub at http://127\.0\.0\.1:\d+ cannot be reached: .*refused"):
        read_model("meta/Llama")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotFound, match="HF_HUB_OFFLINE forbids"):
        read_model("meta/Llama")


def test_the_command_says_what_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_8B))
    ask = ["recipe", "size", str(tmp_path), "--max-model-len", "16384"]
    assert main([*ask, "--gpu", "RTX_4090", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["kv_cache_kib_per_token"] == 144
    assert out["gpus"][0]["gpu"] == "RTX 4090"
    assert out["gpus"][0]["fits"]
    assert main([*ask, "--count", "2", "--quantization", "fp8"]) == 0
    out = capsys.readouterr().out
    assert all(re.search(pattern, out) for pattern in (r"weights_gib +8\.787", r"kv_cache_kib_per_token +144", "2x T4"))
    assert main([*ask, "--quantization", "fp9"]) == 2
    assert "fp9: there is no such quantization. Did you mean fp8?" in capsys.readouterr().err
    assert main(["recipe", "size", "nowhere"]) == 4


@pytest.mark.parametrize("name", [name for name in names() if recipe(name).memory])
def test_the_memory_that_a_recipe_needs_follows_from_its_values(name: str, tmp_path: Path) -> None:
    found = recipe(name)
    if found.memory == "gguf":
        file = tmp_path / "model.gguf"
        file.write_bytes(LLAMA_IN_GGUF)
        values = found.values({"model": str(file), "max_model_len": "8192", "parallel": "4"}, False, "chat")
        # 4 x 8192 tokens of 131072 bytes and 2.5 GiB, beside a file of nothing
        assert needed_by(found, values) / GIB == pytest.approx(4 + 2.5, abs=0.001)
        with pytest.raises(NotFound, match="its file is not here"):
            needed_by(found, values | {"model": "ORG/NAME:Q4_K_M"})
        return
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_1_8B))
    values = found.values({"model": str(tmp_path), "max_model_len": "8192"}, False, "chat")
    assert needed_by(found, values) / GIB == pytest.approx((14.957 + 1 + 2.5) / 0.92, abs=0.01)
    two = values | {found.gpus: "2"}
    assert needed_by(found, two) / GIB == pytest.approx((14.957 / 2 + 0.5 + 2.5) / 0.92, abs=0.01)
    for quantization in found.parameters["quantization"].choices:
        assert needed_by(found, values | {"quantization": quantization}) <= needed_by(found, values)


def test_a_shape_without_parameters_has_the_size_of_its_file() -> None:
    one = Shape(1, 0, 0, 2, 1, 10, file_bytes=100.0, kept_as="int4")
    assert one.weight_bytes() == one.weight_bytes("fp8") == 100.0

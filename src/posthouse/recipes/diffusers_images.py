"""Images from text with diffusers, in the shape of OpenAI's images API, for `serve_function`.

Environment: MODEL, PRECISION, SIZE, STEPS.
"""

import base64
import io
import os
import time
from typing import Any

_pipeline: Any = None


def load() -> None:
    global _pipeline
    import torch
    from diffusers import DiffusionPipeline

    precision = getattr(torch, os.environ.get("PRECISION", "bfloat16"))
    _pipeline = DiffusionPipeline.from_pretrained(os.environ["MODEL"], torch_dtype=precision)
    _pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    _pipeline.set_progress_bar_config(disable=True)


def generate(request: dict[str, Any]) -> dict[str, Any]:
    """The images of a request, as PNG in base64. Raises: ValueError, which names the field."""
    prompt = request.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise ValueError("prompt: must be a text")
    if request.get("response_format", "b64_json") != "b64_json":
        raise ValueError("response_format: must be b64_json")
    size = str(request.get("size") or os.environ.get("SIZE", "1024x1024"))
    width, _, height = size.partition("x")
    sides = _whole("size", width, 64, 4096), _whole("size", height, 64, 4096)
    if sides[0] % 8 or sides[1] % 8:
        raise ValueError(f"size: sides must be multiples of 8, not {size!r}")
    more: dict[str, Any] = {}
    if request.get("guidance_scale") is not None:
        more["guidance_scale"] = float(request["guidance_scale"])
    if request.get("seed") is not None:
        import torch

        more["generator"] = torch.Generator().manual_seed(_whole("seed", request["seed"], 0, 2**63 - 1))
    made = _pipeline(
        prompt,
        negative_prompt=request.get("negative_prompt"),
        width=sides[0],
        height=sides[1],
        num_images_per_prompt=_whole("n", request.get("n") or 1, 1, 16),
        num_inference_steps=_whole("steps", _steps(request), 1, 500),
        **more,
    )
    return {"created": int(time.time()), "data": [{"b64_json": _png(image)} for image in made.images]}


def _steps(request: dict[str, Any]) -> Any:
    return request.get("num_inference_steps") or request.get("steps") or os.environ.get("STEPS", "30")


def _whole(name: str, value: Any, least: int, most: int) -> int:
    text = str(value)
    if not text.isdigit() or not least <= int(text) <= most:
        raise ValueError(f"{name}: must be a whole number from {least} to {most}, not {text[:40]!r}")
    return int(text)


def _png(image: Any) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()

"""How much work a request is, in the units in which the worker's performance is measured."""

import io
import math
import re
from collections.abc import Callable
from typing import Final

MAX_WORK: Final = 1e9  # work units of one request; no real one comes near, and sums of thousands stay exact

_TOKENS: Final = ("max_tokens", "max_new_tokens", "max_completion_tokens", "max_output_tokens")
_TOKEN_PLACES: Final = ((), ("parameters",), ("input", "parameters"))

WorkloadRule = Callable[[object, float], float]
"""The work of a request, from its payload and the cost that its client announced.

The payload is decoded JSON, the bytes of the first file in a form, or None."""

RULES: Final = (
    "tokens, cost, json:<dotted.path>, length:<dotted.path>, audio, pixels[:<width>x<height>x<steps>] or "
    "constant:<number above 0>"
)
_PIXELS: Final = re.compile(r"pixels(?::([1-9]\d{0,4})x([1-9]\d{0,4})x([1-9]\d{0,3}))?", re.ASCII)
_PICTURE: Final = (1024.0, 1024.0, 20.0)
_NODES: Final = 10_000  # of a workflow; more are not looked at


def needs_body(text: str) -> bool:
    """True if clients cannot be expected to announce what the rule counts."""
    return text.partition(":")[0] in {"length", "audio", "pixels"}


def workload_rule(text: str) -> WorkloadRule:
    """Return the rule that `text` names.

    tokens            the tokens asked for: max_tokens, max_new_tokens, max_completion_tokens or max_output_tokens, at
                      the top, under `parameters` or under `input.parameters`
    json:a.b          the number at that path of the payload
    length:a.b,c      the characters of the texts at these paths, also of those in lists there
    audio             the seconds of sound in the form's first file: WAV, MP3, FLAC, Ogg, Opus, MP4, AIFF or WMA
    pixels:512x512x20 megapixels times steps times images: of a request like OpenAI's for images, with these values
                      where it has none (1024x1024x20 where the rule has none), or of a workflow of ComfyUI
    cost              the cost that the client announced
    constant:2.5      always the same

    Where the payload has no such number, the announced cost counts. The result is finite, above 0, at most 1e9.

    Raises: ValueError when `text` names no rule.
    """
    kind, _, argument = text.partition(":")
    if text == "audio":
        return lambda payload, cost: _work(_seconds(payload), cost)
    paths = [path.split(".") for path in argument.split(",")]
    if kind == "length" and all(map(all, paths)):
        return lambda payload, cost: _work(sum(_length(_at(payload, path)) for path in paths), cost)
    if match := _PIXELS.fullmatch(text):
        usual = tuple(map(float, match.groups())) if match[1] else _PICTURE
        return lambda payload, cost: _work(_pixels(payload, usual), cost)
    if text == "tokens":
        return lambda payload, cost: _work(_tokens(payload), cost)
    if text == "cost":
        return lambda payload, cost: _work(cost)
    if kind == "json" and all(path := argument.split(".")):
        return lambda payload, cost: _work(_number(payload, path), cost)
    if kind == "constant":
        try:
            constant = float(argument)
        except ValueError:
            constant = math.nan
        if 0 < constant <= MAX_WORK:
            return lambda payload, cost: constant
    raise ValueError(f"workload: must be {RULES}, not {text!r}")


def _work(*candidates: float | None) -> float:
    """Return the first candidate that can be an amount of work, 1 if there is none."""
    for candidate in candidates:
        if candidate is not None and candidate > 0:  # false for NaN
            return min(candidate, MAX_WORK)
    return 1.0


def _tokens(payload: object) -> float | None:
    for place in _TOKEN_PLACES:
        for name in _TOKENS:
            if (found := _number(payload, (*place, name))) is not None:
                return found
    return None


def _at(payload: object, path: tuple[str, ...] | list[str]) -> object:
    value = payload
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def _number(payload: object, path: tuple[str, ...] | list[str]) -> float | None:
    value = _at(payload, path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(min(value, MAX_WORK))  # an integer of 400 digits has no float


def _length(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(map(_length, value)) if isinstance(value, list) else 0


def _seconds(payload: object) -> float | None:
    if not isinstance(payload, bytes):
        return None
    from tinytag import TinyTag, TinyTagException  # here, because few workers need it

    try:
        return TinyTag.get(file_obj=io.BytesIO(payload), tags=False).duration
    except TinyTagException:  # no sound, or none that it knows
        return None


def _pixels(payload: object, usual: tuple[float, ...]) -> float | None:
    if not isinstance(payload, dict):
        return None
    nodes = payload.get("prompt")
    if isinstance(nodes, dict):
        return _workflow(list(nodes.values())[:_NODES], usual)
    width, height, steps = usual
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size) if isinstance(size := payload.get("size"), str) else None
    if size is not None:
        width, height = float(size[1]), float(size[2])
    width, height = _number(payload, ("width",)) or width, _number(payload, ("height",)) or height
    steps = _number(payload, ("num_inference_steps",)) or _number(payload, ("steps",)) or steps
    images = _number(payload, ("n",)) or _number(payload, ("num_images_per_prompt",)) or 1.0
    images *= (_number(payload, ("batch_size",)) or 1.0) * (_number(payload, ("n_iter",)) or 1.0)
    return width * height / 1e6 * steps * images


def _workflow(nodes: list[object], usual: tuple[float, ...]) -> float:
    """The steps of all of its samplers, times the largest picture that it begins with."""
    steps, pixels = 0.0, 0.0
    for node in nodes:
        steps += _number(node, ("inputs", "steps")) or 0.0
        sides = _number(node, ("inputs", "width")), _number(node, ("inputs", "height"))
        if sides[0] and sides[1]:
            pixels = max(pixels, sides[0] * sides[1] * (_number(node, ("inputs", "batch_size")) or 1.0))
    return (steps or usual[2]) * (pixels or usual[0] * usual[1]) / 1e6

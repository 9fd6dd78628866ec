"""The adapters (LoRA) that the model server holds, as its list of models says."""

import asyncio
import logging
from typing import Final

import msgspec
from aiohttp import ClientError, ClientSession, ClientTimeout
from yarl import URL

from posthouse.agent.worker import Worker
from posthouse.wire.status import MAX_ADAPTER, MAX_ADAPTERS

log = logging.getLogger(__name__)

_POLL_S: Final = 5.0  # adapters may be loaded and unloaded while it runs
_TIMEOUT = ClientTimeout(total=5)
_MAX_BYTES: Final = 2**20


class _Model(msgspec.Struct):
    id: str
    parent: str | None = None
    """vLLM, SGLang: what it adapts. Source: their `/v1/models`."""
    owned_by: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


_models = msgspec.json.Decoder(_Models)


async def watch_adapters(session: ClientSession, upstream: str, worker: Worker) -> None:
    """Run until cancelled: keep up to date what the worker holds. A model server without such a list is asked once."""
    while (held := await held_adapters(session, upstream)) is not None:
        worker.hold(held)
        await asyncio.sleep(_POLL_S)


async def held_adapters(session: ClientSession, upstream: str) -> tuple[str, ...] | None:
    """Return what to call each adapter as `model`, at most `MAX_ADAPTERS`; None where there is no list of models."""
    url, raw = URL(upstream).join(URL("/v1/models")), b""
    plain = {"Accept-Encoding": "identity"}
    try:
        async with session.get(url, timeout=_TIMEOUT, headers=plain, allow_redirects=False) as answer:
            if answer.status in (404, 405, 501):
                return None
            async for chunk in answer.content.iter_chunked(65_536):
                raw += chunk
                if len(raw) > _MAX_BYTES:
                    return None
        models = _models.decode(raw).data if answer.status == 200 else []
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    except (ClientError, OSError, TimeoutError):
        return ()
    names = sorted({_named(model) for model in models if model.parent})
    good = [name for name in names if 0 < len(name) <= MAX_ADAPTER and name.isprintable()]
    if len(good) < len(names) or len(good) > MAX_ADAPTERS:
        log.warning("adapters: %d of %d are reported", min(len(good), MAX_ADAPTERS), len(names))
    return tuple(good[:MAX_ADAPTERS])


def _named(model: _Model) -> str:
    """SGLang looks for an adapter behind a colon alone; vLLM takes its name as it is."""
    return f"{model.parent}:{model.id}" if model.owned_by == "sglang" and ":" not in model.id else model.id

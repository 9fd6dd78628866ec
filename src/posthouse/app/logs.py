"""How log lines look."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

MAX_TEXT = 10_000
"""Most characters of one text in a log line; a long traceback stays below."""


def _short(_logger: object, _method: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A log entry whose texts are at most `MAX_TEXT` long: some are of others' making."""
    for name, value in entry.items():
        if isinstance(value, str) and len(value) > MAX_TEXT:
            entry[name] = f"{value[:MAX_TEXT]}... and {len(value) - MAX_TEXT} more characters"
    return entry


def configure_logging(level: str, form: str) -> None:
    """Has every log line, ours and those of libraries, go to stderr in one form: `console` or `json`.

    At the level info, libraries are heard from warning on: they narrate.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor]
    if form == "json":
        last = [structlog.processors.format_exc_info, _short, structlog.processors.JSONRenderer()]
    else:
        # Without the values of variables, which may be keys.
        plain = structlog.dev.plain_traceback
        last = [_short, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    handler = logging.StreamHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last], foreign_pre_chain=shared
        )
    )
    logging.basicConfig(handlers=[handler], level="WARNING" if level == "info" else level.upper())
    logging.getLogger("posthouse").setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )

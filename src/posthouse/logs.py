"""Log lines of a gateway and an agent: for people, or as JSON with the id of the request that each is about."""

import json
import logging
import time
from contextvars import ContextVar
from typing import Final, Literal

Form = Literal["console", "json"]
MAX_TEXT: Final = 10_000
"""Most characters of a text in a line; a long traceback stays below."""

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered; empty between requests."""


class JsonLines(logging.Formatter):
    """One object for each line, with the same names as in the server's log."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {"event": record.getMessage()[:MAX_TEXT], "level": record.levelname.lower()}
        entry["timestamp"] = f"{at}.{int(record.msecs):03d}Z"
        if about := request_id.get():
            entry["request_id"] = about
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)[-MAX_TEXT:]
        return json.dumps(entry)


def configure(level: str, form: Form) -> None:
    """Has every line of this process go to stderr."""
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JsonLines() if form == "json" else plain)
    logging.basicConfig(level=level.upper(), handlers=[handler])

"""What the parts of the settings have in common."""

import re

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """What the parts of the tree have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def url(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s,?#]+", text):
        raise ValueError("should be one URL that begins with http:// or https://, without a query")
    return text.rstrip("/")


def url_or_none(text: str) -> str:
    return url(text) if text else ""

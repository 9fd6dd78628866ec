"""What the table of a provider of type `vast` may say."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from posthouse.config import ProviderSettings
from posthouse.errors import BadRequest
from posthouse.wire.search import parse_search


def _search(text: str) -> str:
    try:
        parse_search(text)
    except BadRequest as error:
        raise ValueError(f"cannot be read: {error}") from None
    return text


def _market(text: str) -> str:
    if not text.startswith(("http://", "https://")) or any(c in text for c in "?# "):
        raise ValueError("should begin with http:// or https://, without a query")
    return text.rstrip("/")


class VastSettings(ProviderSettings):
    """Workers as instances of the GPU market Vast.ai."""

    catalog_s: float = Field(120.0, ge=0.05, le=86_400, description="Time between two looks at its offers, in seconds.")
    api_key: str = Field(min_length=1, max_length=512, repr=False, description="Key of the account that pays.")
    url: Annotated[str, AfterValidator(_market)] = Field("https://console.vast.ai", description="URL of the market.")
    search: Annotated[str, AfterValidator(_search)] = Field(
        "verified=true external=false rentable=true rented=false",
        description="Which offers are looked at: a search of the market, as text or as a JSON object. Workergroups "
        "choose among them.",
    )
    max_offers: int = Field(1000, ge=1, le=20_000, description="Most offers that are looked at, the cheapest.")
    rent: Literal["on-demand", "bid", "both"] = Field(
        "on-demand",
        description="What is rented: machines at their price, or interruptible ones by a bid, which others may outbid.",
    )
    bid_over: float = Field(
        0.1, ge=0, le=10, description="How much more than the lowest winning bid is bid, as a share of it."
    )
    max_bid_usd_h: float = Field(
        0.0, ge=0, le=1e4, description="Most that is bid, in US dollars per hour and machine; 0: no limit of its own."
    )
    image: str = Field("", description="Image of the workers whose template names none.")
    pace: float = Field(
        1.0,
        ge=0,
        le=100,
        description="How much is kept of the intervals that the market asks for between two calls of a kind; above 1 "
        "for a key that others use, too.",
    )
    call_s: float = Field(60.0, gt=0, le=600, description="Longest wait for an answer of the market, in seconds.")

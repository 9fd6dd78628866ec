"""What the table of a provider of type `skypilot` may say."""

from typing import Annotated

from pydantic import AfterValidator, Field

from posthouse.config import ProviderSettings


def _server(text: str) -> str:
    if not text.startswith(("http://", "https://")) or any(c in text for c in "?# "):
        raise ValueError("should begin with http:// or https://, without a query")
    return text.rstrip("/")


class SkypilotSettings(ProviderSettings):
    """Workers as clusters of SkyPilot, on the clouds that its API server may use."""

    poll_s: float = Field(30.0, ge=0.05, le=600, description="Time between two lists of its workers, in seconds.")
    catalog_s: float = Field(600.0, ge=0.05, le=86_400, description="Time between two looks at its offers, in seconds.")
    url: Annotated[str, AfterValidator(_server)] = Field(
        "http://127.0.0.1:46580", description="URL of SkyPilot's API server."
    )
    token: str = Field("", max_length=4096, repr=False, description="Token of a service account of it, if it asks.")
    clouds: str = Field(
        "", description="Clouds that are looked at, with commas between; default: every one that the server may use."
    )
    spot: bool = Field(False, description="Whether machines are offered, too, that their cloud may take away.")
    room: int = Field(
        4, ge=1, le=1000, description="How many workers each offer is taken to have room for: no cloud says that."
    )
    disk_usd_gb_month: float = Field(
        0.1, ge=0, le=100, description="What a GB of disk costs in a month, which SkyPilot's catalogue does not say."
    )
    image: str = Field("", description="Container image of the workers whose template names none; empty: the cloud's.")
    call_s: float = Field(100.0, gt=0, le=3600, description="Longest wait for an answer of the server, in seconds.")
    launch_s: float = Field(
        5.0, ge=0, le=3600, description="How long a launch is waited for, in seconds; it goes on after that."
    )

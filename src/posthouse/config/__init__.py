"""The settings: `models` says what there is, `loading` where values come from."""

from posthouse.config.loading import FILE_NAME, load_settings
from posthouse.config.models import (
    ENV_PREFIX,
    LEAVES,
    Engine,
    Limits,
    Money,
    ProviderSettings,
    Rates,
    Server,
    Settings,
    allowed,
    env_name,
    known_settings,
    make_data_dir,
    shown,
    value_of,
)
from posthouse.config.oidc import Oidc
from posthouse.config.section import Section

__all__ = [
    "ENV_PREFIX",
    "FILE_NAME",
    "LEAVES",
    "Engine",
    "Limits",
    "Money",
    "Oidc",
    "ProviderSettings",
    "Rates",
    "Section",
    "Server",
    "Settings",
    "allowed",
    "env_name",
    "known_settings",
    "load_settings",
    "make_data_dir",
    "shown",
    "value_of",
]

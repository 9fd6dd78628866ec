"""Settings of an OpenID provider, and who of its people may enter."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from posthouse.config.section import Section, url_or_none


def _issuer(text: str) -> str:
    if text and not re.fullmatch(r"(https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/])[^\s,?#]+", text):
        raise ValueError("should be a URL that begins with https://, without a query")
    return text


def _admit(line: str) -> tuple[str, str, str] | None:
    """Who may enter, with what scope, and which account, as a line says; None if it cannot be read."""
    who, _, what = (part.strip() for part in line.rpartition("="))
    scope, _, account = what.partition(" ")
    named = who.startswith("group:") and len(who) > 6
    if scope not in ("read", "operate", "admin") or not (named or re.fullmatch(r"[^\s@]*@[^\s@]+", who)):
        return None
    return who if named else who.casefold(), scope, account.strip() or "default"


def _admits(lines: list[str]) -> list[str]:
    for line in lines:
        if _admit(line) is None:
            raise ValueError("should say `WHO = SCOPE` or `WHO = SCOPE ACCOUNT`, as `@example.com = read`")
    return lines


class Oidc(Section):
    """One OpenID provider, whose people may sign in to the console. Without an issuer there is none."""

    issuer: Annotated[str, AfterValidator(_issuer)] = Field(
        "", description="The provider's URL, as its tokens have it: https, or this machine. Empty: there is none."
    )
    client_id: str = Field("", max_length=255, description="What the provider calls this installation.")
    client_secret: str = Field("", max_length=1024, repr=False, description="The secret that goes with it, if any.")
    name: str = Field("single sign-on", min_length=1, max_length=64, description="What the console's button says.")
    scopes: str = Field("openid email profile", max_length=255, description="What the provider is asked for.")
    groups_claim: str = Field("groups", max_length=64, description="Which claim has somebody's groups.")
    url: Annotated[str, AfterValidator(url_or_none)] = Field(
        "", description="URL at which browsers reach the server; default: `public_url`."
    )
    admit: Annotated[list[str], AfterValidator(_admits)] = Field(
        [],
        validate_default=True,
        description="Who may enter, the first that fits: `WHO = SCOPE` or `WHO = SCOPE ACCOUNT`, where WHO is a "
        "verified address of e-mail, `@DOMAIN` or `group:NAME`, and SCOPE is read, operate or admin. Nobody else may.",
    )

    def admits(self) -> list[tuple[str, str, str]]:
        """Who may enter, with scope and account."""
        return [parsed for line in self.admit if (parsed := _admit(line)) is not None]

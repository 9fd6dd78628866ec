"""Errors, split by what the caller does next and not by who failed."""

import math


class PosthouseError(Exception):
    """Anything that Posthouse raises on purpose."""


class BadRequest(PosthouseError):
    """The caller must change the request. The text names the field, the problem and what is allowed."""


class Unauthorized(PosthouseError):
    """The caller must show another key."""


class NotFound(PosthouseError):
    """The caller named something that does not exist."""


class StaleVersion(PosthouseError):
    """Somebody else wrote in between: read again, then decide again."""


class PreconditionFailed(StaleVersion):
    """It is not as the caller said that it must be: read again, then decide again."""


class OfferTaken(PosthouseError):
    """The offer is gone and nothing was made: take the next one."""


class Busy(PosthouseError):
    """Ask again after `retry_after_s` seconds."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s

    @property
    def retry_after_whole_s(self) -> int:
        """The same in whole seconds, at least 1, as the header Retry-After has it."""
        return max(1, math.ceil(self.retry_after_s))


class TooMany(Busy):
    """The caller calls more often than it may."""


class Unavailable(Busy):
    """Something that this server needs fails: its database. Nothing was changed; an operator may have to act."""


class Elsewhere(Unavailable):
    """Another server has what the caller asks for: it is to be passed on, or to be asked for again."""

    def __init__(self, message: str, retry_after_s: float = 1.0, *, endpoint_id: int = 0, worker_id: int = 0) -> None:
        """What is asked for: an endpoint, or a worker of which only its id is known."""
        super().__init__(message, retry_after_s)
        self.endpoint_id = endpoint_id
        self.worker_id = worker_id


class Refused(PosthouseError):
    """The provider refuses for good and nothing was made: an operator must act (no credit, no right, bad template)."""


class IllegalMove(PosthouseError):
    """A command that the lifecycle tables do not allow: our own bug. This tick fails, routing goes on."""

"""The envelopes of the protocol's answers; what is in them is in `wire.rows`."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from posthouse.wire import rows


class Done(BaseModel):
    """It is done."""

    success: Literal[True] = True


class Error(BaseModel):
    """What is wrong with a call."""

    success: Literal[False] = False
    error: str = Field(description="A word for programs.")
    msg: str = Field(description="A sentence for people.")


class Created(Done):
    """The id of what was made."""

    result: int


class CreatedWorkergroup(Done):
    """The id of what was made."""

    id: int


class Deleted(Done):
    """It is deleted; its workers finish what they have and are destroyed."""

    deleted_workers: int
    failed_workers: int = Field(0, description="Always 0: workers are destroyed afterwards, and again until it works.")
    msg: str

    @classmethod
    def of(cls, workers: int) -> Self:
        """The reply to a deletion with which as many workers go."""
        return cls(deleted_workers=workers, msg=f"deleted; {workers} workers finish what they have and go")


class Message(Done):
    """It is done."""

    msg: str


class OneEndpoint(Done):
    result: rows.Endpoint


class SeveralEndpoints(Done):
    results: list[rows.Endpoint]


class OneWorkergroup(Done):
    result: rows.Workergroup


class SeveralWorkergroups(Done):
    results: list[rows.Workergroup]


class OneTemplate(Message):
    template: rows.Template


class SeveralTemplates(Done):
    templates_found: int
    templates: list[rows.Template]


class WorkersUpdated(BaseModel):
    """Whether the update has begun, and of how many workers."""

    success: bool
    cancelled: bool | None = None
    workers_to_update: int | None = None
    error_msg: str | None = None


class Secrets(Done):
    secrets: dict[str, str] = Field(description="Values by name.")


class Offers(Done):
    offers: list[rows.Offer]


class OneInstance(Done):
    instances: rows.Instance


class SeveralInstances(Done):
    instances: list[rows.Instance]
    total_instances: int
    next_token: str | None = Field(description="To be sent as `after_token` for the rest; null at the end.")


class Benchmarks(Done):
    """No row: what a worker measured is shown with the worker, and not kept for others to reuse."""

    benchmarks_found: int = 0
    benchmarks: list[str] = []
    next_token: str | None = None

"""What the management API answers: the server writes these, the client reads them, the OpenAPI document names them.

Names of fields are the protocol's where it has the call, and our own under `/v1`. Times are epoch seconds.
"""

from posthouse.wire.rows.decisions import (
    Decision,
    Explanation,
    JournalEntry,
    MachineKind,
    Reason,
    Rental,
    Segment,
    Traffic,
    WorkerCounts,
)
from posthouse.wire.rows.own import (
    Account,
    EndpointKey,
    Key,
    MintedKey,
    MoneyLeft,
    Orphan,
    Provider,
    ProviderCheck,
    RankedOffer,
    Standing,
    Status,
    Worker,
    WorkerLogs,
)
from posthouse.wire.rows.protocol import (
    Endpoint,
    EventLogs,
    Instance,
    Offer,
    Template,
    User,
    Workergroup,
    WorkerMetrics,
)

__all__ = [
    "Account",
    "Decision",
    "Endpoint",
    "EndpointKey",
    "EventLogs",
    "Explanation",
    "Instance",
    "JournalEntry",
    "Key",
    "MachineKind",
    "MintedKey",
    "MoneyLeft",
    "Offer",
    "Orphan",
    "Provider",
    "ProviderCheck",
    "RankedOffer",
    "Reason",
    "Rental",
    "Segment",
    "Standing",
    "Status",
    "Template",
    "Traffic",
    "User",
    "Worker",
    "WorkerCounts",
    "WorkerLogs",
    "WorkerMetrics",
    "Workergroup",
]

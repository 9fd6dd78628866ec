"""What every request of a gateway uses."""

from dataclasses import dataclass, field

from posthouse.gateway.aliases import Aliases
from posthouse.gateway.externals import Externals
from posthouse.gateway.learned import Learned
from posthouse.gateway.metrics import Measured
from posthouse.gateway.records import Records
from posthouse.gateway.repeats import Repeats
from posthouse.gateway.retries import Retries
from posthouse.gateway.server import Server
from posthouse.gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Ways:
    """One for each gateway."""

    settings: GatewaySettings
    server: Server
    records: Records
    retries: Retries = field(default_factory=Retries)
    repeats: Repeats = field(default_factory=Repeats)
    learned: Learned = field(default_factory=Learned)
    aliases: Aliases = field(default_factory=Aliases)
    externals: Externals = field(default_factory=Externals)
    measured: Measured = field(default_factory=Measured)

"""What is counted, and the text in which Prometheus reads it.

Counting is an addition or two; all else is done when somebody reads. A page of 10,000 samples takes a tenth of what
the library `prometheus_client` takes for it, and it is made in the event loop that routes.
"""

import os
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
QUICK_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for what takes microseconds or, held open, seconds."""
CALL_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bounds for calls of others and answers of models."""
LONG_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 3600.0)
"""Bounds for what waits for machines."""

STARTED_AT: Final = time.time()


class Histogram:
    """How many values were at most as large as each bound."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By the first bound that holds; the last of all that are larger."""
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """Of all values."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name, its kind, what it says, and the names of its labels."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...] = ()


class Families:
    """The metrics of one page, in their order."""

    def __init__(self) -> None:
        self.all: list[Family] = []

    def gauge(self, name: str, text: str, *labels: str) -> Family:
        return self._add(Family(name, "gauge", text, labels))

    def counter(self, name: str, text: str, *labels: str) -> Family:
        return self._add(Family(name, "counter", text, labels))

    def histogram(self, name: str, text: str, *labels: str) -> Family:
        return self._add(Family(name, "histogram", text, labels))

    def process(self, who: str) -> None:
        """Adds what any program tells of its process, by the names that Prometheus has for it."""
        self.counter("process_cpu_seconds_total", f"Processor time of the {who}, user and system.")
        self.gauge("process_resident_memory_bytes", f"Memory of the {who}.")
        self.gauge("process_open_fds", f"Open file descriptors of the {who}.")
        self.gauge("process_start_time_seconds", f"When the {who} began, in seconds since the epoch.")

    def _add(self, family: Family) -> Family:
        self.all.append(family)
        return family


class Page:
    """A page that is being written."""

    def __init__(self, families: Families) -> None:
        self._lines: dict[str, list[str]] = {
            f.name: [f"# HELP {f.name} {f.text}", f"# TYPE {f.name} {f.kind}"] for f in families.all
        }

    def add(self, family: Family, value: float | Histogram, *labels: str) -> None:
        """Adds a sample with the values of its labels."""
        lines, name = self._lines[family.name], family.name
        named = ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(family.labels, labels, strict=True))
        if not isinstance(value, Histogram):
            lines.append(f"{name}{{{named}}} {_number(value)}" if named else f"{name} {_number(value)}")
            return
        before, so_far = f"{named}," if named else "", 0
        for bound, count in zip((*value.bounds, float("inf")), value.counts, strict=True):
            so_far += count
            lines.append(f'{name}_bucket{{{before}le="{_number(bound)}"}} {so_far}')
        of_it = f"{{{named}}}" if named else ""
        lines += (f"{name}_sum{of_it} {_number(value.sum)}", f"{name}_count{of_it} {so_far}")

    def add_process(self) -> None:
        """Adds the samples of `Families.process`, which has them last."""
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        files = len(os.listdir("/proc/self/fd"))
        values = time.process_time(), pages * os.sysconf("SC_PAGE_SIZE"), files, STARTED_AT
        for name, value in zip(list(self._lines)[-len(values) :], values, strict=True):
            self._lines[name].append(f"{name} {_number(value)}")

    def text(self) -> bytes:
        """All of it."""
        return "".join(f"{line}\n" for lines in self._lines.values() for line in lines).encode()


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return "-Inf" if value == float("-inf") else repr(float(value)) if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    if "\\" in text or '"' in text or "\n" in text:
        return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return text

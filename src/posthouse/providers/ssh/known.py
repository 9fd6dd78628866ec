"""What is known of boxes: the list of each as it was last seen, kept in a file, so that silence is never absence."""

import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import structlog

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation

log = structlog.get_logger()

Boxes = dict[str, dict[str, Instance]]


class Known:
    """By box, its instances by label. A box that was never listed is not among them."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        """`names`: of the boxes that there are by the settings; what is known of others is forgotten."""
        self._path = path
        found = _read(path)
        self._boxes = {name: found[name] for name in names if name in found}
        for name in found.keys() - self._boxes.keys():
            if found[name]:
                log.warning(
                    "a box is no longer in the settings, and its workers are lost", box=name, workers=[*found[name]]
                )
        self._making: set[str] = set()
        """Labels of those that are being made: a list may be older than they are."""

    def listed(self, box: str) -> Sequence[Instance] | None:
        """What the box had when it was last seen; None if it never was."""
        return list(self._boxes[box].values()) if box in self._boxes else None

    def box_of(self, label: str) -> str:
        """The box that an instance is on, or will be; empty if none is known."""
        return next((box for box, instances in self._boxes.items() if label in instances), "")

    def see(self, box: str, instances: Iterable[Instance]) -> None:
        """Takes in a complete list of a box. Raises: OSError."""
        before = self._boxes.get(box, {})
        making = {label: before[label] for label in self._making if label in before}
        self._replace(box, making | {instance.label: instance for instance in instances})

    def begin(self, box: str, label: str) -> None:
        """Notes that an instance is about to be made. Raises: OSError."""
        self._making.add(label)
        if label in self._boxes.get(box, {}):
            return
        instance = Instance(
            label, label, Observation.PROVISIONING, message="it was being made when it was last heard of"
        )
        self._replace(box, {**self._boxes.get(box, {}), label: instance})

    def end(self, label: str) -> None:
        """Notes that its making has an end, whatever came of it."""
        self._making.discard(label)

    def place(self, box: str, instance: Instance) -> None:
        """Notes an instance. Raises: OSError."""
        self._replace(box, {**self._boxes.get(box, {}), instance.label: instance})

    def forget(self, box: str, label: str) -> None:
        """Notes that an instance is gone. Raises: OSError."""
        self._replace(box, {other: i for other, i in self._boxes.get(box, {}).items() if other != label})

    def _replace(self, box: str, instances: dict[str, Instance]) -> None:
        before = self._boxes.get(box)
        self._boxes[box] = instances
        if before is None or _kept(before) != _kept(instances):
            _write(self._path, self._boxes)


def _kept(instances: dict[str, Instance]) -> dict[str, tuple[Observation, frozenset[str]]]:
    """What is worth a write when it changes."""
    return {label: (instance.seen, instance.addresses) for label, instance in instances.items()}


def _read(path: Path) -> Boxes:
    """Empty if there is none. A broken one is as none: each box must be seen once before a list is complete."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Boxes)
    except FileNotFoundError:
        return {}
    except Exception as error:  # noqa: BLE001 - the seam of a file: whatever is wrong with it, boxes are asked again
        log.warning("what was known of boxes cannot be read", file=str(path), error=repr(error)[:200])
        return {}


def _write(path: Path, boxes: Boxes) -> None:
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        # Not synced: that would hold up the loop, and a file that a crash of the system left broken is as none.
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(msgspec.json.encode(boxes))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)

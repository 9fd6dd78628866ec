"""A worker as it is listed: what its record and its Pod say of it, in Posthouse's words.

What a cluster says may be of another version, or changed on the way: what is missing is left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from posthouse.domain.instance import Instance
from posthouse.domain.lifecycle import Observation
from posthouse.hosts import in_url
from posthouse.providers.kubernetes import objects

Json = Mapping[str, Any]

NO_IMAGE: Final = ("InvalidImageName", "ErrImageNeverPull", "ImagePullBackOff", "ErrImagePull", "ImageInspectError")
BROKEN: Final = {
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImagePullBackOff",
}
"""Why a container waits that will not start by itself."""
DENIED: Final = ("unauthorized", "authentication required", "denied", "no basic auth", "forbidden", "401", "403")
ABSENT: Final = ("not found", "manifest unknown", "name unknown", "does not exist", "no such image")
NO_SHELL: Final = ('exec: "/bin/sh"', "exec /bin/sh: no such file", "stat /bin/sh")
GONE: Final = "its Pod is gone: evicted, preempted or deleted, or lost with its node"
TAKEN: Final = {
    "PreemptionByScheduler": "preempted by a Pod of higher priority",
    "DeletionByTaintManager": "driven from its node by a taint",
    "EvictionByEvictionAPI": "evicted, as when a node is drained",
    "DeletionByPodGC": "removed, as its node is gone",
    "TerminationByKubelet": "ended by its node",
    "Evicted": "evicted by its node",
    "Preempting": "preempted by its node",
    "Preempted": "preempted by its node",
    "NodeShutdown": "ended, as its node was shut down",
    "Shutdown": "ended, as its node was shut down",
    "Terminated": "ended, as its node was shut down",
    "NodeLost": "lost with its node",
}
"""Why a Pod may end that has not failed by itself: the machine, or its place there, was taken away."""
MESSAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of a worker, with or without a Pod."""

    label: str
    offer_id: str = ""
    generation: int = 0
    halted: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A worker as its cluster lists it."""

    record: Record
    pod: Json | None = None

    @property
    def active(self) -> bool:
        """Whether it holds its place."""
        return not self.record.halted or (self.pod is not None and not ended(self.pod))


def outdated(worker: Found) -> bool:
    """Whether its Pod is of before an update that was begun."""
    return worker.pod is not None and record_of(worker.pod).generation != worker.record.generation


def record_of(item: Json) -> Record:
    meta = _part(item, "metadata")
    told = _part(meta, "annotations")
    generation = str(told.get(objects.GENERATION, ""))
    return Record(
        str(meta.get("name") or ""),
        str(told.get(objects.OFFER) or ""),
        int(generation) if generation.isdecimal() else 0,
        told.get(objects.HALTED) == "yes",
    )


def ended(pod: Json) -> bool:
    return _part(pod, "status").get("phase") in ("Succeeded", "Failed")


def addresses(pod: Json) -> frozenset[str]:
    """Where its ports are reached; none before that is known."""
    told, status = _part(_part(pod, "metadata"), "annotations"), _part(pod, "status")
    host = str(told.get(objects.HOST) or "")
    if "://" in host:
        return frozenset({host})
    host = str(status.get("hostIP" if host == objects.NODE else "podIP") or "") if host in ("", objects.NODE) else host
    ports = objects.ports_of(pod).values()
    return frozenset(f"{in_url(host)}:{port}" for port in ports) if host else frozenset()


def instance(worker: Found, making: str, keeps: bool, cause: str) -> Instance:
    """The instance as it is listed.

    `making`: what a call of ours waits for that has not made its Pod yet. `keeps`: whether its volume outlives its Pod.
    `cause`: why its image was not pulled, as an earlier list said.
    """
    label, pod = worker.record.label, worker.pod
    if pod is None:
        if making:
            seen, message = Observation.PROVISIONING, making
        elif worker.record.halted:
            seen, message = Observation.HALTED, ""
        else:  # its volume is there, as if it had been stopped
            seen, message = Observation.HALTED if keeps else Observation.EXITED, GONE
        return Instance(id=label, label=label, seen=seen, progress=message, message=message)
    seen, message = _seen(worker, pod, keeps, cause)
    return Instance(
        id=label,
        label=label,
        seen=seen,
        addresses=addresses(pod),
        progress=message if seen in (Observation.PROVISIONING, Observation.PULLING) else "",
        message=message[:MESSAGE],
    )


def _seen(worker: Found, pod: Json, keeps: bool, cause: str) -> tuple[Observation, str]:
    phase, ending = _part(pod, "status").get("phase"), bool(_part(pod, "metadata").get("deletionTimestamp"))
    interrupted = Observation.HALTED if keeps else Observation.EXITED
    why = taken(pod)
    if ended(pod):
        if worker.record.halted:
            return Observation.HALTED, ""
        return (interrupted, why) if why else (Observation.EXITED, last_words(pod))
    if outdated(worker):
        return interrupted, "its update was cut short"
    if why or (ending and not worker.record.halted):  # it may still end what it has, and gets nothing new
        return interrupted, why or "interrupted: its Pod is being deleted"
    if broken := _broken(pod, cause):
        return Observation.EXITED, broken
    if phase == "Running":
        return Observation.RUNNING, ""
    if phase != "Pending":
        return Observation.EXITED, "its node does not answer"
    placed = _condition(pod, "PodScheduled")
    if placed.get("status") == "True":
        waits = next(filter(None, (_waiting(one)[1] for one in statuses(pod))), "")
        return Observation.PULLING, (cause or waits)[:MESSAGE]
    return Observation.PROVISIONING, f"no node has room for it: {placed['message']}" if placed.get("message") else ""


def taken(pod: Json) -> str:
    """Why a Pod ends or has ended whose place was taken away; empty if it was not."""
    status = _part(pod, "status")
    for one in (_condition(pod, "DisruptionTarget"), status):
        reason = str(one.get("reason") or "")
        if reason in TAKEN and one.get("status", "True") == "True":
            return _sentence(f"interrupted: {TAKEN[reason]}", one.get("message"))
    return ""


def pull_error(pod: Json) -> str:
    """Why its image cannot be pulled, as kubelets say it at each try; empty between the tries."""
    for one in statuses(pod):
        reason, message = _waiting(one)
        if reason == "ErrImagePull" and message:
            return _image_trouble(str(one.get("image") or ""), message)
    return ""


def last_words(pod: Json) -> str:
    """How it ended, and what it printed last."""
    status = _part(pod, "status")
    for one in statuses(pod):
        done = _part(_part(one, "state"), "terminated")
        if not done or (one.get("name") != "worker" and done.get("exitCode") == 0):
            continue
        printed = " | ".join(line.strip() for line in str(done.get("message") or "").splitlines() if line.strip())
        reason = str(done.get("reason") or "")
        code = f"exit code {done.get('exitCode')}"
        if any(words in printed for words in NO_SHELL):
            return f"the image has no /bin/sh, which every worker needs; {code}"
        if reason == "OOMKilled":
            code = "out of memory"
        if one.get("name") != "worker":
            code = f"its container {one.get('name')} failed with {code}"
        return f"{code}; the last output: {printed[-400:]}" if printed else f"{code}, without any output"
    return _sentence(str(status.get("reason") or "it ended"), status.get("message"))


def statuses(pod: Json) -> list[Json]:
    """Of its containers, those first that run before the worker."""
    status = _part(pod, "status")
    found = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    return [one for one in found if isinstance(one, dict)]


def _broken(pod: Json, cause: str) -> str:
    """What keeps a container from starting for good; empty if nothing does."""
    for one in statuses(pod):
        reason, message = _waiting(one)
        if reason not in BROKEN:
            continue
        if reason in NO_IMAGE:
            return cause or _image_trouble(str(one.get("image") or ""), message or reason)
        if reason == "CrashLoopBackOff":
            before = _part(_part(one, "lastState"), "terminated")
            return f"its container {one.get('name')} ends again and again, with exit code {before.get('exitCode')}"
        return _sentence(f"its container {one.get('name')} cannot be made ({reason})", message)
    return ""


def _image_trouble(image: str, message: str) -> str:
    low = message.lower()
    if any(words in low for words in DENIED):
        said = "its registry refuses it; add or mend the secret REGISTRY_LOGIN, `HOST USER PASSWORD`"
    elif any(words in low for words in ABSENT):
        said = "there is no such image"
    else:
        return f"image {image}: {message}"[:MESSAGE]
    return f"image {image}: {said} ({message})"[:MESSAGE]


def _waiting(status: Json) -> tuple[str, str]:
    """Why a container waits: the reason, and what is said of it."""
    waiting = _part(_part(status, "state"), "waiting")
    return str(waiting.get("reason") or ""), str(waiting.get("message") or "")


def _condition(pod: Json, kind: str) -> Json:
    found: Sequence[Any] = _part(pod, "status").get("conditions") or ()
    return next((one for one in found if isinstance(one, dict) and one.get("type") == kind), {})


def _part(item: Json, name: str) -> Json:
    value = item.get(name)
    return value if isinstance(value, dict) else {}


def _sentence(what: str, message: object) -> str:
    return f"{what}: {' '.join(str(message).split())}"[:MESSAGE] if message else what


def found(records: Iterable[Json], pods: Iterable[Json]) -> dict[str, Found]:
    """Every worker by its label: of a record, of a Pod, or of both."""
    by_name = {str(_part(pod, "metadata").get("name")): pod for pod in pods}
    workers = {record.label: Found(record, by_name.get(record.label)) for record in map(record_of, records)}
    return {name: Found(record_of(pod), pod) for name, pod in by_name.items()} | workers

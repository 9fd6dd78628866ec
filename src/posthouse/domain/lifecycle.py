"""The life of a worker, as tables: what may happen in which state, and what to do about it.

A worker has two facets: what we see (`State`) and what we want (`Goal`). Decisions write goals,
observations write states, and `next_command` says which command moves the one toward the other. The engine is
level-triggered: it looks, compares and acts again, so a crash between two looks loses nothing.

A *command* that `TRANSITIONS` does not allow is our own bug and raises `IllegalMove`. An *observation* that it does not
allow is late, repeated or out of order: the state stays as it is, and the caller counts it unless it is a repeat.
"""

from enum import StrEnum

from posthouse.domain.offer import ALL_CAPABILITIES, Capabilities
from posthouse.errors import IllegalMove


class State(StrEnum):
    """What we see of a worker. The values are the protocol's status words, but for WANTED and DESTROYED."""

    WANTED = "wanted"  # an intent that no provider has been asked about yet; counts, but never goes on the wire
    CREATING = "creating"  # the provider was asked to create an instance
    LOADING = "loading"  # the instance pulls or unpacks what it runs
    MODEL_LOADING = "model_loading"  # it runs, and loads the model for the first time
    IDLE = "idle"  # ready: it serves, or could
    STOPPING = "stopping"
    STOPPED = "stopped"  # cold: the model stays on disk
    STARTING = "starting"  # a worker that was ready once comes back
    UPDATE_REBOOTING = "update_rebooting"  # it served, and comes back with what its template says now
    UPDATE_STARTING = "update_starting"  # it took no requests, and starts with what its template says now
    UNAVAIL = "unavail"  # it fell silent or its instance died; it may yet come back
    ERROR = "error"  # it said that it failed, or it overstayed: it will be replaced
    DESTROYING = "destroying"
    DESTROYED = "destroyed"  # the only end; never on the wire


class Goal(StrEnum):
    """What we want of a worker."""

    HOT = "hot"  # ready, taking requests
    COLD = "cold"  # stopped, with its model on disk
    UPDATED = "updated"  # with what its template says now, and then hot or cold again
    GONE = "gone"  # destroyed


class Command(StrEnum):
    """What we ask of a provider."""

    RENT = "rent"
    START = "start"
    STOP = "stop"
    UPDATE = "update"
    DESTROY = "destroy"


class Observation(StrEnum):
    """What the world shows us of a worker."""

    PROVISIONING = "provisioning"  # the provider lists it: accepted, nothing runs yet
    PULLING = "pulling"  # the provider lists it: pulls or unpacks
    RUNNING = "running"  # the provider lists it: running
    HALTED = "halted"  # the provider lists it: stopped, as if by our order
    EXITED = "exited"  # the provider lists it: it died by itself, or its host is away
    ABSENT = "absent"  # a complete listing does not have it
    REPORTED_LOADING = "reported_loading"  # the worker reports, and is not ready
    REPORTED_READY = "reported_ready"
    REPORTED_ERROR = "reported_error"
    SILENT = "silent"  # no report for too long
    OVERDUE = "overdue"  # it stayed in a transient state past its deadline
    USELESS = "useless"  # it is well by all that it says, and no request ends well there
    FAILED = "failed"  # the provider refused or broke our last command


DEATHS = (Observation.REPORTED_ERROR, Observation.REPORTED_LOADING, Observation.EXITED)
"""What shows that a worker died at work. One that falls silent, or is taken away, may have lost its network or host."""

Event = Command | Observation

UPDATING = frozenset({State.UPDATE_REBOOTING, State.UPDATE_STARTING})

EXISTS = frozenset(State) - {State.WANTED, State.DESTROYED}
"""Its provider may have an instance of it."""

_BORN = frozenset({State.CREATING, State.LOADING, State.MODEL_LOADING})
"""Rented, and not ready yet for the first time."""

COMING = _BORN | UPDATING | {State.WANTED, State.STARTING}
"""On the way to IDLE."""

SERVING = frozenset({State.IDLE, State.ERROR})
"""States in which requests may still be served: a worker that reported an error often serves on."""

STATE_TIMEOUT_S: dict[State, float] = {
    # How long a transient state may last without any sign of progress before it counts as stuck, in seconds.
    # Chosen for machines that pull 10 to 100 GB over 0.1 to 1 GB/s; progress restarts the clock, which begins with the
    # answer to the command that led there.
    State.CREATING: 300.0,
    State.LOADING: 600.0,
    State.MODEL_LOADING: 900.0,
    State.STARTING: 600.0,
    State.UPDATE_REBOOTING: 900.0,  # as long as a first load: what is new may be the model
    State.UPDATE_STARTING: 900.0,
    State.STOPPING: 120.0,
    State.UNAVAIL: 60.0,
    State.DESTROYING: 60.0,
}

MAX_PROGRESS_FACTOR = 6.0
"""How many times its timeout a transient state may last in all, whatever progress it shows: the machine is billed."""


_MOVES: dict[Event, dict[State, State]] = {
    # What follows in which state. In all other states a command is illegal, and an observation means nothing.
    Command.RENT: {State.WANTED: State.CREATING},
    Command.START: {State.STOPPED: State.STARTING},
    Command.STOP: dict.fromkeys((State.IDLE, State.STARTING), State.STOPPING),
    Command.UPDATE: {
        **dict.fromkeys((State.MODEL_LOADING, State.STOPPED, State.STARTING), State.UPDATE_STARTING),
        State.IDLE: State.UPDATE_REBOOTING,
    },
    Command.DESTROY: {
        **dict.fromkeys(EXISTS - {State.DESTROYING}, State.DESTROYING),
        State.WANTED: State.DESTROYED,  # no provider was asked, so nothing can exist
    },
    Observation.PROVISIONING: {},
    Observation.PULLING: {State.CREATING: State.LOADING},
    Observation.RUNNING: {
        **dict.fromkeys((State.CREATING, State.LOADING), State.MODEL_LOADING),
        State.STOPPED: State.STARTING,  # started behind our back, or by an order whose answer we lost
    },
    # Not of one that is starting: a listing taken just before the start took effect would undo it.
    Observation.HALTED: {
        **dict.fromkeys(_BORN, State.ERROR),
        **dict.fromkeys(UPDATING, State.STOPPED),  # the server died between its end and its new start
        **dict.fromkeys((State.IDLE, State.STOPPING), State.STOPPED),  # also behind our back, by its owner or by spot
    },
    Observation.EXITED: {
        **dict.fromkeys(_BORN | UPDATING, State.ERROR),
        **dict.fromkeys((State.IDLE, State.STOPPING, State.STOPPED, State.STARTING), State.UNAVAIL),
    },
    Observation.ABSENT: dict.fromkeys(EXISTS, State.DESTROYED),
    Observation.REPORTED_LOADING: {
        **dict.fromkeys((State.CREATING, State.LOADING), State.MODEL_LOADING),
        State.IDLE: State.STARTING,  # its server started over inside the same instance
    },
    Observation.REPORTED_READY: dict.fromkeys((COMING | {State.UNAVAIL}) - {State.WANTED}, State.IDLE),
    Observation.REPORTED_ERROR: dict.fromkeys((COMING | {State.IDLE, State.UNAVAIL}) - {State.WANTED}, State.ERROR),
    Observation.SILENT: {State.IDLE: State.UNAVAIL},
    Observation.USELESS: {State.IDLE: State.ERROR},
    Observation.OVERDUE: dict.fromkeys(STATE_TIMEOUT_S, State.ERROR),  # in DESTROYING it is destroyed again
    # A clear refusal: it is as it was. One that loaded is listed as running again, and so goes on.
    Observation.FAILED: {
        State.CREATING: State.DESTROYED,
        State.STOPPING: State.IDLE,
        State.STARTING: State.STOPPED,
        State.UPDATE_REBOOTING: State.IDLE,
        State.UPDATE_STARTING: State.STOPPED,
        State.DESTROYING: State.ERROR,
    },
}

TRANSITIONS: dict[State, dict[Event, State]] = {
    state: {event: moves[state] for event, moves in _MOVES.items() if state in moves} for state in State
}
"""The same by state."""

NOTHING_NEW: dict[Observation, frozenset[State]] = {
    # The states of which an observation tells nothing but what is known. In any other it is late or a contradiction.
    Observation.PROVISIONING: frozenset({State.CREATING}) | UPDATING,
    Observation.PULLING: frozenset({State.LOADING}) | UPDATING,
    Observation.RUNNING: EXISTS - {State.CREATING, State.LOADING, State.STOPPED},
    Observation.HALTED: frozenset({State.STOPPED, State.ERROR, State.DESTROYING}),
    Observation.EXITED: frozenset({State.UNAVAIL, State.ERROR, State.DESTROYING}),
    Observation.REPORTED_LOADING: UPDATING | {State.MODEL_LOADING, State.STARTING, State.UNAVAIL, State.ERROR},
    Observation.REPORTED_READY: frozenset({State.IDLE, State.STOPPING}),  # until the stop takes effect
    Observation.REPORTED_ERROR: frozenset({State.ERROR}),
}

COMMANDS: dict[Goal, dict[State, Command]] = {
    Goal.HOT: {State.WANTED: Command.RENT, State.STOPPED: Command.START},
    # A cold worker that does not exist yet is rented and loads its model once; only then is it stopped.
    Goal.COLD: {State.WANTED: Command.RENT, State.IDLE: Command.STOP, State.STARTING: Command.STOP},
    Goal.UPDATED: {
        State.WANTED: Command.RENT,
        **dict.fromkeys((State.MODEL_LOADING, State.IDLE, State.STOPPED, State.STARTING), Command.UPDATE),
    },
    Goal.GONE: {s: Command.DESTROY for s in State if s not in (State.DESTROYING, State.DESTROYED)},
}


class Billing(StrEnum):
    """What a worker is paid for in a state."""

    READY = "ready"
    LOADING = "loading"
    STOPPED = "stopped"
    NOTHING = "nothing"


BILLED_AS: dict[State, Billing] = {
    # The protocol's own billing classes, except that what may still run is counted as running: UNAVAIL, ERROR and
    # DESTROYING cost money on most providers until the instance is gone, and a cap must not be fooled.
    **dict.fromkeys(State, Billing.READY),
    **dict.fromkeys(_BORN, Billing.LOADING),
    **dict.fromkeys((State.WANTED, State.DESTROYED), Billing.NOTHING),
    State.STOPPED: Billing.STOPPED,
}


def after_command(state: State, command: Command) -> State:
    """The state once `command` has been given. Raises: IllegalMove if the tables do not allow it."""
    try:
        return TRANSITIONS[state][command]
    except KeyError:
        raise IllegalMove(f"{command} is not a move in state {state}") from None


def next_command(goal: Goal, state: State, busy: bool, capabilities: Capabilities = ALL_CAPABILITIES) -> Command | None:
    """The command that moves `state` toward `goal`, or None where there is nothing to do but wait.

    A busy worker gets no command while it can still serve: it drains first. One that cannot rest is destroyed instead,
    and so is one that cannot be updated where it is.
    """
    if busy and state in SERVING:
        return None
    if goal is Goal.COLD and not capabilities.stop:
        goal = Goal.GONE
    command = COMMANDS[goal].get(state)
    cannot = {Command.START: not capabilities.stop, Command.UPDATE: not capabilities.update}
    return Command.DESTROY if command is not None and cannot.get(command) else command


def goal_beyond_update(state: State) -> Goal:
    """What is wanted of a worker once its update has begun or was called off: only a worker that served will serve."""
    return Goal.HOT if state is State.IDLE else Goal.COLD


def overdue(state: State, now: float, since: float, progressed_at: float, loading_s: float = 0.0) -> bool:
    """True if a transient state made no progress within its timeout, or has lasted `MAX_PROGRESS_FACTOR` times that.
    `loading_s`: above 0 it replaces both limits for a worker on its way to ready."""
    timeout_s = STATE_TIMEOUT_S.get(state)
    if timeout_s is None or (loading_s and state in COMING):
        return timeout_s is not None and now - since > loading_s
    return now - max(since, progressed_at) > timeout_s or now - since > MAX_PROGRESS_FACTOR * timeout_s

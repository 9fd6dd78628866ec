"""The tables of a worker's life hold together."""

import pytest

from posthouse.domain.lifecycle import (
    BILLED_AS,
    COMING,
    COMMANDS,
    MAX_PROGRESS_FACTOR,
    NOTHING_NEW,
    SERVING,
    STATE_TIMEOUT_S,
    TRANSITIONS,
    Command,
    Event,
    Goal,
    Observation,
    State,
    after_command,
    next_command,
    overdue,
)
from posthouse.domain.offer import Capabilities
from posthouse.errors import IllegalMove

STABLE = set(State) - set(STATE_TIMEOUT_S)
"""The states without a deadline. WANTED and ERROR call for a command at every tick, so they do not last either."""
MOVES = [(goal, state, command) for goal, table in COMMANDS.items() for state, command in table.items()]


def reachable(start: State) -> set[State]:
    found, edge = {start}, [start]
    while edge:
        for state in TRANSITIONS[edge.pop()].values():
            if state not in found:
                found.add(state)
                edge.append(state)
    return found


def test_every_patience_is_above_zero() -> None:
    assert all(timeout_s > 0 for timeout_s in STATE_TIMEOUT_S.values())


def test_every_state_that_can_be_overdue_has_a_way_out_of_it() -> None:
    for state in STATE_TIMEOUT_S:
        assert TRANSITIONS[state].get(Observation.OVERDUE) is State.ERROR, state


@pytest.mark.parametrize(("goal", "state", "command"), MOVES)
def test_every_remedy_is_a_legal_move(goal: Goal, state: State, command: Command) -> None:
    assert command in TRANSITIONS[state]


@pytest.mark.parametrize(("goal", "state", "command"), MOVES)
def test_obeying_a_remedy_never_calls_for_the_same_remedy_again(goal: Goal, state: State, command: Command) -> None:
    assert next_command(goal, after_command(state, command), busy=False) is not command


def test_every_state_can_be_reached_from_wanted() -> None:
    assert reachable(State.WANTED) == set(State)


@pytest.mark.parametrize("state", State)
def test_every_state_can_reach_destroyed(state: State) -> None:
    assert State.DESTROYED in reachable(state)


def test_destroyed_is_the_only_end() -> None:
    assert [state for state in State if not TRANSITIONS[state]] == [State.DESTROYED]


def test_no_worker_that_still_exists_is_forgotten_by_a_command() -> None:
    # Only WANTED, which nobody has been asked about, may end without a listing that shows its absence.
    endings: set[tuple[State, Event]] = {
        (state, event) for state, moves in TRANSITIONS.items() for event in moves if moves[event] is State.DESTROYED
    }
    assert {(state, event) for state, event in endings if event is not Observation.ABSENT} == {
        (State.WANTED, Command.DESTROY),
        (State.CREATING, Observation.FAILED),
    }


def test_the_tables_cover_every_state_and_goal() -> None:
    assert set(TRANSITIONS) == set(State)
    assert set(BILLED_AS) == set(State)
    assert set(COMMANDS) == set(Goal)


@pytest.mark.parametrize("goal", Goal)
def test_every_stable_state_that_is_not_what_we_want_calls_for_a_command(goal: Goal) -> None:
    arrived = {
        Goal.HOT: {State.IDLE},
        Goal.COLD: {State.STOPPED},
        Goal.UPDATED: set[
            State
        ](),  # nothing that is wanted fresh is so: once its update begins it is hot or cold again
        Goal.GONE: {State.DESTROYED},
    }[goal]
    for state in STABLE - {State.DESTROYED, State.ERROR} - arrived:
        assert next_command(goal, state, busy=False) is not None, (goal, state)
    for state in arrived:
        assert next_command(goal, state, busy=False) is None


@pytest.mark.parametrize("goal", Goal)
@pytest.mark.parametrize("state", sorted(SERVING))
def test_a_busy_worker_that_can_serve_is_neither_stopped_nor_updated_nor_destroyed(goal: Goal, state: State) -> None:
    assert next_command(goal, state, busy=True) is None


@pytest.mark.parametrize("state", sorted(set(State) - SERVING - {State.DESTROYING, State.DESTROYED}))
def test_requests_that_are_lost_anyway_delay_no_destruction(state: State) -> None:
    assert next_command(Goal.GONE, state, busy=True) is Command.DESTROY


@pytest.mark.parametrize("state", sorted(COMING - {State.WANTED}))
def test_what_is_coming_can_arrive(state: State) -> None:
    assert TRANSITIONS[state].get(Observation.REPORTED_READY) is State.IDLE


def test_a_command_that_the_tables_do_not_allow_is_our_bug() -> None:
    with pytest.raises(IllegalMove, match="start is not a move in state idle"):
        after_command(State.IDLE, Command.START)


@pytest.mark.parametrize("observation", sorted(NOTHING_NEW))
def test_a_sighting_that_moves_a_worker_is_news(observation: Observation) -> None:
    assert all(TRANSITIONS[state].get(observation) in (None, state) for state in NOTHING_NEW[observation])


def test_a_late_sighting_means_nothing() -> None:
    assert TRANSITIONS[State.DESTROYING].get(Observation.RUNNING) is None
    assert TRANSITIONS[State.STARTING].get(Observation.HALTED) is None


@pytest.mark.parametrize("state", sorted(STATE_TIMEOUT_S))
def test_a_passing_state_is_overdue_after_its_patience_and_progress_restarts_the_clock(state: State) -> None:
    timeout_s = STATE_TIMEOUT_S[state]
    assert not overdue(state, now=timeout_s, since=0.0, progressed_at=0.0)
    assert overdue(state, now=timeout_s + 1, since=0.0, progressed_at=0.0)
    assert not overdue(state, now=timeout_s + 1, since=0.0, progressed_at=2.0)


@pytest.mark.parametrize("state", sorted(STATE_TIMEOUT_S))
def test_progress_does_not_put_the_deadline_off_for_ever(state: State) -> None:
    limit_s = MAX_PROGRESS_FACTOR * STATE_TIMEOUT_S[state]
    assert not overdue(state, now=limit_s, since=0.0, progressed_at=limit_s)
    assert overdue(state, now=limit_s + 1, since=0.0, progressed_at=limit_s + 1)


@pytest.mark.parametrize("state", sorted(STABLE))
def test_a_stable_state_is_never_overdue(state: State) -> None:
    assert not overdue(state, now=1e9, since=0.0, progressed_at=0.0)


RUNS_ONLY = Capabilities(stop=False, update=False)


@pytest.mark.parametrize("state", State)
def test_a_worker_that_cannot_be_stopped_or_updated_is_replaced(state: State) -> None:
    for goal in Goal:
        command = next_command(goal, state, False, RUNS_ONLY)
        assert command in (None, Command.RENT, Command.DESTROY)
        if command is not None:
            assert command in TRANSITIONS[state]
    assert next_command(Goal.COLD, state, False, RUNS_ONLY) is next_command(Goal.GONE, state, False)


def test_a_worker_that_is_replaced_finishes_its_work_first() -> None:
    assert next_command(Goal.COLD, State.IDLE, True, RUNS_ONLY) is None
    assert next_command(Goal.UPDATED, State.IDLE, True, RUNS_ONLY) is None
    assert next_command(Goal.UPDATED, State.IDLE, False, RUNS_ONLY) is Command.DESTROY
    assert next_command(Goal.UPDATED, State.IDLE, False, Capabilities(stop=False)) is Command.UPDATE

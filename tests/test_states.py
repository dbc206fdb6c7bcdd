"""The states of a task are Celery's, with the same sets and the same precedence."""

from itertools import pairwise

import pytest

from lmdbresults import states

NAMES = [name for name in vars(states) if name.isupper() and isinstance(getattr(states, name), str)]


@pytest.mark.interface("states")
def test_a_state_is_named_as_it_is_spelt():
    assert NAMES
    assert {name: getattr(states, name) for name in NAMES} == {name: name for name in NAMES}


@pytest.mark.interface("states")
def test_every_state_but_ignored_is_either_ready_or_not():
    assert states.READY_STATES.isdisjoint(states.UNREADY_STATES)
    assert set(NAMES) == states.ALL_STATES | {states.IGNORED}


def test_what_propagates_is_ready_and_holds_an_exception():
    assert states.PROPAGATE_STATES == states.READY_STATES & states.EXCEPTION_STATES


@pytest.mark.interface("states")
def test_precedence_runs_from_success_to_pending_with_custom_states_in_between():
    order = ["SUCCESS", "FAILURE", "PROGRESS", "REVOKED", "STARTED", "RECEIVED", "REJECTED", "RETRY", "PENDING"]
    assert all(states.precedence(higher) < states.precedence(lower) for higher, lower in pairwise(order))
    assert states.precedence("SUCCESS") == 0
    assert states.precedence("PROGRESS") == states.precedence("anything else")


@pytest.mark.interface("states")
def test_names_sets_and_precedence_are_those_of_celery():
    celery = pytest.importorskip("celery.states")
    for name in [*NAMES, "READY_STATES", "UNREADY_STATES", "EXCEPTION_STATES", "PROPAGATE_STATES"]:
        assert getattr(states, name) == getattr(celery, name)
    assert celery.ALL_STATES | {celery.REJECTED} == states.ALL_STATES  # Celery forgets one
    for state in [*NAMES, "PROGRESS"]:
        assert states.precedence(state) == celery.precedence(state)

"""Ids of responses say where they are kept, to who has the key."""

import json

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st

from posthouse.gateway.counted import Document, Events
from posthouse.gateway.stored import Home, Renamed, found, given

KEY = "ph_00000000_" + "k" * 43
HOME = Home(7, "team/chat", "sql")
OWN = "resp_" + "0123456789abcdef" * 12
EVENT = 'data: {"type":"response.created","response":{"id":"%s","text":"\\"id\\":\\"%s\\"","x":"%s"}}\n\n'


def test_an_id_is_good_with_its_key_alone() -> None:
    named = given(KEY, OWN, HOME)
    assert found(KEY, named) == (OWN, HOME)
    assert found("ph_1", named) is None
    assert found(KEY, OWN) is None
    assert found(KEY, given(KEY, "resp_1", HOME).replace("resp_1", "resp_2")) is None
    assert found(KEY, named[:-2] + ("A" if named[-2] != "A" else "B") + named[-1]) is None
    longest = Home(2**53, "\U0001f600" * 255, "a" * 100)
    assert found(KEY, given(KEY, OWN, longest)) == (OWN, longest)


@pytest.mark.parametrize("odd", ["", ".", "resp_", "resp_1.", "resp_1." + "=" * 30, "resp_1." + "A" * 3000, "é" * 40])
def test_what_was_never_given_is_not_found(odd: str) -> None:
    assert found(KEY, odd) is None


@drawn(st.lists(st.integers(1, 400), max_size=12), st.sampled_from(["", "x" * 20_000]), st.booleans())
def test_however_an_answer_is_cut_every_id_is_renamed_and_no_text(cuts: list[int], long: str, stream: bool) -> None:
    named = given(KEY, OWN, HOME)
    if stream:
        sent, kept = ((EVENT % (one, OWN, long) * 2).encode() for one in (OWN, named))
    else:
        sent, kept = (
            json.dumps({"id": one, "x": long, "previous_response_id": one, "output": [{"id": "msg_1"}]}).encode()
            for one in (OWN, named)
        )
    passing = Renamed(Events(hides_usage=False) if stream else Document(), KEY, lambda: HOME)
    passed = b""
    for cut in cuts:
        passed += passing.feed(sent[:cut])
        sent = sent[cut:]
    passed += passing.feed(sent) + passing.rest()
    assert passed == kept


def test_an_event_passes_as_soon_as_it_is_whole() -> None:
    passing = Renamed(Events(hides_usage=False), KEY, lambda: HOME)
    assert passing.feed((EVENT % (OWN, OWN, "")).encode()).endswith(b"\n\n")


def test_where_nobody_knows_the_worker_ids_pass_as_they_are() -> None:
    passing = Renamed(Document(), KEY, lambda: None)
    text = json.dumps({"id": OWN}).encode()
    assert passing.feed(text) + passing.rest() == text

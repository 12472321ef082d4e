"""Stores that were changed at random: what reads them gives the answers of before, sensible ones, or an error of ours.

Three kinds: bytes that were damaged, documents that were edited by hand, and stores that were forged with all digests
made anew. The first two must never give another answer than the sound store. A forged one may, where it is a legal
store; then what was read makes sense, and what `verify` finds whole can be copied and is the same store there.
"""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedkd.store import copy_store
from tests.strangers.forge import Files, Memory
from tests.strangers.mutations import damages, edits, forgeries, lying_chunks
from tests.strangers.readers import REFUSED, Answers, answers, check_sense, is_whole, same

# Answers that damage must not change. What works on stores says what it found, so it may answer otherwise.
ASKED = {"open", "teacher", "counts", "read", "sets", "class set", "only set", "head", "heads", "average", "card"}
CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example, HealthCheck.filter_too_much]


def check_damaged(damaged: Files, sound: Files, known: Answers) -> None:
    """The same answers or none."""
    for question, answer in answers(damaged, sound).items():
        if question[0] in ASKED and answer != REFUSED:
            assert same(answer, known[question]), question


def check_forged(forged: Files, sound: Files) -> None:
    """Answers that make sense; and a store that is whole is so for everyone."""
    found = answers(forged, sound)
    check_sense(found)
    if is_whole(found):
        refused = {question[0] for question, answer in found.items() if answer == REFUSED}
        assert not refused & {"read", "counts"}
        target: Files = {}
        copy_store(Memory(dict(forged)), Memory(target))
        copied = answers(target, sound)
        for question, answer in found.items():
            if question[0] in ASKED:
                assert same(answer, copied[question]), question


@pytest.fixture(scope="session")
def known(sound: Files) -> Answers:
    return answers(sound, sound)


def test_the_sound_store_answers(known: Answers) -> None:
    assert is_whole(known)
    refused = {question[0] for question, answer in known.items() if answer == REFUSED}
    assert refused == {"only set"}, "of logits, which have none"


@settings(max_examples=80, suppress_health_check=CHECKS)
@given(data=st.data())
def test_forged_documents(data: st.DataObject, sound: Files) -> None:
    check_forged(data.draw(forgeries(sound)), sound)


@settings(max_examples=25, suppress_health_check=CHECKS)
@given(data=st.data())
def test_forged_chunks(data: st.DataObject, sound: Files) -> None:
    check_forged(data.draw(lying_chunks(sound)), sound)


@settings(max_examples=25, suppress_health_check=CHECKS)
@given(data=st.data())
def test_damaged_bytes(data: st.DataObject, sound: Files, known: Answers) -> None:
    check_damaged(data.draw(damages(sound)), sound, known)


@settings(max_examples=25, suppress_health_check=CHECKS)
@given(data=st.data())
def test_edited_documents(data: st.DataObject, sound: Files, known: Answers) -> None:
    check_damaged(data.draw(edits(sound)), sound, known)


@pytest.mark.storm
@settings(max_examples=10_000, suppress_health_check=CHECKS, derandomize=False)
@given(data=st.data())
def test_storm(data: st.DataObject, sound: Files, known: Answers) -> None:
    """All four kinds for some hours of one processor."""
    if data.draw(st.booleans()):
        check_forged(data.draw(forgeries(sound) | lying_chunks(sound)), sound)
    else:
        check_damaged(data.draw(damages(sound) | edits(sound)), sound, known)

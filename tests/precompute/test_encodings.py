"""Encodings that are asked for: which output gets which, and what a store then holds."""

from dataclasses import replace

import numpy as np
import pytest

from embedkd.config import Config
from embedkd.errors import ConfigError, FormatError, StoreError
from embedkd.live_verify import verify_live
from embedkd.precompute import describe_store, find_finished, precompute
from embedkd.precompute.encodings import are_meant, encoded_specs, encodings_for
from embedkd.records import OutputSpec, RowStatus
from embedkd.store import open_store
from tests.precompute.zoo import ONE, Watch, Zoo, changed
from tests.tiny import SPEC, TEXT_SPEC, said_of

LOGITS = (OutputSpec("cls", 5), OutputSpec("logits", 12))


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ((), {}),
        (("int8",), {"cls": "int8", "pooled": "int8"}),
        (("cls=int8",), {"cls": "int8"}),
        (("bfloat16", "cls=int8"), {"cls": "int8", "pooled": "bfloat16"}),
        (("cls=int8", "bfloat16"), {"cls": "int8", "pooled": "bfloat16"}),
        (("top5",), {}),
        (("image=int8",), {}),
    ],
)
def test_which_output_gets_which(wanted: tuple[str, ...], expected: dict[str, str]) -> None:
    assert encodings_for(SPEC, wanted) == expected
    assert are_meant(SPEC.encoded(expected), wanted)
    assert not are_meant(SPEC.encoded({**expected, "cls": "top3"}), wanted)


def test_top_k_is_for_logits_and_says_so() -> None:
    watch, spec = Watch(), replace(SPEC, outputs=LOGITS)
    (made,) = encoded_specs([spec], ("top10",), watch)
    assert made.encodings == {"cls": "float16", "logits": "top10"}
    assert watch.lines == [f"note: top10 is for logits; of {SPEC.name} it leaves cls float16"]
    with pytest.raises(FormatError, match="K below its width"):
        encoded_specs([spec], ("top12",))
    with pytest.raises(StoreError, match=r"asked for 'logit', which no teacher has; .* has: cls, logits"):
        encoded_specs([spec], ("logit=int8",))
    assert [s.encodings["cls"] for s in encoded_specs([spec], ("cls=int8",))] == ["int8"]
    assert len(encoded_specs([SPEC, TEXT_SPEC], ("image=int8",))) == 2, "one of several teachers has it"


@pytest.mark.parametrize("entry", ["int4", "cls=", "=", "cls=top5", "", "logits=top0", "cls=int8=int8"])
def test_what_is_no_encoding(config: Config, entry: str) -> None:
    with pytest.raises(ConfigError, match=r"precompute\.encoding: expected float16, float32, bfloat16, int8 or"):
        changed(config, encoding=(entry,))
    with pytest.raises(ConfigError, match="each once"):
        changed(config, encoding=("cls=int8", "cls=float16"))


def test_rows_are_kept_as_asked_beside_those_that_were_not(config: Config, zoo: Zoo) -> None:
    plain = changed(config, teachers=(ONE,), outputs=("cls", "pooled"))
    packed = changed(plain, encoding=("cls=int8", "pooled=bfloat16"))
    result = precompute(packed)
    assert result.teachers[0].computed == 16
    assert find_finished(packed) is not None
    assert find_finished(plain) is None, "nobody has computed it in the teacher's own encodings"
    assert find_finished(changed(packed, encoding=("cls=int8",))) is None
    precompute(plain)
    store = open_store(result.store)
    assert len(store.teacher_ids) == 2
    int8, float16 = (
        next(v for v in map(store.teacher, store.teacher_ids) if v.spec.encodings["cls"] == e)
        for e in ("int8", "float16")
    )
    for slot in store.slots:
        packed_rows, rows = int8.read(slot, "cls"), float16.read(slot, "cls")
        assert packed_rows.status.tolist() == [RowStatus.OK] * slot.rows
        scale = packed_rows.stored.arrays()[0].astype(np.float64)
        keys = [f"{slot.shard.url[:-4]}/{number:03d}" for number in range(slot.rows)]
        said = np.stack([said_of(key, "cls") for key in keys])
        assert (np.abs(packed_rows.rows - said) <= scale / 2 * (1 + 1e-5)).all()
        np.testing.assert_allclose(rows.rows, said, rtol=2e-3, atol=1e-3)
    facts = {teacher["id"]: teacher["outputs"] for teacher in describe_store(result.store)["teachers"]}
    assert [o["encoding"] for o in facts[int8.teacher_id]] == ["int8", "bfloat16"]
    assert 0 < facts[float16.teacher_id][0]["error"]["max"] < facts[int8.teacher_id][0]["error"]["max"] < 1e-3
    assert sum(facts[int8.teacher_id][0]["error"]["histogram"]) == 16


def test_a_live_check_knows_the_encoding(config: Config, zoo: Zoo) -> None:
    packed = changed(config, teachers=(ONE,), outputs=("cls", "pooled"), encoding=("int8",))
    view = open_store(precompute(packed).store).teacher()
    checks = verify_live(view, 100, teacher=ONE)
    assert [(check.rows, check.passed) for check in checks] == [(16, True), (16, True)]
    assert all(1 - check.cosine_min <= view.error(check.output).max * 1.01 + 1e-9 for check in checks)
    assert all(check.least < 0.9999 for check in checks)

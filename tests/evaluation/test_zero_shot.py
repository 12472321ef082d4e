import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy

from embedkd.errors import TrainingError
from embedkd.evaluation.zero_shot import zero_shot_accuracy


def draw_rows(seed: int, rows: int, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def test_agrees_with_torchmetrics_on_clips_own_formula() -> None:
    rows, texts, labels = draw_rows(0, 200), draw_rows(1, 9), np.arange(200) % 9
    rows += 0.7 * texts[labels]
    found = dict(zero_shot_accuracy(rows, 50 * texts, labels))
    unit, classes = (torch.nn.functional.normalize(torch.tensor(one)) for one in (rows, texts))
    logits = 100 * unit @ classes.T  # CLIP's scale; a text's length means nothing
    for name, k in (("zero_shot", 1), ("zero_shot_top5", 5)):
        expected = multiclass_accuracy(logits, torch.tensor(labels), 9, average="micro", top_k=k)
        assert found[name].value == pytest.approx(float(expected))
    assert found["zero_shot"].value > 1 / 9


def test_a_sample_at_its_text_is_a_hit_and_one_opposite_a_miss() -> None:
    texts = np.eye(3, dtype=np.float32)
    ((_, right),) = zero_shot_accuracy(0.01 * texts, texts, np.arange(3))
    ((_, wrong),) = zero_shot_accuracy(-texts, texts, np.arange(3))
    assert (right.value, wrong.value) == (1.0, 0.0)


def test_other_widths_and_classes_without_text_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 6\) and texts \[C, D\], got|got \(4, 6\) and \(3, 5\)"):
        list(zero_shot_accuracy(draw_rows(0, 4), draw_rows(1, 3, 5), np.zeros(4, np.int64)))
    texts = draw_rows(1, 3)
    texts[2] = np.nan
    with pytest.raises(TrainingError, match="class 2 has no text"):
        list(zero_shot_accuracy(draw_rows(0, 4), texts, np.zeros(4, np.int64)))

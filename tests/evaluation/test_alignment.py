import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from torch.nn.functional import cosine_similarity as torch_cosine

from embedkd.evaluation.alignment import alignment


def draw_rows(seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(50, 8)) + shift).astype(np.float32)


def test_agrees_with_torch_and_scikit_learn() -> None:
    ours, theirs = draw_rows(0, 0.3), draw_rows(1, 0.5)
    found = dict(alignment(ours, theirs))
    expected = torch_cosine(torch.tensor(ours).double(), torch.tensor(theirs).double()).mean()
    assert found["cosine"].value == pytest.approx(float(expected), abs=1e-6)
    pairs = cosine_similarity(ours.astype(np.float64), theirs.astype(np.float64))
    assert found["cosine_others"].value == pytest.approx(pairs[~np.eye(50, dtype=bool)].mean(), abs=1e-6)


def test_what_all_rows_share_counts_in_both() -> None:
    found = dict(alignment(draw_rows(0, 3.0), draw_rows(1, 3.0)))
    assert found["cosine"].value > 0.8
    assert found["cosine"].value == pytest.approx(found["cosine_others"].value, abs=0.03), "chance, though it is high"


def test_lengths_mean_nothing_and_ends_are_reached() -> None:
    rows, lengths = draw_rows(0), 10.0 ** np.random.default_rng(1).integers(-9, 9, (50, 1))
    assert dict(alignment(rows, (rows * lengths).astype(np.float32)))["cosine"].value == pytest.approx(1)
    assert dict(alignment(rows, -rows))["cosine"].value == pytest.approx(-1)
    assert dict(alignment(rows, np.zeros_like(rows)))["cosine"].value == 0


def test_one_sample_has_no_others() -> None:
    assert list(dict(alignment(draw_rows(0)[:1], draw_rows(1)[:1]))) == ["cosine"]


def test_other_widths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(50, 8\) and \(50, 7\)"):
        list(alignment(draw_rows(0), draw_rows(1)[:, 1:]))

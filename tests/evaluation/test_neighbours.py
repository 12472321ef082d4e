import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from embedkd.evaluation import neighbours as module
from embedkd.evaluation.neighbours import neighbour_overlap


def draw_rows(seed: int, rows: int = 60, width: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def overlap(ours: np.ndarray, theirs: np.ndarray, k: int = 10) -> float:
    ((name, found),) = neighbour_overlap(ours, theirs, neighbours=k, replicates=10)
    assert name == "neighbours"
    return found.value


@pytest.mark.parametrize("k", [1, 5, 30])
def test_agrees_with_scikit_learns_neighbours(k: int) -> None:
    ours, theirs = draw_rows(0), draw_rows(0, width=6) + 0.5 * draw_rows(1)
    lists = [
        NearestNeighbors(n_neighbors=k, metric="cosine").fit(rows).kneighbors(return_distance=False)
        for rows in (ours, theirs)
    ]
    expected = np.mean([len(set(a) & set(b)) / k for a, b in zip(*lists, strict=True)])
    assert overlap(ours, theirs, k) == pytest.approx(expected)


def test_a_rotation_and_lengths_change_nothing() -> None:
    rows = draw_rows(0)
    turned = rows @ np.linalg.qr(draw_rows(1, 6))[0] * np.linspace(0.1, 9, 60)[:, None]
    assert overlap(rows, turned.astype(np.float32)) == 1.0


def test_independent_rows_are_at_chance() -> None:
    assert overlap(draw_rows(0, 400), draw_rows(1, 400, 9)) == pytest.approx(10 / 399, abs=0.01)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = overlap(draw_rows(0), draw_rows(1))
    monkeypatch.setattr(module, "_CELLS", 60 * 7)
    assert overlap(draw_rows(0), draw_rows(1)) == whole


def test_few_samples_have_no_more_neighbours_than_others_and_two_say_nothing() -> None:
    assert overlap(draw_rows(0, 4), draw_rows(1, 4)) == 1.0
    assert not list(neighbour_overlap(draw_rows(0, 2), draw_rows(1, 2)))


def test_other_numbers_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, 6\) and \(4, 6\)"):
        list(neighbour_overlap(draw_rows(0, 3), draw_rows(1, 4)))

import numpy as np
import pytest
from numpy.typing import NDArray

from embedkd.evaluation.cka import linear_cka


def draw_rows(seed: int, rows: int = 30, width: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def cka(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    ((name, found),) = linear_cka(ours, theirs)
    assert name == "cka"
    return found.value


def naive_hsic(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Song et al. 2012, equation 5, with all matrices written out."""
    k, el = (rows.astype(np.float64) @ rows.astype(np.float64).T for rows in (left, right))
    n = len(k)
    np.fill_diagonal(k, 0)
    np.fill_diagonal(el, 0)
    one = np.ones(n)
    middle = one @ k @ one * (one @ el @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ el) + middle - 2 / (n - 2) * (one @ k @ el @ one)) / (n * (n - 3)))


@pytest.mark.parametrize("shift", [0.0, 4.0])
def test_agrees_with_the_formula_written_out(shift: float) -> None:
    ours = draw_rows(0) + np.float32(shift)
    theirs = np.concatenate([ours[:, :3] ** 2, draw_rows(1)], axis=1)
    expected = naive_hsic(ours, theirs) / np.sqrt(naive_hsic(ours, ours) * naive_hsic(theirs, theirs))
    assert cka(ours, theirs) == pytest.approx(expected, abs=1e-6)


def test_hsic_is_unbiased_where_the_plain_one_is_not() -> None:
    """Independent rows: 0 in the mean, while the plain estimate of wide rows says nearly 1."""
    found, plain = [], []
    for seed in range(16):
        ours, theirs = draw_rows(2 * seed, 30, 120), draw_rows(2 * seed + 1, 30, 120)
        found.append(cka(ours, theirs))
        left, right = (rows - rows.mean(axis=0) for rows in (ours, theirs))
        sizes = np.linalg.norm(left.T @ left) * np.linalg.norm(right.T @ right)
        plain.append(np.linalg.norm(left.T @ right) ** 2 / sizes)
    assert np.mean(found) == pytest.approx(0, abs=4 * np.std(found) / np.sqrt(16))
    assert np.mean(plain) > 0.7


def test_rotation_scale_and_shift_change_nothing() -> None:
    rows = draw_rows(0)
    turned = 1e6 * (rows @ np.linalg.qr(draw_rows(1, 5))[0]) + 1e6
    assert cka(rows, turned.astype(np.float32)) == pytest.approx(1, abs=1e-4)
    assert cka(rows, np.concatenate([rows, 0 * rows], axis=1)) == pytest.approx(1)


def test_rows_that_are_all_the_same_and_too_few_say_nothing() -> None:
    assert not list(linear_cka(draw_rows(0), np.ones((30, 4), np.float32)))
    assert not list(linear_cka(draw_rows(0), np.zeros((30, 4), np.float32)))
    assert not list(linear_cka(draw_rows(0, 3), draw_rows(1, 3)))


def test_other_numbers_of_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(30, 5\) and \(29, 5\)"):
        list(linear_cka(draw_rows(0), draw_rows(1, 29)))

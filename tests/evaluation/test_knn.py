import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedkd.evaluation.knn import knn_accuracy


def naive(bank: NDArray[np.float64], bank_labels: NDArray[np.int64], query: NDArray[np.float64], k: int) -> int:
    cosines = [float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in bank]
    nearest = sorted(range(len(bank)), key=lambda i: -cosines[i])[:k]
    votes: dict[int, float] = {}
    for i in nearest:
        votes[int(bank_labels[i])] = votes.get(int(bank_labels[i]), 0.0) + 1 / (1 - cosines[i])
    return max(votes, key=lambda label: votes[label])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3, 20]))
def test_agrees_with_a_naive_loop_in_float64(seed: int, neighbours: int) -> None:
    draw = np.random.default_rng(seed)
    bank, queries = draw.normal(size=(40, 6)), draw.normal(size=(15, 6))
    bank_labels, labels = draw.integers(0, 4, 40), draw.integers(0, 4, 15)
    ((name, found),) = knn_accuracy(
        bank.astype(np.float32), bank_labels, queries.astype(np.float32), labels, neighbours=neighbours
    )
    expected = np.mean([naive(bank, bank_labels, q, neighbours) == y for q, y in zip(queries, labels, strict=True)])
    assert name == "knn"
    assert found.value == pytest.approx(expected)


def accuracy_of(bank: NDArray[np.float64], queries: NDArray[np.float64]) -> float:
    labels = np.arange(len(bank)) % 3
    ((_, found),) = knn_accuracy(bank.astype(np.float32), labels, queries.astype(np.float32), labels, neighbours=5)
    return found.value


def test_lengths_do_not_matter_and_never_overflow() -> None:
    draw = np.random.default_rng(1)
    rows, lengths = draw.normal(size=(30, 8)), 10.0 ** draw.integers(-30, 30, (30, 1))
    assert accuracy_of(rows * lengths, rows) == accuracy_of(rows, rows * lengths) == accuracy_of(rows, rows) == 1.0


def test_a_bank_of_fewer_samples_than_neighbours_votes_as_a_whole() -> None:
    bank, queries = np.array([[1, 0], [1, 0.1], [0, 1]], np.float32), np.array([[1, 0.05], [0.1, 1]], np.float32)
    ((_, found),) = knn_accuracy(bank, np.array([0, 0, 1]), queries, np.array([0, 1]))
    assert found.value == 1.0


def test_a_collapsed_student_is_a_miss_and_no_crash() -> None:
    zeros = np.zeros((6, 4), np.float32)
    ((_, found),) = knn_accuracy(zeros, np.arange(6) % 3, zeros, np.arange(6) % 3)
    assert found.value == pytest.approx(1 / 3)


def test_names_embeddings_of_other_widths() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        list(knn_accuracy(np.zeros((2, 3), np.float32), np.arange(2), np.zeros((2, 4), np.float32), np.arange(2)))

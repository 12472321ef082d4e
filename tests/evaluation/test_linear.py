from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from embedkd.errors import TrainingError
from embedkd.evaluation.linear import linear_probe

if TYPE_CHECKING:
    from embedkd.evaluation.linear import Labelled


def draw_classes(seed: int, rows: int, spread: float = 2.0) -> "Labelled":
    """Three clouds in 12 dimensions, of which some are huge and some are constant."""
    draw, labels = np.random.default_rng(seed), np.arange(rows) % 3
    centres = np.random.default_rng(99).normal(size=(3, 12))
    values = centres[labels] + spread * draw.normal(size=(rows, 12))
    values[:, 0] *= 1e3
    values[:, 1] = 7
    return values.astype(np.float32), labels


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
def test_agrees_with_scikit_learn(l2: float) -> None:
    train, test = draw_classes(0, 150), draw_classes(1, 200)
    ((name, found),) = linear_probe(train, test, test, classes=3, grid=(l2,))
    scaler = StandardScaler().fit(train[0])
    reference = LogisticRegression(C=1 / (150 * l2), tol=1e-8, max_iter=2000).fit(scaler.transform(train[0]), train[1])
    assert name == "linear"
    assert found.value == pytest.approx(reference.score(scaler.transform(test[0]), test[1]), abs=0.0051)  # one sample


def test_the_penalty_is_the_one_that_other_samples_like_best() -> None:
    train, choose, test = draw_classes(0, 30, 3.0), draw_classes(1, 300, 3.0), draw_classes(2, 300, 3.0)
    alone = {l2: next(linear_probe(train, test, test, classes=3, grid=(l2,)))[1].value for l2 in (1e-5, 1.0)}
    assert alone[1.0] > alone[1e-5], "few samples of much noise want a strong penalty"
    ((_, found),) = linear_probe(train, choose, test, classes=3, grid=(1e-5, 1.0))
    assert found.value == alone[1.0]


def test_embeddings_that_say_nothing_are_at_chance() -> None:
    draw = np.random.default_rng(0)
    parts = [(draw.normal(size=(600, 4)).astype(np.float32), draw.integers(0, 3, 600)) for _ in range(3)]
    ((_, found),) = linear_probe(parts[0], parts[1], parts[2], classes=3)
    assert found.value == pytest.approx(1 / 3, abs=0.06)


def test_a_class_that_was_never_seen_is_a_miss() -> None:
    values, labels = draw_classes(0, 90, 0.1)
    seen = labels < 2
    ((_, found),) = linear_probe(
        (values[seen], labels[seen]), (values[seen], labels[seen]), (values, labels), classes=3
    )
    assert found.value == pytest.approx(2 / 3)


def test_one_class_is_refused() -> None:
    values, labels = draw_classes(0, 9)
    with pytest.raises(TrainingError, match="at least 2 classes"):
        list(linear_probe((values, 0 * labels), (values, labels), (values, labels), classes=3))

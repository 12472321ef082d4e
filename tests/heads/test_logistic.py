"""The fit against scikit-learn, closed forms, and its properties."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from embedkd.errors import StoreError
from embedkd.heads import logistic
from embedkd.heads.logistic import ABSENT_BELOW, Rows, cross_entropy, fit

CPU = torch.device("cpu")


def draw(rows: int = 120, dim: int = 5, classes: int = 3, seed: int = 0, noise: float = 1.0) -> Rows:
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    values = rng.normal(size=(classes, dim))[labels] + rng.normal(size=(rows, dim), scale=noise)
    values = values * np.geomspace(0.01, 100, dim) + 3
    return Rows(torch.from_numpy(values.astype(np.float32)), torch.from_numpy(labels), classes)


@pytest.mark.parametrize("l2", [1e-3, 1e-1])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_is_the_minimum_that_scikit_learn_finds(l2: float, classes: int) -> None:
    rows = draw(classes=classes)
    found = fit(rows, l2=l2, iterations=500, device=CPU)
    values = rows.values.double().numpy()
    standard = StandardScaler().fit(values)
    if classes == 2:  # scikit-learn fits one sigmoid, whose weight is the difference of the two: half the penalty
        l2 = l2 / 2
    reference = LogisticRegression(C=1 / (len(values) * l2), tol=1e-10, max_iter=10_000)
    reference.fit(standard.transform(values), rows.labels.numpy())
    ours = torch.softmax(rows.values.double() @ found.weight.T + found.bias, dim=1).numpy()
    np.testing.assert_allclose(ours, reference.predict_proba(standard.transform(values)), atol=2e-5)


def test_the_gradient_vanishes_at_the_minimum() -> None:
    """By autograd on standardised rows, a way of computing that the fit does not use."""
    rows, l2 = draw(), 0.01
    found = fit(rows, l2=l2, iterations=500, device=CPU)
    values = rows.values.double()
    mean, scale = values.mean(0), values.std(0, unbiased=False)
    weight = (found.weight * scale).requires_grad_()
    bias = (found.bias + found.weight @ mean).requires_grad_()
    logits = ((values - mean) / scale) @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, rows.labels) + 0.5 * l2 * (weight**2).sum()
    for gradient in torch.autograd.grad(loss, (weight, bias)):
        assert float(gradient.abs().max()) < 1e-6


def test_units_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = draw()
    first = fit(rows, l2=0.01, iterations=500, device=CPU)
    moved = Rows(rows.values.double() * 37.0 - 5.0, rows.labels, rows.classes)
    monkeypatch.setattr(logistic, "_BLOCK_ROWS", 17)
    second = fit(moved, l2=0.01, iterations=500, device=CPU)
    torch.testing.assert_close(
        rows.values.double() @ first.weight.T + first.bias,
        moved.values @ second.weight.T + second.bias,
        atol=1e-4,
        rtol=0,
    )


def test_the_same_rows_give_the_same_bits() -> None:
    first, second = (fit(draw(), l2=0.01, iterations=50, device=CPU) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_a_dimension_without_spread_has_no_weight() -> None:
    rows = draw()
    rows.values[:, 2] = 4.25
    found = fit(rows, l2=0.01, iterations=100, device=CPU)
    assert bool((found.weight[:, 2] == 0).all())
    assert bool(found.weight.isfinite().all())


def test_a_class_without_rows_is_never_the_answer_and_has_next_to_no_probability() -> None:
    rows = draw(classes=3, noise=3.0)
    wider = Rows(rows.values, rows.labels + (rows.labels >= 1), 5)  # classes 0, 2, 3; nothing of 1 and 4
    found, without = (fit(r, l2=1e-4, iterations=300, device=CPU) for r in (wider, rows))
    torch.testing.assert_close(found.weight[[0, 2, 3]], without.weight)
    assert bool((found.weight[[1, 4]] == 0).all())
    far = torch.randn(1000, rows.values.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e3
    logits = far @ found.weight.T + found.bias
    assert not set(logits.argmax(1).tolist()) & {1, 4}
    assert float(torch.softmax(logits, 1)[:, [1, 4]].max()) <= np.exp(-ABSENT_BELOW)


def test_one_class_is_too_few() -> None:
    rows = draw()
    with pytest.raises(StoreError, match="at least 2 classes in every part that is fitted, got 1; use fewer --folds"):
        fit(Rows(rows.values, rows.labels * 0, 3), l2=0.01, iterations=10, device=CPU)


def test_cross_entropy_of_no_knowledge_is_the_logarithm_of_the_classes() -> None:
    rows = draw(classes=7)
    nothing = logistic.LinearMap(torch.zeros(7, 5, dtype=torch.float64), torch.zeros(7, dtype=torch.float64))
    assert cross_entropy(nothing, rows) == pytest.approx(np.log(7))

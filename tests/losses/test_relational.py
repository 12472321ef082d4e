"""The four losses over pairs and triples of samples."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy.spatial.distance import pdist  # type: ignore[import-untyped]
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import normalize
from torch.nn import functional as F

from embedkd.losses import LOSSES, relational_angle, relational_distance, relational_probability, relational_similarity
from tests.losses.naive import cosine, divergence, entropy, huber, rows

N = 6
STUDENT, TARGET = rows(N, 5, seed=1), rows(N, 9, seed=2)  # of different widths
RELATIONAL = [name for name in LOSSES if name.startswith("relational_")]
every_relation = pytest.mark.parametrize("name", RELATIONAL)


def angle(a: list[float], vertex: list[float], b: list[float]) -> float:
    return cosine([x - y for x, y in zip(a, vertex, strict=True)], [x - y for x, y in zip(b, vertex, strict=True)])


def test_distances_agree_with_a_naive_loop() -> None:
    def distances(points: list[list[float]]) -> dict[tuple[int, int], float]:
        found = {(i, j): math.dist(points[i], points[j]) for i, j in itertools.permutations(range(N), 2)}
        mean = math.fsum(found.values()) / len(found)
        return {pair: distance / mean for pair, distance in found.items()}

    ours, theirs = distances(STUDENT.tolist()), distances(TARGET.tolist())
    expected = sum(huber(ours[pair], theirs[pair]) for pair in ours) / len(ours)

    assert relational_distance(STUDENT, TARGET).item() == pytest.approx(expected, rel=1e-12)


def test_distances_agree_with_scipy_and_torch() -> None:
    ours, theirs = (torch.from_numpy(pdist(part.numpy())) for part in (STUDENT, TARGET))

    expected = F.smooth_l1_loss(ours / ours.mean(), theirs / theirs.mean())

    torch.testing.assert_close(relational_distance(STUDENT, TARGET), expected)


def test_angles_agree_with_a_naive_loop() -> None:
    costs = [
        huber(*(angle(points[i], points[j], points[k]) for points in (STUDENT.tolist(), TARGET.tolist())))
        for i, j, k in itertools.permutations(range(N), 3)
    ]

    assert relational_angle(STUDENT, TARGET).item() == pytest.approx(math.fsum(costs) / len(costs), rel=1e-12)


def test_similarities_agree_with_scikit_learn() -> None:
    ours, theirs = (normalize((part @ part.T).numpy()) for part in (STUDENT, TARGET))

    assert relational_similarity(STUDENT, TARGET).item() == pytest.approx(
        ((ours - theirs) ** 2).sum() / N**2, rel=1e-12
    )


def test_similarities_agree_with_a_naive_loop() -> None:
    def products(points: list[list[float]], i: int) -> list[float]:
        found = [sum(x * y for x, y in zip(points[i], other, strict=True)) for other in points]
        return [value / math.hypot(*found) for value in found]

    expected = 0.0
    for i in range(N):
        ours, theirs = products(STUDENT.tolist(), i), products(TARGET.tolist(), i)
        expected += sum((a - b) ** 2 for a, b in zip(ours, theirs, strict=True)) / N**2

    assert relational_similarity(STUDENT, TARGET).item() == pytest.approx(expected, rel=1e-12)


def neighbours(points: torch.Tensor) -> list[list[float]]:
    alike = [[(1 + cosine(a, b)) / 2 for b in points.tolist()] for a in points.tolist()]
    without = [[value for j, value in enumerate(row) if j != i] for i, row in enumerate(alike)]
    return [[value / math.fsum(row) for value in row] for row in without]


def test_probabilities_agree_with_a_naive_loop_and_scikit_learn() -> None:
    expected = sum(map(divergence, neighbours(TARGET), neighbours(STUDENT))) / N

    value = relational_probability(STUDENT, TARGET).item()

    assert value == pytest.approx(expected, rel=1e-12)
    ours, theirs = (
        (1 + cosine_similarity(part.numpy())) / 2 * (1 - torch.eye(N).numpy()) for part in (STUDENT, TARGET)
    )
    ours, theirs = (part / part.sum(axis=1, keepdims=True) + torch.eye(N).numpy() for part in (ours, theirs))
    assert value == pytest.approx((theirs * torch.log(torch.from_numpy(theirs / ours)).numpy()).sum() / N, rel=1e-9)


@every_relation
def test_a_factor_and_a_turn_cost_nothing(name: str) -> None:
    turn, _ = torch.linalg.qr(rows(9, 9, seed=3))

    assert LOSSES[name].function(7 * TARGET @ turn, TARGET).item() == pytest.approx(0, abs=1e-12)


@every_relation
@pytest.mark.parametrize("scale", [1e-11, 1e30])
def test_squares_neither_vanish_nor_overflow(name: str, scale: float) -> None:
    function, student, target = LOSSES[name].function, STUDENT.float(), TARGET.float()

    torch.testing.assert_close(function(scale * student, scale * target), function(student, target))


@pytest.mark.parametrize("function", [relational_distance, relational_angle])
def test_a_shift_costs_nothing_where_differences_are_compared(function: Callable[..., torch.Tensor]) -> None:
    assert function(TARGET + 3, TARGET).item() == pytest.approx(0, abs=1e-12)


def test_chance_values() -> None:
    apart = torch.eye(N, dtype=torch.float64)
    theirs = torch.from_numpy(pdist(TARGET.numpy()))
    cosines = [angle(*(TARGET[at].tolist() for at in triple)) for triple in itertools.permutations(range(N), 3)]
    own = normalize((TARGET @ TARGET.T).numpy()).diagonal()

    assert relational_distance(apart, TARGET).item() == pytest.approx(
        sum(huber(1, value) for value in (theirs / theirs.mean()).tolist()) / len(theirs), rel=1e-9
    )
    assert relational_angle(apart, TARGET).item() == pytest.approx(
        sum(huber(0.5, value) for value in cosines) / len(cosines), rel=1e-9
    )
    assert relational_similarity(apart, TARGET).item() == pytest.approx(2 * (1 - own.mean()) / N, rel=1e-9)
    expected = math.log(N - 1) - sum(map(entropy, neighbours(TARGET))) / N
    assert relational_probability(apart, TARGET).item() == pytest.approx(expected, rel=1e-9)


@every_relation
def test_two_samples_at_one_place_have_finite_gradients(name: str) -> None:
    student, target = STUDENT.float(), TARGET.float()
    student[1], target[1] = student[0], target[0]
    student[3] = -student[2]
    student.requires_grad_()

    (found,) = torch.autograd.grad(LOSSES[name].function(student, target), student)

    assert found.isfinite().all()
    assert found.abs().sum() > 0


@every_relation
def test_descent_brings_the_relations_over(name: str) -> None:
    student = STUDENT.clone()
    optimiser = torch.optim.Adam([student.requires_grad_()], lr=0.05)
    first = LOSSES[name].function(student, TARGET).item()
    for _ in range(200):
        optimiser.zero_grad()
        torch.autograd.backward(LOSSES[name].function(student, TARGET))
        optimiser.step()

    assert LOSSES[name].function(student, TARGET).item() < 0.1 * first


@every_relation
def test_less_than_a_batch_has_no_relations(name: str) -> None:
    assert LOSSES[name].function(STUDENT[:1], TARGET[:1]).item() == pytest.approx(0, abs=1e-12)

import pytest
import torch
from torch import nn

from embedkd.students import Student, StudentOutput
from embedkd.training.average import MovingAverage


class Toy(Student):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("statistic", torch.ones(1))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, pixels: torch.Tensor) -> StudentOutput:
        return StudentOutput(pixels, pixels)


def shares(decay: float, steps: int) -> torch.Tensor:
    """What each step's student has of the average in the end, by the definition."""
    found = torch.zeros(steps, dtype=torch.float64)
    for step in range(steps):
        kept = 0.0 if step == 0 else min(decay, 1 - (1 + step) ** (-2 / 3))
        found = found * kept
        found[step] = 1 - kept
    return found


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_it_is_the_mean_of_all_steps_weighted_by_their_age(decay: float) -> None:
    student, seen = Toy(), []
    made = MovingAverage(student, nn.Linear(2, 1), decay)
    for step in range(1, 9):
        state = {"weight": torch.randn(2), "statistic": torch.randn(1), "count": torch.tensor(step)}
        student.load_state_dict(state)
        made.update(step)
        seen.append(torch.cat([state["weight"], state["statistic"]]))
    found = made.student.state_dict()
    expected = (shares(decay, 8)[:, None] * torch.stack(seen)).sum(dim=0).float()
    torch.testing.assert_close(torch.cat([found["weight"], found["statistic"]]), expected)
    assert found["count"] == 8, "counts are not averaged"


def test_it_is_judged_as_a_student_and_never_learned() -> None:
    student = Toy().train()
    made = MovingAverage(student, nn.Linear(2, 1), 0.9)
    assert not made.student.training
    assert not any(parameter.requires_grad for parameter in made.student.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    made.update(1)
    with torch.no_grad():
        student.weight.add_(1)
    assert made.student.state_dict()["weight"].tolist() == [1, 1]


def test_what_the_losses_learned_is_averaged_beside_the_student() -> None:
    projection = nn.Linear(1, 1, bias=False)
    made = MovingAverage(Toy(), projection, 0.5)
    for step, weight in enumerate((4.0, 8.0), start=1):
        nn.init.constant_(projection.weight, weight)
        made.update(step)
    kept = 1 - 2 ** (-2 / 3)  # of the first step, in the second
    assert made.objective.state_dict()["weight"].item() == pytest.approx(4 * kept + 8 * (1 - kept))

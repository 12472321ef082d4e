import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import SoftTargetCrossEntropy
from torch.nn import functional as F

from embedkd.config import AugmentConfig, Config
from embedkd.errors import Interrupted
from embedkd.join import Batch
from embedkd.rundir import RunDir
from embedkd.students import StudentOutput
from embedkd.training import train
from embedkd.training.division import Share
from embedkd.training.lesson import Lesson
from embedkd.training.mixing import Mixing, Mixture
from embedkd.training.objective import Objective
from embedkd.training.targets import TermTargets
from embedkd.training.terms import build_terms
from tests.training.test_state import Toy
from tests.watch import Watch

PX, CLASSES, DIM = 8, 3, 4


def batch(size: int) -> Batch:
    draw = torch.Generator().manual_seed(size)
    return Batch(
        keys=tuple(map(str, range(size))),
        pixels=torch.randn(size, 3, 2, 2, generator=draw),
        labels=torch.arange(size) % CLASSES,
        targets={"pooled": F.normalize(torch.randn(size, DIM, generator=draw))},
        valid=torch.ones(size, dtype=torch.bool),
    )


class Fixed(Mixing):
    """Mixes every batch in one way."""

    def __init__(self, mixture: Mixture | None) -> None:
        self._mixture = mixture

    def draw(self, step: int, part: int = 0) -> Mixture | None:
        return self._mixture


def lesson(losses: dict[str, float], mixture: Mixture | None, options: Any = None) -> Lesson:
    torch.manual_seed(0)
    student = Toy().eval()
    terms = build_terms(losses, options or {})
    targets = {term.name: TermTargets("pooled", DIM) for term in terms if term.entry.from_store}
    objective = Objective(terms, student_dim=DIM, num_classes=CLASSES, targets=targets, seed=0)
    return Lesson(student, objective, device=torch.device("cpu"), precision="float32", mixing=Fixed(mixture))


def loss_of(made: Lesson, given: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    total, terms = made(given, Share((len(given.keys),)), 1, 0)
    return total, terms


def mixing(mixup: float = 0.0, cutmix: float = 0.0, probability: float = 1.0, seed: int = 0) -> Mixing:
    return Mixing(mixup=mixup, cutmix=cutmix, probability=probability, image_px=PX, seed=seed)


def answer_of(made: Lesson, pixels: torch.Tensor) -> StudentOutput:
    answer: StudentOutput = made.student(pixels)
    return answer


@pytest.mark.parametrize("size", [1, 2, 5, 6])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mixed_labels_and_mixed_losses_are_the_same_for_cross_entropy(size: int, share: float) -> None:
    made, given = lesson({"cross_entropy": 1.0}, Mixture(share)), batch(size)
    total, terms = loss_of(made, given)
    partners = [(i - 1) % size for i in range(size)]
    mixed = share * given.pixels + (1 - share) * given.pixels[partners]
    one_hot = F.one_hot(given.labels, CLASSES).float()
    soft = share * one_hot + (1 - share) * one_hot[partners]
    expected = SoftTargetCrossEntropy()(answer_of(made, mixed).logits, soft)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(terms["cross_entropy"], expected)


def test_timm_mixes_labels_to_the_same_loss() -> None:
    share, given = 0.3, batch(2)  # of two, timm's order (reversed) is ours
    made = lesson({"cross_entropy": 1.0}, Mixture(share))
    total, _ = loss_of(made, given)
    soft = mixup_target(given.labels, CLASSES, share, 0.0)
    mixed = given.pixels * share + given.pixels.flip(0) * (1 - share)
    torch.testing.assert_close(total, SoftTargetCrossEntropy()(answer_of(made, mixed).logits, soft))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_loss_that_is_linear_in_its_target_meets_the_mixed_target(share: float) -> None:
    made, given = lesson({"cosine": 1.0}, Mixture(share)), batch(5)
    total, _ = loss_of(made, given)
    partners = given.targets["pooled"].roll(1, 0)
    mixed = share * given.pixels + (1 - share) * given.pixels.roll(1, 0)
    said = F.normalize(answer_of(made, mixed).embedding)
    target = share * given.targets["pooled"] + (1 - share) * partners
    torch.testing.assert_close(total, 1 - (said * target).sum(1).mean())


@pytest.mark.parametrize("loss", ["sample_contrastive", "mse", "relational_similarity", "similarity_kl"])
def test_losses_over_the_batch_are_mixed_too(loss: str) -> None:
    given, mixture = batch(6), Mixture(0.25)
    options = {"similarity_kl": {"teacher_scale": 10.0}} if loss == "similarity_kl" else None
    mixing, plain = (lesson({loss: 1.0}, each, options) for each in (mixture, None))
    for made in (mixing, plain):
        made.objective.losses[loss].register_buffer("classes", torch.eye(CLASSES, DIM))
    total, _ = loss_of(mixing, given)
    mixed = replace(given, pixels=mixture.pixels(given.pixels))
    swapped = replace(mixed, labels=given.labels.roll(1), targets={"pooled": given.targets["pooled"].roll(1, 0)})
    (own, _), (other, _) = loss_of(plain, mixed), loss_of(plain, swapped)
    assert not torch.isclose(own, other)
    torch.testing.assert_close(total, 0.25 * own + 0.75 * other)


@pytest.mark.parametrize("mixture", [Mixture(1.0), Mixture(1.0, (3, 3, 3, 5))])
def test_a_share_of_one_changes_nothing(mixture: Mixture) -> None:
    losses, given = {"cross_entropy": 0.5, "mse": 0.5, "sample_contrastive": 0.1}, batch(5)
    gradients = []
    for each in (None, mixture):
        made = lesson(losses, each)
        total, terms = loss_of(made, given)
        total.backward()  # type: ignore[no-untyped-call]
        gradients.append([total, *terms.values(), *(p.grad for p in made.learned if p.grad is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_the_partner_takes_the_box_and_nothing_else() -> None:
    pixels = torch.arange(3.0)[:, None, None, None].expand(3, 3, PX, PX)
    mixed = Mixture(0.0, (2, 1, 7, 4)).pixels(pixels)
    inside = torch.zeros(PX, PX, dtype=torch.bool)
    inside[1:4, 2:7] = True
    assert (mixed[..., inside] == torch.tensor([2.0, 0.0, 1.0])[:, None, None]).all()
    assert torch.equal(mixed[..., ~inside], pixels[..., ~inside])
    assert pixels[0].sum() == 0, "the batch itself is left as it was"


def test_the_share_of_a_cut_image_is_what_is_left_of_it() -> None:
    made = mixing(cutmix=1.0)
    ones = torch.stack([torch.zeros(3, PX, PX), torch.ones(3, PX, PX)])
    drawn = [made.draw(step) for step in range(1, 400)]
    shares = []
    for mixture in drawn:
        assert mixture is not None
        assert math.isclose(float(mixture.pixels(ones)[1].mean()), mixture.share, abs_tol=1e-6)
        shares.append(mixture.share)
    assert min(shares) < 0.2
    assert max(shares) > 0.95
    corners = [mixture.box[0] for mixture in drawn if mixture is not None and mixture.box is not None]
    assert set(corners) >= set(range(PX - 1)), "boxes lie everywhere"


def test_shares_are_drawn_from_the_beta_distribution() -> None:
    made = mixing(mixup=0.2)
    shares = torch.tensor([mixture.share for step in range(1, 4001) if (mixture := made.draw(step)) is not None])
    assert len(shares) == 4000
    assert abs(float(shares.mean()) - 0.5) < 0.04
    assert abs(float(shares.var()) - 0.25 / 1.4) < 0.01, "a^2 / ((2a)^2 (2a + 1)) with a = 0.2"


def test_with_both_each_has_half_of_the_batches_that_are_mixed() -> None:
    drawn = [mixing(0.8, 1.0, probability=0.5).draw(step) for step in range(1, 2001)]
    kinds = [mixture.box is None for mixture in drawn if mixture is not None]
    assert 900 < len(kinds) < 1100
    assert 430 < sum(kinds) < 570


def test_a_mixture_is_a_function_of_seed_step_and_part() -> None:
    made, other = mixing(1.0, 1.0), mixing(1.0, 1.0, seed=1)
    places = [(1, 0), (1, 1), (2, 0), (12, 3), (123, 0)]
    first = [made.draw(*place) for place in places]
    assert [made.draw(*place) for place in reversed(places)] == first[::-1]
    assert len(set(first)) == len(places)
    assert not set(first) & {other.draw(*place) for place in places}


@pytest.mark.parametrize("settings", [AugmentConfig(), AugmentConfig(mixup=0.4, mix=0.0)])
def test_nothing_is_mixed_unless_it_is_asked_for(settings: AugmentConfig) -> None:
    assert Mixing.of(settings, image_px=PX, seed=0) is None


def test_a_mixed_run_goes_on_as_if_it_was_never_stopped(config_of: Callable[..., Config]) -> None:
    sets = ("augment.preset=strong", "losses={cross_entropy=1, mse=1}", "train.epochs=2")
    whole, parted = (config_of(*sets, "train.allow_view_mismatch=true", out=name) for name in ("whole", "parted"))
    train(whole)
    with pytest.raises(Interrupted):
        train(parted, progress=Watch(4))
    train(parted, resume=True)
    weights = [RunDir(Path(config.train.out)).weights.read_bytes() for config in (whole, parted)]
    assert weights[0] == weights[1]

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from embedkd.errors import ConfigError
from embedkd.students import Projection, parameter_count


def draw_rows(width: int) -> torch.Tensor:
    return torch.randn(40, width, generator=torch.Generator().manual_seed(7))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**63))
def test_it_is_a_matrix_and_a_shift_that_begins_at_zero(in_dim: int, out_dim: int, seed: int) -> None:
    rows, projection = draw_rows(in_dim), Projection(in_dim, out_dim, seed=seed)

    projected = projection(rows)

    assert projected.shape == (40, out_dim)
    if in_dim == out_dim:
        assert projected is rows
        assert parameter_count(projection) == 0
    else:
        assert projection.weight is not None
        assert projection.bias is not None
        assert parameter_count(projection) == (in_dim + 1) * out_dim
        assert not projection.bias.any()
        torch.testing.assert_close(projected, rows @ projection.weight.T + projection.bias, rtol=1e-4, atol=1e-5)


def test_the_shift_is_learned_too() -> None:
    projection = Projection(4, 3, seed=0)
    torch.autograd.backward(projection(draw_rows(4)).sum())

    assert projection.weight is not None
    assert projection.bias is not None
    assert projection.weight.grad is not None
    torch.testing.assert_close(projection.bias.grad, torch.full((3,), 40.0))


def test_a_seed_and_the_widths_decide_the_initial_weights() -> None:
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), Projection(8, 5, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    with torch.device("meta"):
        same = Projection(8, 5, seed=3).state_dict()

    assert first.keys() == {"weight", "bias"}
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["weight"], Projection(8, 5, seed=4).state_dict()["weight"])


def test_an_identity_has_no_state() -> None:
    assert Projection(8, 8, seed=0).state_dict() == {}


@pytest.mark.parametrize(("in_dim", "out_dim"), [(1280, 256), (256, 1280)])
def test_rows_keep_their_scale_and_nearly_their_angles(in_dim: int, out_dim: int) -> None:
    rows = draw_rows(in_dim)

    projected = Projection(in_dim, out_dim, seed=0)(rows)

    assert projected.std().item() == pytest.approx(rows.std().item(), rel=0.1)
    before, after = (F.normalize(r) @ F.normalize(r).T for r in (rows, projected))
    assert (before - after).detach().square().mean().sqrt() < 0.1


def test_batches_of_any_shape_are_projected_along_the_last_axis() -> None:
    assert Projection(4, 2, seed=0)(torch.zeros(5, 3, 4)).shape == (5, 3, 2)


@pytest.mark.parametrize("out_dim", [4, 2])
def test_rows_of_another_width_are_told(out_dim: int) -> None:
    with pytest.raises(ConfigError, match=r"projection: expected rows of width 4, got \[5, 3\]"):
        Projection(4, out_dim, seed=0)(torch.zeros(5, 3))


def test_widths_that_cannot_be_are_told() -> None:
    with pytest.raises(ConfigError, match="projection: expected widths of at least 1, got 4 to 0"):
        Projection(4, 0, seed=0)


def test_printing_shows_the_widths() -> None:
    assert repr(Projection(4, 2, seed=0)) == "Projection(4, 2)"
    assert repr(Projection(4, 4, seed=0)) == "Projection(4, 4, identity)"

import timm
import torch
from timm.layers import QuickGELU
from torch import nn

from embedkd.students.quick_gelu import FusedQuickGELU, fuse_quick_gelu


def saved_numbers(layer: nn.Module, x: torch.Tensor) -> int:
    """How many numbers the backward pass keeps of x."""
    kept: dict[int, torch.Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(t.data_ptr(), t), lambda t: t):
        layer(x)
    return sum(tensor.numel() for tensor in kept.values() if tensor.ndim)


def test_it_is_the_same_function_with_the_same_gradients() -> None:
    x = torch.linspace(-40, 40, 8001, dtype=torch.float64, requires_grad=True)
    for order in (torch.ones_like(x), x.detach().cos()):
        answers = []
        for layer in (QuickGELU(), FusedQuickGELU()):
            y = layer(x)
            (first,) = torch.autograd.grad((y * order).sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), x)
            answers.append((y.detach(), first.detach(), second))
        torch.testing.assert_close(answers[1], answers[0], rtol=1e-13, atol=1e-13)


def test_half_precision_and_extremes_stay_what_they_are() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        limit = torch.finfo(dtype).max / 4
        x = torch.tensor([-limit, -1.0, 0.0, 1.0, limit], dtype=dtype)
        y = FusedQuickGELU()(x)
        assert y.dtype == dtype
        torch.testing.assert_close(y, QuickGELU()(x))


def test_half_as_much_is_kept_for_the_backward_pass() -> None:
    x = torch.randn(50, requires_grad=True)
    assert saved_numbers(FusedQuickGELU(), x) == 50
    assert saved_numbers(QuickGELU(), x) == 100


def test_it_takes_the_place_of_timms_in_any_model_and_leaves_its_state() -> None:
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 3}
    model = timm.create_model("vit_base_patch32_clip_quickgelu_224", **options).eval()
    pixels = torch.randn(2, 3, 16, 16)
    before, names = model(pixels), list(model.state_dict())
    assert any(type(module) is QuickGELU for module in model.modules())
    fuse_quick_gelu(model)
    assert not any(type(module) is QuickGELU for module in model.modules())
    assert list(model.state_dict()) == names
    torch.testing.assert_close(model(pixels), before, rtol=0, atol=1e-6)

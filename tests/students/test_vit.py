from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from timm.layers import DropPath, QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from embedkd.errors import ConfigError
from embedkd.students import StudentName, StudentOptions, TimmStudent, VitSpec

DrawPixels: TypeAlias = Callable[[int, int], torch.Tensor]

SPEC = VitSpec(layers=3, width=32, heads=4, mlp_width=48, patch_px=4, source="small, for tests")


def build(image_px: int = 16, seed: int = 0, **options: float) -> TimmStudent:
    name = StudentName("vit-small", "vit_base_patch16_224", SPEC.timm_arguments())
    asked = StudentOptions(**options)  # type: ignore[arg-type]
    return TimmStudent(name, num_classes=5, image_px=image_px, options=asked, seed=seed)


def plain_forward(state: dict[str, torch.Tensor], pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """CLIP's vision transformer as the papers describe it, without timm and without torch.nn."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        centred = x - x.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def attend(name: str, x: torch.Tensor) -> torch.Tensor:
        heads = []
        for head in linear(f"{name}.qkv", x).reshape(*x.shape[:2], 3, SPEC.heads, -1).unbind(dim=3):
            query, key, value = head.unbind(dim=2)
            scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
            heads.append(scores.softmax(dim=-1) @ value)
        return linear(f"{name}.proj", torch.cat(heads, dim=-1))

    patch = SPEC.patch_px
    patches = pixels.unfold(2, patch, patch).unfold(3, patch, patch)  # [B, 3, rows, columns, patch, patch]
    flat = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    tokens = flat @ state["patch_embed.proj.weight"].flatten(1).T
    tokens = torch.cat([state["cls_token"].expand(len(pixels), -1, -1), tokens], dim=1) + state["pos_embed"]
    tokens = norm("norm_pre", tokens)
    for layer in range(SPEC.layers):
        block = f"blocks.{layer}"
        tokens = tokens + attend(f"{block}.attn", norm(f"{block}.norm1", tokens))
        hidden = linear(f"{block}.mlp.fc1", norm(f"{block}.norm2", tokens))
        tokens = tokens + linear(f"{block}.mlp.fc2", hidden * torch.sigmoid(1.702 * hidden))
    embedding = norm("norm", tokens)[:, 0]
    return embedding, linear("head", embedding)


def test_agrees_with_a_plain_forward_in_float64(draw_pixels: DrawPixels) -> None:
    student, pixels = build().double(), draw_pixels(3, 16).double()
    with torch.no_grad():
        for parameter in student.parameters():  # biases start at 0 and norms at 1, which would hide an exchange
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )

    answer = student(pixels)
    embedding, logits = plain_forward(student.model.state_dict(), pixels)

    torch.testing.assert_close(answer.embedding, embedding)
    torch.testing.assert_close(answer.logits, logits)


def test_timm_gives_the_same_answer_from_the_same_weights(draw_pixels: DrawPixels) -> None:
    student, pixels = build().eval(), draw_pixels(3, 16)
    options = {"embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 1.5, "pre_norm": True, "act_layer": QuickGELU}
    alone = VisionTransformer(img_size=16, patch_size=4, num_classes=5, **options).eval()

    alone.load_state_dict(student.model.state_dict())

    answer = student(pixels)
    torch.testing.assert_close(answer.logits, alone(pixels), rtol=0, atol=1e-6)  # QuickGELU rounds elsewhere
    embedding = alone.forward_head(alone.forward_features(pixels), pre_logits=True)
    torch.testing.assert_close(answer.embedding, embedding, rtol=0, atol=1e-6)


def test_a_seed_decides_all_initial_weights() -> None:
    one, same, other = build(seed=1).state_dict(), build(seed=1).state_dict(), build(seed=2).state_dict()

    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.head.weight"], other["model.head.weight"])
    assert not torch.equal(one["model.pos_embed"], other["model.pos_embed"])


def test_the_global_generator_neither_decides_nor_moves() -> None:
    torch.manual_seed(5)
    state, first = torch.get_rng_state(), build().state_dict()
    assert torch.equal(torch.get_rng_state(), state)

    torch.manual_seed(6)
    second = build().state_dict()

    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_default_device_changes_nothing() -> None:
    expected = build().state_dict()

    with torch.device("meta"):
        state = build().state_dict()

    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_depth_drops_more_paths_and_only_while_training(draw_pixels: DrawPixels) -> None:
    student, pixels = build(drop_path=0.6), draw_pixels(8, 16)
    rates = [module.drop_prob for module in student.modules() if isinstance(module, DropPath)]

    assert rates == pytest.approx([0.3, 0.3, 0.6, 0.6])
    assert not torch.equal(student(pixels).logits, student(pixels).logits)
    student.eval()
    assert torch.equal(student(pixels).logits, student(pixels).logits)


def test_attention_is_dropped_only_while_training(draw_pixels: DrawPixels) -> None:
    student, pixels = build(dropout=0.5), draw_pixels(8, 16)

    assert not torch.equal(student(pixels).logits, student(pixels).logits)
    assert torch.equal(student.eval()(pixels).logits, build().eval()(pixels).logits)
    rates = {name.rpartition(".")[2]: m.p for name, m in student.named_modules() if isinstance(m, nn.Dropout) and m.p}
    assert rates == {"attn_drop": 0.5}


def test_without_dropping_training_is_no_game_of_chance(draw_pixels: DrawPixels) -> None:
    student, pixels = build(), draw_pixels(2, 16)

    assert torch.equal(student(pixels).logits, student(pixels).logits)


def test_samples_do_not_see_one_another(draw_pixels: DrawPixels) -> None:
    student, pixels = build(), draw_pixels(4, 16)

    together = student(pixels)
    alone = [student(image[None]) for image in pixels]

    torch.testing.assert_close(together.embedding, torch.cat([answer.embedding for answer in alone]))
    torch.testing.assert_close(together.logits, torch.cat([answer.logits for answer in alone]))


def test_gradients_of_logits_reach_every_parameter_and_of_embeddings_all_but_the_head(draw_pixels: DrawPixels) -> None:
    student, pixels = build(), draw_pixels(4, 16)
    with torch.no_grad():
        student.model.cls_token.normal_(generator=torch.Generator().manual_seed(0))

    def reached(value: torch.Tensor) -> set[str]:
        names, parameters = zip(*student.named_parameters(), strict=True)
        gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
        return {name for name, gradient in zip(names, gradients, strict=True) if gradient.any()}

    everything = {name for name, _ in student.named_parameters()}
    assert reached(student(pixels).logits.square().sum()) == everything
    assert reached((student(pixels).embedding * torch.arange(32)).sum()) == everything - {
        "model.head.weight",
        "model.head.bias",
    }


def test_it_learns_a_handful_of_images(draw_pixels: DrawPixels) -> None:
    student, pixels, labels = build(image_px=8), draw_pixels(10, 8), torch.arange(10) % 5
    optimiser = torch.optim.AdamW(student.parameters(), lr=3e-3)
    for _ in range(20):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(student(pixels).logits, labels))
        optimiser.step()

    assert torch.equal(student(pixels).logits.argmax(dim=1), labels)


def test_bfloat16_autocast_gives_nearly_the_same(draw_pixels: DrawPixels) -> None:
    student, pixels = build(), draw_pixels(4, 16)
    exact = student(pixels)

    with torch.autocast("cpu", torch.bfloat16):
        answer = student(pixels)

    similarity = F.cosine_similarity(answer.embedding.float(), exact.embedding)
    assert similarity.min() > 0.999


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 1, 16, 16), (3, 16, 16), (2, 3, 16, 8)])
def test_pixels_of_another_shape_are_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        build()(torch.zeros(shape))

    assert str(caught.value) == (
        f"student: expected pixels [B, 3, 16, 16], got {list(shape)}; resize the images to student.image_px"
    )


def test_positions_and_class_token_are_not_decayed() -> None:
    student = build()

    names = {name for name, parameter in student.named_parameters() if parameter.ndim > 1} & student.no_weight_decay()

    assert names == {"model.pos_embed", "model.cls_token"}


def test_there_is_one_position_a_patch_and_one_for_the_class_token() -> None:
    student = build(image_px=24, patch_px=8)

    assert student.model.pos_embed.shape == (1, 3 * 3 + 1, 32)
    assert isinstance(student.model.head, nn.Linear)

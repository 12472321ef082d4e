"""Students of timm's own kinds; the paper's are in test_vit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from embedkd.errors import ConfigError, UnknownNameError
from embedkd.students import StudentOptions, TimmStudent, build_student, describe_student

DrawPixels = Callable[[int, int], torch.Tensor]

# One of each way in which timm pools and classifies: a linear layer on pooled maps; a hidden layer behind the pooling;
# a class token; the mean of tokens; attention; norm and pooling in one head; windows; a classifier that is a
# convolution.
KINDS = {
    "timm:test_resnet": 32,
    "timm:mobilenetv3_small_050": 32,
    "timm:test_vit": 32,
    "timm:test_vit2": 32,
    "timm:test_vit3": 32,
    "timm:test_convnext": 32,
    "timm:test_mambaout": 32,
    "timm:swin_tiny_patch4_window7_224": 28,
    "timm:resnetv2_18": 32,
}


def build(name: str, image_px: int = 32, *, seed: int = 0, num_classes: int = 5, **options: Any) -> TimmStudent:
    return build_student(name, num_classes=num_classes, image_px=image_px, options=StudentOptions(**options), seed=seed)


@pytest.mark.parametrize("name", KINDS)
def test_a_student_says_what_timm_says(name: str, draw_pixels: DrawPixels) -> None:
    student, pixels = build(name, KINDS[name]).eval(), draw_pixels(2, KINDS[name])
    model = student.model

    embedding, logits, taps = student(pixels)

    assert embedding.shape == (2, student.embedding_dim)
    assert logits.shape == (2, 5)
    assert not taps
    torch.testing.assert_close(logits, model(pixels))
    torch.testing.assert_close(embedding, model.forward_head(model.forward_features(pixels), pre_logits=True))


@pytest.mark.parametrize("name", ["timm:test_resnet", "timm:test_vit"])
def test_a_seed_decides_all_initial_weights(name: str) -> None:
    torch.manual_seed(1)
    state, first = torch.get_rng_state(), build(name, seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    same, other = build(name, seed=3).state_dict(), build(name, seed=4).state_dict()

    assert all(torch.equal(first[key], same[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "taps"),
    [
        ("timm:test_vit", ("cls@-2", "patch_mean@0", "cls@5")),
        ("timm:test_resnet", ("patch_mean@-2", "patch_mean@4")),
        ("timm:test_efficientnet", ("patch_mean@2",)),
        ("vit-tiny", ("cls@1", "patch_mean@1")),
    ],
)
def test_taps_are_given_out_and_change_nothing(name: str, taps: tuple[str, ...], draw_pixels: DrawPixels) -> None:
    pixels = draw_pixels(3, 32)
    plain, tapped = build(name).eval()(pixels), (student := build(name, taps=taps)).eval()(pixels)

    assert torch.equal(plain.embedding, tapped.embedding)
    assert torch.equal(plain.logits, tapped.logits)
    assert {tap: rows.shape for tap, rows in tapped.taps.items()} == {tap: (3, student.tap_dims[tap]) for tap in taps}


def test_a_class_token_is_tapped_behind_its_block(draw_pixels: DrawPixels) -> None:
    student, pixels = build("vit-tiny", taps=("cls@-3", "patch_mean@1", "cls@3")).eval(), draw_pixels(2, 32)
    said: dict[int, torch.Tensor] = {}
    for number, block in enumerate(student.model.blocks):
        block.register_forward_hook(lambda _, __, tokens, number=number: said.update({number: tokens}))

    answer = student(pixels)

    assert torch.equal(answer.taps["cls@-3"], said[1][:, 0])
    torch.testing.assert_close(answer.taps["patch_mean@1"], said[1][:, 1:].mean(dim=1))
    assert torch.equal(student.model.norm(answer.taps["cls@3"]), answer.embedding)


def test_a_stage_of_a_convolutional_network_is_averaged_over_its_cells(draw_pixels: DrawPixels) -> None:
    student, pixels = build("timm:resnet18", 64, taps=("patch_mean@3",)).eval(), draw_pixels(2, 64)
    said: list[torch.Tensor] = []
    student.model.layer3.register_forward_hook(lambda _, __, cells: said.append(cells))

    answer = student(pixels)

    assert answer.taps["patch_mean@3"].shape == (2, 256)
    torch.testing.assert_close(answer.taps["patch_mean@3"], said[0].mean(dim=(2, 3)))


@pytest.mark.parametrize("tap", ["cls@4", "cls@-5", "cls", "patch_mean@", "pooled@1", "cls@x", "cls@--1", "cls@²"])
def test_a_layer_that_is_not_there_is_told(tap: str) -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown inner layer of vit-tiny '.*'; did you mean|known: cls@0, cls@1"
    ):
        build("vit-tiny", taps=(tap,))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("timm:resnet18", {"patch_px": 4}, "timm:resnet18 has no patches of a size to choose"),
        ("timm:resnet18", {"mask_ratio": 0.5}, "timm:resnet18 cannot leave out patches of its input; --mask-ratio is"),
        ("timm:swin_tiny_patch4_window7_224", {"mask_ratio": 0.5}, "cannot leave out patches"),
        ("timm:resnet18", {"dropout": 0.1}, "timm:resnet18 has no attention weights"),
        ("timm:vgg11", {"drop_path": 0.1}, "timm:vgg11 has no branches that timm can drop"),
        (
            "timm:resnet18",
            {"extra": {"drop_rat": 0.1}},
            "of student.options for timm:resnet18 'drop_rat'; did you mean",
        ),
        ("timm:resnet18", {"extra": {"checkpoint_path": "x"}}, "unknown key of student.options"),
        ("timm:resnet18", {"extra": {"pretrained": True}}, "unknown key of student.options"),
        ("timm:resnet18", {"extra": {"num_classes": 3}}, "unknown key of student.options"),
        ("timm:resnet18", {"extra": {"drop_path_rate": 0.1}}, "unknown key of student.options"),
        ("vit-tiny", {"extra": {"embed_dim": 4}}, "unknown key of student.options for vit-tiny"),
        ("timm:resnet18", {"extra": {"layers": 3}}, "timm:resnet18 cannot be a student"),
        ("timm:resnet18", {"extra": {"global_pool": "medium"}}, "timm:resnet18 cannot be a student"),
        ("timm:crossvit_9_240", {}, "has several classifiers|cannot be a student"),
        ("timm:levit_128s", {}, "cannot be a student for images of 32 px"),
    ],
)
def test_an_option_that_is_not_for_this_student_is_one_clear_error(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(name, **options)

    assert str(caught.value).count("\n") == 0


def test_further_arguments_reach_the_model(draw_pixels: DrawPixels) -> None:
    student = build("timm:test_vit", extra={"global_pool": "avg", "drop_rate": 0.5})

    answer = student.eval()(draw_pixels(2, 32))

    tokens = student.model.forward_features(draw_pixels(2, 32))
    torch.testing.assert_close(answer.embedding, student.model.fc_norm(tokens[:, 1:].mean(dim=1)))
    assert student.model.head_drop.p == 0.5


def test_patches_and_dropped_paths_are_chosen() -> None:
    student = build("timm:test_vit", patch_px=8, drop_path=0.3, dropout=0.1)

    assert student.model.patch_embed.grid_size == (4, 4)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in student.model.blocks]
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0.3)
    assert student.model.blocks[0].attn.attn_drop.p == 0.1


@pytest.mark.parametrize("name", ["vit-tiny", "timm:test_vit"])
def test_a_masked_student_sees_a_share_of_its_patches_while_training(name: str, draw_pixels: DrawPixels) -> None:
    student, pixels = build(name, 64, patch_px=8, mask_ratio=0.75), draw_pixels(3, 64)
    seen: list[torch.Tensor] = []
    student.model.norm_pre.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))

    student(pixels)
    first, *_ = seen
    student(pixels)
    student.eval()(pixels)

    assert [tokens.shape[1] for tokens in seen] == [16 + 1, 16 + 1, 64 + 1]
    whole = seen[2]
    # The class token is always there, and the others are tokens of the image, each once, others for each image.
    torch.testing.assert_close(first[:, 0], whole[:, 0])
    places = [[int((whole[b] - token).abs().sum(-1).argmin()) for token in first[b]] for b in range(3)]
    assert all(len(set(row)) == 17 for row in places)
    assert len({tuple(sorted(row)) for row in places}) == 3
    assert not torch.equal(seen[0], seen[1])


def test_what_is_masked_is_a_function_of_the_generator_s_seed(draw_pixels: DrawPixels) -> None:
    student, pixels = build("vit-tiny", mask_ratio=0.5), draw_pixels(4, 32)
    answers = []
    for seed in (7, 8, 7):
        torch.manual_seed(seed)
        answers.append(student(pixels).embedding)

    assert torch.equal(answers[0], answers[2])
    assert not torch.equal(answers[0], answers[1])


def test_a_masked_student_may_be_tapped(draw_pixels: DrawPixels) -> None:
    answer = build("vit-tiny", mask_ratio=0.5, taps=("cls@-2", "patch_mean@0"))(draw_pixels(2, 32))

    assert answer.taps["cls@-2"].shape == answer.taps["patch_mean@0"].shape == (2, 128)


def test_batch_norm_is_noticed() -> None:
    assert build("timm:test_resnet").has_batch_norm
    assert not build("vit-tiny").has_batch_norm
    assert not build("timm:test_convnext").has_batch_norm


def test_a_description_is_that_of_the_student() -> None:
    options = StudentOptions(patch_px=8)
    facts = describe_student("timm:test_vit", num_classes=5, image_px=32, options=options)
    student = build("timm:test_vit", patch_px=8)

    assert facts.parameters == sum(p.numel() for p in student.parameters())
    assert facts.embedding_dim == student.embedding_dim == 64
    assert facts.taps == {f"{kind}@{layer}": 64 for layer in range(6) for kind in ("cls", "patch_mean")}


def test_positions_of_timm_s_models_are_not_decayed() -> None:
    assert {"model.pos_embed", "model.cls_token"} <= build("timm:test_vit").no_weight_decay()
    assert build("timm:test_resnet").no_weight_decay() == set()


def test_images_that_no_patch_fits_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected patch_px to divide image_px = 40, got 16"):
        build("timm:test_vit", 40)


def test_a_model_that_timm_cannot_look_into_is_a_student_without_taps(draw_pixels: DrawPixels) -> None:
    assert describe_student("timm:test_vit_relpos", num_classes=5, image_px=160).taps == {}
    assert build("timm:test_vit_relpos", 160).eval()(draw_pixels(1, 160)).logits.shape == (1, 5)

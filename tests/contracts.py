"""Suites that every implementation of an interface must pass. A test class inherits one and gives its fixtures."""

import pickle
import re
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from embedkd.errors import TeacherError
from embedkd.records import LAYERED_OUTPUTS, TeacherSpec

if TYPE_CHECKING:
    from embedkd.teachers import Teacher

_SIZES = [(96, 80), (31, 200), (640, 3), (1, 1)]


def _picture(width: int, height: int, seed: int) -> Image.Image:
    """Smooth colours, so that resizing has something to interpolate; another picture for another seed."""
    coarse = torch.randint(0, 256, (4, 4, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(coarse.numpy(), "RGB").resize((width, height), Image.Resampling.BICUBIC)


def width_of(teacher: "Teacher", name: str) -> int:
    output = teacher.spec.output(name)
    assert output is not None
    return output.dim


class TeacherContract:
    """What a stage relies on. The inheriting class gives a fixture ``teacher``; one that is loaded once is enough."""

    @pytest.fixture
    def teacher(self) -> "Teacher":
        raise NotImplementedError

    @pytest.fixture
    def names(self, teacher: "Teacher") -> list[str]:
        """Outputs of images."""
        return [output.name for output in teacher.spec.outputs if output.name != "text"]

    @pytest.fixture
    def pixels(self, teacher: "Teacher") -> torch.Tensor:
        return torch.stack([teacher.preprocess(_picture(96, 80, seed)) for seed in range(5)])

    def test_the_spec_survives_json_with_its_fingerprint(self, teacher: "Teacher") -> None:
        again = TeacherSpec.from_json(teacher.spec.to_json())
        assert again == teacher.spec
        assert again.fingerprint == teacher.spec.fingerprint

    def test_the_spec_says_where_everything_came_from(self, teacher: "Teacher") -> None:
        spec = teacher.spec
        assert re.fullmatch(r"[0-9a-f]{64}", spec.weights_sha256)
        assert re.fullmatch(r"[a-z0-9.-]+-[0-9a-f]{8}", spec.teacher_id)
        assert spec.source
        assert "torch" in dict(spec.libraries)
        assert spec.precision in {"float32", "bfloat16", "float16"}

    def test_outputs_have_distinct_names_and_widths(self, teacher: "Teacher", names: list[str]) -> None:
        assert len(set(names)) == len(names) > 0
        assert all(output.dim > 0 for output in teacher.spec.outputs)

    @pytest.mark.parametrize(("width", "height"), _SIZES)
    def test_any_image_becomes_pixels_of_one_shape(self, teacher: "Teacher", width: int, height: int) -> None:
        image = _picture(width, height, seed=0)
        before = image.tobytes()
        pixels = teacher.preprocess(image)
        assert pixels.shape == (3, *teacher.spec.preprocess.crop_px)
        assert pixels.dtype == torch.float32
        assert torch.isfinite(pixels).all()
        assert image.tobytes() == before

    def test_preprocess_normalises_as_the_spec_says(self, teacher: "Teacher") -> None:
        facts = teacher.spec.preprocess
        for level in (0, 255):
            pixels = teacher.preprocess(Image.new("RGB", (64, 64), (level,) * 3))
            expected = (level / 255 - torch.tensor(facts.mean)) / torch.tensor(facts.std)
            torch.testing.assert_close(pixels, expected[:, None, None].expand_as(pixels), atol=1e-6, rtol=1e-6)

    def test_preprocess_travels_to_workers_without_the_model(self, teacher: "Teacher") -> None:
        blob = pickle.dumps(teacher.preprocess)
        image = _picture(50, 70, seed=1)
        assert len(blob) < 100_000
        assert torch.equal(pickle.loads(blob)(image), teacher.preprocess(image))

    def test_every_output_is_a_plain_float32_matrix(
        self, teacher: "Teacher", pixels: torch.Tensor, names: list[str]
    ) -> None:
        found = teacher.embed(pixels, names)
        assert list(found) == names
        for name, rows in found.items():
            assert rows.shape == (len(pixels), width_of(teacher, name))
            assert rows.dtype == torch.float32
            assert rows.device.type == "cpu"
            assert torch.isfinite(rows).all()
            assert not rows.requires_grad
            assert not rows.is_inference()

    def test_different_images_have_different_rows(
        self, teacher: "Teacher", pixels: torch.Tensor, names: list[str]
    ) -> None:
        for rows in teacher.embed(pixels, names).values():
            assert len(torch.unique(rows, dim=0)) == len(pixels)

    def test_one_output_alone_equals_the_same_among_others(
        self, teacher: "Teacher", pixels: torch.Tensor, names: list[str]
    ) -> None:
        together = teacher.embed(pixels, names)
        for name in names:
            alone = teacher.embed(pixels, [name])
            assert list(alone) == [name]
            assert torch.equal(alone[name], together[name])

    def test_the_same_batch_gives_the_same_bits(
        self, teacher: "Teacher", pixels: torch.Tensor, names: list[str]
    ) -> None:
        before = pixels.clone()
        first, second = teacher.embed(pixels, names), teacher.embed(pixels, names)
        assert all(torch.equal(first[name], second[name]) for name in names)
        assert torch.equal(pixels, before)

    def test_a_row_depends_on_its_own_image_alone(
        self, teacher: "Teacher", pixels: torch.Tensor, names: list[str]
    ) -> None:
        order = torch.tensor([3, 0, 4])
        together, few = teacher.embed(pixels, names), teacher.embed(pixels[order], names)
        for name in names:
            torch.testing.assert_close(few[name], together[name][order], atol=1e-4, rtol=1e-4)

    def test_an_empty_batch_gives_no_rows(self, teacher: "Teacher", pixels: torch.Tensor, names: list[str]) -> None:
        for name in names:
            assert teacher.embed(pixels[:0], [name])[name].shape == (0, width_of(teacher, name))

    def test_an_output_it_lacks_is_named_beside_those_it_has(
        self, teacher: "Teacher", pixels: torch.Tensor, names: list[str]
    ) -> None:
        with pytest.raises(TeacherError, match=f"no output 'smell'; it has: {re.escape(teacher.spec.offer)}"):
            teacher.embed(pixels, [names[0], "smell"])

    def test_other_pixels_are_refused_with_both_shapes(
        self, teacher: "Teacher", pixels: torch.Tensor, names: list[str]
    ) -> None:
        height, width = teacher.spec.preprocess.crop_px
        for wrong in (pixels[0], pixels[:, :, 1:], pixels.to(torch.float64), (pixels * 10).to(torch.uint8)):
            with pytest.raises(TeacherError, match=re.escape(f"[B, 3, {height}, {width}]")) as caught:
                teacher.embed(wrong, names)
            assert str(list(wrong.shape)) in str(caught.value)

    def test_inner_layers_are_as_many_as_the_spec_says(self, teacher: "Teacher", pixels: torch.Tensor) -> None:
        layers, bases = teacher.spec.layers, [n for n in LAYERED_OUTPUTS if teacher.spec.output(n)]
        assert (layers > 0) <= bool(bases)
        for base in bases if layers else ():
            same = [f"{base}@-{layers}", f"{base}@0"], [f"{base}@-1", f"{base}@{layers - 1}"]
            for pair in same:
                first, second = teacher.embed(pixels[:2], pair).values()
                assert torch.equal(first, second)
            with pytest.raises(TeacherError, match=f"no output '{base}@{layers}'"):
                teacher.embed(pixels[:2], [f"{base}@{layers}"])

    def test_captions_are_embedded_as_images_are(self, teacher: "Teacher") -> None:
        assert (teacher.tokenize is None) == (teacher.spec.output("text") is None) == (teacher.spec.tokenizer is None)
        if teacher.tokenize is None:
            with pytest.raises(TeacherError, match="has no output 'text'"):
                teacher.embed_text(torch.zeros(1, 4, dtype=torch.int64))
            return
        captions = ["a cat", "two dogs and a horse", "", "word " * 500]
        tokens = pickle.loads(pickle.dumps(teacher.tokenize))(captions)
        assert tokens.dtype == torch.int64
        assert len(tokens) == len(captions)
        rows = teacher.embed_text(tokens)
        assert rows.shape == (4, width_of(teacher, "text"))
        assert (rows.dtype, rows.device.type, rows.requires_grad, rows.is_inference()) == (
            *(torch.float32, "cpu", False, False),
        )
        assert torch.isfinite(rows).all()
        torch.testing.assert_close(teacher.embed_text(tokens[1:2]), rows[1:2], atol=1e-4, rtol=1e-4)
        assert teacher.embed_text(tokens[:0]).shape == (0, rows.shape[1])
        for wrong in (tokens[0], tokens.float()):
            with pytest.raises(TeacherError, match=r"expects int64 tokens \[N, T\]"):
                teacher.embed_text(wrong)

    def test_running_it_leaves_the_callers_state_alone(
        self, teacher: "Teacher", pixels: torch.Tensor, names: list[str]
    ) -> None:
        random_state = torch.get_rng_state()
        plain = teacher.embed(pixels, names)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under_autocast = teacher.embed(pixels, names)
        assert torch.is_grad_enabled()
        assert torch.equal(torch.get_rng_state(), random_state)
        assert all(torch.equal(plain[name], under_autocast[name]) for name in names)

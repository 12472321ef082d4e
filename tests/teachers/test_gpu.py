"""Teachers on a CUDA device: the same embeddings as on the CPU, in every precision that the device has."""

from pathlib import Path

import pytest
import torch

from embedkd.teachers import LoadOptions, Teacher, load_teacher

pytestmark = pytest.mark.gpu

# float32 without TF32 differs in the order of sums alone; half precisions have 8 and 11 bits.
LEAST_COSINE = {"float32": 0.999999, "bfloat16": 0.995, "float16": 0.9999}


@pytest.fixture
def pixels(lite0: Teacher) -> torch.Tensor:
    height, width = lite0.spec.preprocess.crop_px
    return torch.randn(6, 3, height, width, generator=torch.Generator().manual_seed(0))


def cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.double(), b.double())


@pytest.mark.parametrize("precision", LEAST_COSINE)
def test_rows_are_those_of_the_cpu(lite0: Teacher, pixels: torch.Tensor, precision: str) -> None:
    teacher = load_teacher("packaged:efficientnet-lite0", LoadOptions("cuda", precision))
    assert teacher.spec.precision == precision
    found, expected = (t.embed(pixels, ["pooled", "logits"]) for t in (teacher, lite0))
    for name, rows in found.items():
        assert rows.device.type == "cpu"
        assert rows.dtype == torch.float32
        assert cosines(rows, expected[name]).min() >= LEAST_COSINE[precision]


def test_auto_takes_the_best_half_precision() -> None:
    spec = load_teacher("packaged:efficientnet-lite0", LoadOptions("cuda")).spec
    assert spec.precision == ("bfloat16" if torch.cuda.get_device_capability() >= (8, 0) else "float16")


def test_float32_means_float32(vit_folder: Path) -> None:
    """TF32 would change about every value by 1e-3 of its size."""
    torch.backends.cudnn.allow_tf32 = True
    teachers = [load_teacher(str(vit_folder), LoadOptions(device, "float32")) for device in ("cuda", "cpu")]
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    on_gpu, on_cpu = (teacher.embed(pixels, ["cls"])["cls"] for teacher in teachers)
    torch.testing.assert_close(on_gpu, on_cpu, atol=1e-4, rtol=1e-4)
    assert torch.backends.cudnn.allow_tf32  # a caller's setting is put back


def test_pinned_pixels_and_plain_ones_say_the_same(pixels: torch.Tensor) -> None:
    teacher = load_teacher("packaged:efficientnet-lite0", LoadOptions("cuda"))
    plain, pinned = (teacher.embed(p, ["pooled"])["pooled"] for p in (pixels, pixels.pin_memory()))
    assert torch.equal(plain, pinned)


def test_a_compiled_teacher_says_nearly_the_same(pixels: torch.Tensor) -> None:
    teacher = load_teacher("packaged:efficientnet-lite0", LoadOptions("cuda"))
    eager, compiled = (t.embed(pixels, ["pooled"])["pooled"] for t in (teacher, teacher.compiled()))
    assert cosines(eager, compiled).min() >= LEAST_COSINE["bfloat16"]

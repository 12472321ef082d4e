"""Running a torch module as a teacher: device, precision, memory format, and the checks at the door."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from PIL.Image import Image
from torch import Tensor

from embedkd.errors import TeacherError, UnknownNameError
from embedkd.records import OutputSpec, TeacherSpec
from embedkd.teachers.base import Backbone

_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

Forward = Callable[[Tensor, frozenset[str]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class TorchTeacher:
    """A `Teacher` around a torch module; adapters build it.

    Attributes:
        spec: What the adapter knows about the model.
        preprocess: The library's own transform, RGB image to float32 [3, H, W].
        forward: From pixels [B, 3, H, W] on the device and the names wanted to at least those outputs, [B, D] each.
        device: Where the module lies.
        memory_format: What the module runs fastest with; values may differ in their last bits between formats.
        tokenize: See `Teacher.tokenize`.
        text_forward: From tokens [N, T] on the device to the output ``text``, [N, D].
        backbone: See `Teacher.backbone`.
    """

    spec: TeacherSpec
    preprocess: Callable[[Image], Tensor]
    forward: Forward
    device: torch.device
    memory_format: torch.memory_format = torch.contiguous_format
    tokenize: Callable[[Sequence[str]], Tensor] | None = None
    text_forward: Callable[[Tensor], Tensor] | None = None
    backbone: Backbone | None = None

    def embed(self, pixels: Tensor, outputs: Sequence[str]) -> dict[str, Tensor]:
        """See `Teacher.embed`."""
        widths = {output.name: output.dim for output in self._check(pixels, outputs)}
        if not len(pixels):  # some models cannot tell the shape of nothing
            return {name: torch.empty(0, widths[name]) for name in outputs}
        with self._inference():
            on_device = pixels.to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)
            found = self.forward(on_device, frozenset(outputs))
        # Copied outside of inference mode: ordinary tensors, which a caller may also use under autograd.
        return {name: found[name].to("cpu", torch.float32, copy=True) for name in outputs}

    def embed_text(self, tokens: Tensor) -> Tensor:
        """See `Teacher.embed_text`."""
        text = self.spec.output("text")
        if text is None or self.text_forward is None:
            raise TeacherError(f"{self.spec.name} has no output 'text'; it has: {self.spec.offer}")
        if tokens.dtype != torch.int64 or tokens.ndim != 2:
            raise TeacherError(
                f"{self.spec.name} expects int64 tokens [N, T] from its tokenize, "
                f"got {str(tokens.dtype).removeprefix('torch.')} {list(tokens.shape)}"
            )
        if not len(tokens):
            return torch.empty(0, text.dim)
        with self._inference():
            found = self.text_forward(tokens.to(self.device, non_blocking=True))
        return found.to("cpu", torch.float32, copy=True)

    def compiled(self) -> "TorchTeacher":
        """See `Teacher.compiled`."""
        return replace(self, forward=torch.compile(self.forward))

    @contextmanager
    def _inference(self) -> Iterator[None]:
        dtype = _DTYPES[self.spec.precision]
        # Autocast is also said where it is off: a caller's own autocast must not change what a teacher says. Nor may
        # TF32, which CUDA convolutions use by default, stand for the float32 that a store then claims.
        autocast = torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)
        exact = (
            torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if self.device.type == "cuda" else nullcontext()
        )
        with torch.inference_mode(), autocast, exact:
            yield

    def _check(self, pixels: Tensor, outputs: Sequence[str]) -> list[OutputSpec]:
        found = {name: self.spec.output(name) for name in outputs if name != "text"}
        for name in outputs:
            if found.get(name) is None:
                raise TeacherError(f"{self.spec.name} has no output '{name}'; it has: {self.spec.offer}")
        expected = (3, *self.spec.preprocess.crop_px)
        if pixels.dtype != torch.float32 or pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
            raise TeacherError(
                f"{self.spec.name} expects float32 pixels [B, {', '.join(map(str, expected))}] from its preprocess, "
                f"got {str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}"
            )
        return [output for output in found.values() if output is not None]


def choose_device(device: str) -> torch.device:
    """The device of that name.

    Raises:
        TeacherError: It names no device, or none that is at hand.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise TeacherError(f"'{device}' names no device; use cpu, cuda or cuda:0") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise TeacherError(f"no CUDA device '{device}' here, {torch.cuda.device_count()} found; use --device cpu")
    return chosen


def choose_precision(precision: str, device: torch.device) -> str:
    """The dtype of the forward pass, recorded in the spec since it decides the values.

    Args:
        precision: "auto", "float32", "bfloat16" or "float16". "auto" is bfloat16 on CUDA devices that compute in it,
            float16 on older ones, and float32 everywhere else.
        device: Where the model will run.

    Raises:
        UnknownNameError: There is no such precision.
        TeacherError: The device cannot run it.
    """
    if precision == "auto":
        if device.type != "cuda":
            return "float32"
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if precision not in _DTYPES:
        raise UnknownNameError("precision", precision, ["auto", *_DTYPES])
    if precision == "float16" and device.type == "cpu":
        raise TeacherError("float16 is no precision for a CPU; use float32 or bfloat16")
    return precision

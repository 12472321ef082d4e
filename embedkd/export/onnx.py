"""A student as an ONNX graph, and proof that another runtime says what it says."""

import json
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from embedkd.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from embedkd.students import TimmStudent
    from embedkd.training import StudentCard

OPSET: Final = 20  # what onnxruntime has read since 1.17; torch translates to it without a conversion between sets
INPUT: Final = "pixels"
OUTPUTS: Final = ("embedding", "logits")
TOLERANCE: Final = 1e-4
_BATCHES: Final = (1, 2, 3, 8, 17)
_NEEDED: Final = ("onnx", "onnxscript", "onnxruntime")
_LARGEST_BYTES: Final = 2**31 - 1  # of one file of the format


@dataclass(frozen=True)
class OnnxModel:
    """A checked graph.

    Attributes:
        data: The file.
        opset: Version of the operators that it uses.
        max_error: Greatest difference to the student over all batches and outputs, in units of the greatest value of
            that output where it is above 1.
    """

    data: bytes
    opset: int
    max_error: float


class _Answers(nn.Module):
    """A student that answers with a plain tuple."""

    def __init__(self, student: "TimmStudent") -> None:
        super().__init__()
        self.student = student

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.student(pixels)
        return answer.embedding, answer.logits


def to_onnx(student: "TimmStudent", card: "StudentCard") -> OnnxModel:
    """Translate a student, for batches of any size, and compare both on several sizes.

    Args:
        student: On the CPU, in evaluation mode.
        card: Goes into the graph's metadata, so that the file alone says how images are prepared.

    Raises:
        ConfigError: What this needs is not installed.
        TrainingError: torch cannot translate the student, or the graph says something else than it.
    """
    require_onnx()
    pixels = torch.zeros(2, 3, card.image_px, card.image_px)
    try:
        program = torch.onnx.export(
            _Answers(student).eval(),
            (pixels,),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            external_data=False,
        )
    except Exception as error:  # torch's exporter raises what any of its passes raises
        reason = " ".join(str(error).split())[:300]
        raise TrainingError(f"torch cannot translate {card.name} to ONNX: {reason}") from error
    assert program is not None
    proto = program.model_proto
    _describe(proto, card)
    if proto.ByteSize() > _LARGEST_BYTES:
        raise TrainingError(f"{card.name} takes {proto.ByteSize():,} bytes, an ONNX file at most {_LARGEST_BYTES:,}")
    data = proto.SerializeToString()
    return OnnxModel(data, OPSET, compare(student, open_session(data), card))


def require_onnx() -> None:
    """Look whether the packages are there.

    Raises:
        ConfigError: One is missing.
    """
    for name in _NEEDED:
        try:
            import_module(name)
        except ImportError as error:
            raise ConfigError(f"ONNX needs the package {name}; install it with: pip install 'embedkd[onnx]'") from error


def open_session(data: bytes, threads: int | None = None) -> Any:
    """A session of onnxruntime on the CPU.

    Args:
        data: The file.
        threads: Of one operator; None takes what torch uses.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def compare(student: "TimmStudent", session: Any, card: "StudentCard") -> float:
    """The greatest difference between a student and a session, on normal noise in batches of several sizes.

    Raises:
        TrainingError: It is above the tolerance.
    """
    draw = torch.Generator("cpu").manual_seed(0)
    worst = 0.0
    for size in _BATCHES:
        pixels = torch.randn(size, 3, card.image_px, card.image_px, generator=draw)
        with torch.inference_mode():
            answer = student(pixels)
        found = session.run(list(OUTPUTS), {INPUT: pixels.numpy()})
        for name, theirs in zip(OUTPUTS, found, strict=True):
            ours = getattr(answer, name)
            if theirs.shape != tuple(ours.shape):
                raise TrainingError(f"ONNX gives {name} of shape {list(theirs.shape)}, expected {list(ours.shape)}")
            difference = (torch.from_numpy(theirs) - ours).abs().max() / ours.abs().max().clamp(min=1)
            if not difference <= TOLERANCE:
                raise TrainingError(
                    f"ONNX differs from {card.name} by {difference:.2g} in {name} of a batch of {size}, "
                    f"expected at most {TOLERANCE:g}; nothing was written"
                )
            worst = max(worst, float(difference))
    return worst


def _describe(proto: Any, card: "StudentCard") -> None:
    facts = {
        "embedkd.student": card.name,
        "embedkd.preprocess": json.dumps(preprocess(card)),
        "embedkd.class_names": json.dumps(card.class_names),
        "embedkd.options": json.dumps(asdict(card)["options"]),
    }
    for key, value in facts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value


def preprocess(card: "StudentCard") -> dict[str, Any]:
    """How an image becomes ``pixels``, for programs."""
    return {
        "colour": "RGB",
        "resize_shorter_side_px": card.image_px,
        "interpolation": "bicubic, with antialiasing",
        "crop": "centre",
        "size_px": [card.image_px, card.image_px],
        "scale": "to [0, 1]",
        "mean": list(card.mean),
        "std": list(card.std),
        "layout": "NCHW",
        "dtype": "float32",
    }

"""What ``embedkd export`` does: a run's best student to files that need no run, and mostly no embedkd."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from embedkd.errors import EmbedKDError, UnknownNameError
from embedkd.evaluation import read_evaluation
from embedkd.export.card import RunFacts, model_card
from embedkd.export.folder import SECTION, ExportFolder, state_bytes
from embedkd.export.latency import Latency, measure
from embedkd.export.onnx import INPUT, open_session, to_onnx
from embedkd.rundir import RunDir, read_json
from embedkd.storage import write_atomic
from embedkd.training import load_student
from embedkd.training.saved import restore_student
from embedkd.training.stores import open_teacher

if TYPE_CHECKING:
    from embedkd.config import Config
    from embedkd.evaluation import Evaluation
    from embedkd.students import TimmStudent
    from embedkd.training import StudentCard

FORMATS: Final = ("safetensors", "onnx")


@dataclass(frozen=True)
class ExportResult:
    """What came of an export.

    Attributes:
        student: Its name.
        folder: Where the files lie.
        file: The one that holds the weights.
        size_bytes: Of that file.
        parameters: How many the student has.
        multiply_adds: Of its matrix products and convolutions for one image.
        latency: On this machine's CPU: torch for safetensors, onnxruntime for ONNX.
        opset: Of the ONNX graph; None for another format.
        max_error: Greatest difference of the ONNX graph to the student; None for another format.
    """

    student: str
    folder: str
    file: str
    size_bytes: int
    parameters: int
    multiply_adds: int
    latency: Latency
    opset: int | None = None
    max_error: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        """A few lines for people."""
        checked = "" if self.max_error is None else f", opset {self.opset}, differs by at most {self.max_error:.1e}"
        return (
            f"{self.folder}/{self.file}: {self.size_bytes / 1e6:.1f} MB, {self.parameters:,} parameters, "
            f"{self.multiply_adds:,} multiply-adds an image{checked}\nlatency on this CPU: {self.latency}"
        )


def export_run(run: Path, *, form: str = "safetensors", out: Path | None = None) -> ExportResult:
    """Export the best student of a run; a run that goes on may be exported too.

    The folder holds one student; other formats of the same one may be added to it.

    Args:
        run: The run folder.
        form: "safetensors" or "onnx".
        out: The folder; None takes ``export`` in the run's.

    Raises:
        UnknownNameError: There is no such format.
        ConfigError: The packages for ONNX are not installed.
        TrainingError: The run has no student, the folder holds another one, or the graph says something else.
        StorageError: A file could not be written.
    """
    if form not in FORMATS:
        raise UnknownNameError("format", form, FORMATS)
    folder = ExportFolder(out or run / "export")
    student, card = _load(run)
    folder.check(card)
    facts = _facts(RunDir(run), card)
    make = _safetensors if form == "safetensors" else _onnx
    result = make(student, card, folder)
    files = read_json(folder.config)[SECTION]["files"]
    sizes = {name: int(file["bytes"]) for name, file in sorted(files.items())}
    write_atomic(folder.readme, model_card(student, card, facts, sizes).encode())
    return result


def _load(run: Path) -> "tuple[TimmStudent, StudentCard]":
    """The student without the inner layers that only its losses looked at."""
    student, card = load_student(RunDir(run))
    if not card.options.taps:
        return student, card
    plain = replace(card, options=replace(card.options, taps=()))
    return restore_student(plain, student.state_dict()), plain


def _safetensors(student: "TimmStudent", card: "StudentCard", folder: ExportFolder) -> ExportResult:
    data = state_bytes(student)
    folder.write(folder.weights.name, data, student, card)
    with torch.inference_mode():
        latency = measure(student, card.image_px)
    return _result(card, folder, folder.weights, len(data), latency)


def _onnx(student: "TimmStudent", card: "StudentCard", folder: ExportFolder) -> ExportResult:
    model = to_onnx(student, card)
    folder.write(folder.onnx.name, model.data, student, card)
    session = open_session(model.data)
    latency = measure(lambda pixels: session.run(None, {INPUT: pixels.numpy()}), card.image_px)
    found = _result(card, folder, folder.onnx, len(model.data), latency)
    return replace(found, opset=model.opset, max_error=model.max_error)


def _result(card: "StudentCard", folder: ExportFolder, file: Path, size_bytes: int, latency: Latency) -> ExportResult:
    return ExportResult(
        student=card.name,
        folder=str(folder.path),
        file=file.name,
        size_bytes=size_bytes,
        parameters=card.parameters,
        multiply_adds=card.multiply_adds,
        latency=latency,
    )


def _facts(run: RunDir, card: "StudentCard") -> RunFacts:
    config = run.read_config()
    return RunFacts(config, run.read_result(), _evaluation(run, card), _licence(config))


def _evaluation(run: RunDir, card: "StudentCard") -> "Evaluation | None":
    """The run's evaluation, if it is of these weights."""
    found = read_evaluation(run)
    return found if found is not None and found.weights_blake2b == card.weights_blake2b else None


def _licence(config: "Config") -> str | None:
    """What the stores say of their teachers; None where one says nothing, or is not at hand any more."""
    try:
        found = [open_teacher(entry, config.train.teacher).spec.licence for entry in config.train.targets]
    except EmbedKDError:
        return None
    return ", ".join(dict.fromkeys(map(str, found))) if found and all(found) else None

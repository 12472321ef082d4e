"""An export's folder: config.json in timm's own form with the student's card in it, beside the weights it vouches for.

config.json         timm's architecture, arguments and preprocessing; under "embedkd" the card and the files' digests
model.safetensors   the weights by timm's names: timm.create_model("local-dir:FOLDER", pretrained=True)
model.onnx          the same student for other runtimes
README.md           the card for people
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch

from embedkd.errors import TrainingError
from embedkd.records import blake2b_hex
from embedkd.rundir import RunDir, read_json, write_json
from embedkd.storage import write_atomic
from embedkd.training import load_student as load_run
from embedkd.training.saved import FORMAT as CARD_FORMAT
from embedkd.training.saved import read_card, restore_student

if TYPE_CHECKING:
    from embedkd.students import TimmStudent
    from embedkd.training import StudentCard

SECTION = "embedkd"
_PREFIX = "model."  # of a student's own names, before timm's


@dataclass(frozen=True)
class ExportFolder:
    """The folder and the names in it."""

    path: Path

    @property
    def config(self) -> Path:
        """What the files are; written after them."""
        return self.path / "config.json"

    @property
    def weights(self) -> Path:
        """The weights."""
        return self.path / "model.safetensors"

    @property
    def onnx(self) -> Path:
        """The graph with its weights."""
        return self.path / "model.onnx"

    @property
    def readme(self) -> Path:
        """The card for people."""
        return self.path / "README.md"

    def check(self, card: "StudentCard") -> None:
        """Refuse a folder that another student was exported to.

        Raises:
            TrainingError: Some other student, or something else, is there.
        """
        if not self.config.exists():
            return
        theirs = read_json(self.config).get(SECTION, {})
        if not isinstance(theirs, dict) or theirs.get("student", {}).get("weights_blake2b") != card.weights_blake2b:
            raise TrainingError(f"{self.path} holds another model; remove it, or name another folder with --out")

    def write(self, name: str, data: bytes, student: "TimmStudent", card: "StudentCard") -> None:
        """Put one file there, and then the config that vouches for it and for those that were there before.

        Raises:
            StorageError: A file could not be written.
        """
        write_atomic(self.path / name, data)
        old = read_json(self.config).get(SECTION, {}).get("files", {}) if self.config.exists() else {}
        files = {**old, name: {"bytes": len(data), "blake2b": blake2b_hex(data)}}
        write_json(self.config, {**timm_config(student, card), SECTION: {"student": _card_json(card), "files": files}})


def state_bytes(student: "TimmStudent") -> bytes:
    """The weights as safetensors, by timm's names."""
    state = {name.removeprefix(_PREFIX): tensor for name, tensor in student.state_dict().items()}
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()})


def timm_config(student: "TimmStudent", card: "StudentCard") -> dict[str, Any]:
    """What timm needs to build the student again and to prepare its images.

    What is random in training is left out; who trains on asks for it again.
    """
    own = student.model.pretrained_cfg
    document: dict[str, Any] = {
        "architecture": student.architecture,
        "num_classes": card.num_classes,
        "num_features": student.embedding_dim,
        "model_args": {
            name: value for name, value in student.arguments.items() if name != "num_classes" and "drop" not in name
        },
        "pretrained_cfg": {
            "tag": SECTION,
            "custom_load": False,
            "input_size": [3, card.image_px, card.image_px],
            "fixed_input_size": bool(own.get("fixed_input_size", False)),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(card.mean),
            "std": list(card.std),
            "num_classes": card.num_classes,
            "pool_size": None,
            "first_conv": own.get("first_conv"),
            "classifier": own.get("classifier"),
        },
    }
    if card.class_names is not None:
        document["label_names"] = list(card.class_names)
    return document


def load_student(path: Path | str) -> "tuple[TimmStudent, StudentCard]":
    """A trained student, from a run folder or from what ``embedkd export`` made of one.

    Args:
        path: The folder; it may come from a stranger, nothing in it can run code.

    Returns:
        The student on the CPU, in evaluation mode, and its card: ``card.view()`` makes its input of a PIL image.

    Raises:
        TrainingError: There is no student, its files do not fit together, or only ONNX was exported.
        UnknownNameError: It is of a kind that this version does not have.
    """
    folder = ExportFolder(Path(path))
    if RunDir(folder.path).student.exists():
        return load_run(RunDir(folder.path))
    if not folder.config.exists():
        raise TrainingError(f"{folder.path} holds no student; expected a run folder, or one that embedkd export made")
    section = read_json(folder.config).get(SECTION)
    if not isinstance(section, dict) or not isinstance(section.get("student"), dict):
        raise TrainingError(f"{folder.config} was not made by embedkd export; let timm load it")
    card = read_card(section["student"], folder.config)
    state = _read_state(folder, section.get("files"))
    try:
        return restore_student(card, {f"{_PREFIX}{name}": tensor for name, tensor in state.items()}), card
    except RuntimeError as error:
        raise TrainingError(f"{folder.weights} holds no {card.name}: {str(error).partition(chr(10))[0]}") from error


def _read_state(folder: ExportFolder, files: Any) -> dict[str, Any]:
    name = folder.weights.name
    try:
        digest = files[name]["blake2b"]
    except (KeyError, TypeError) as error:
        raise TrainingError(f"{folder.path} has no {name}; export the run with --format safetensors") from error
    try:
        data = folder.weights.read_bytes()
    except OSError as error:
        raise TrainingError(f"cannot read {folder.weights}: {error.strerror}") from error
    if blake2b_hex(data) != digest:
        raise TrainingError(f"{folder.weights} is not the file that {folder.config.name} was written for")
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise TrainingError(f"{folder.weights} is no file of safetensors: {error}") from error


def _card_json(card: "StudentCard") -> dict[str, Any]:
    return {"format": CARD_FORMAT, **asdict(card)}

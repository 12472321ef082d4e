"""A classifier beside a teacher's own folder, as ``embedkd finetune`` leaves it.

    classifier.safetensors   weight [C, D] and bias [C], float32
    embedkd.json             features: the output that it reads; classes: C names; derived_from: the teacher before

The rest of the folder is what the teacher's family reads. Both files may come from a stranger.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import nn

from embedkd.errors import TeacherError
from embedkd.records import OutputSpec, canonical_json
from embedkd.storage import write_atomic
from embedkd.teachers.folders import read_json
from embedkd.teachers.weights import read_weights, refuse_misfits, weights_sha256

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from embedkd.teachers.runner import Forward, TorchTeacher

WEIGHTS_FILE = "classifier.safetensors"
CARD_FILE = "embedkd.json"
MAX_CLASSES = 65_536  # what a store holds in one row
_MAX_TEXT = 4_096
_MAX_CARD_BYTES = 64 << 20
_MAX_HEADER_BYTES = 1 << 20
_BEFORE_PATCHES = ("image", "text", "cls", "pooled")


@dataclass(frozen=True)
class Card:
    """``embedkd.json``: what the classifier reads and says, and where the teacher came from.

    Attributes:
        features: Output of the teacher that the classifier reads.
        classes: Names of its classes, in the order of the logits.
        derived_from: Name and fingerprint of the teacher before it was tuned.
        facts: More for people: how good it is, the config that made it.
    """

    features: str
    classes: tuple[str, ...]
    derived_from: str
    facts: "Mapping[str, Any]"


def with_classifier(teacher: "TorchTeacher", folder: "Path") -> "TorchTeacher":
    """The teacher with the logits of its folder's classifier; as it is where the folder has none.

    Raises:
        TeacherError: The files are incomplete or damaged, or do not fit the teacher or each other.
    """
    if not (folder / WEIGHTS_FILE).exists():
        return teacher
    card = read_card(folder)
    features = teacher.spec.output(card.features)
    if features is None or card.features in {"logits", "text"}:
        raise TeacherError(
            f"'{folder / CARD_FILE}' has a classifier of '{card.features}'; {teacher.spec.name} has no such output "
            f"to classify by, it has: {teacher.spec.offer}"
        )
    classifier = _read_classifier(folder, features.dim, len(card.classes))
    logits = OutputSpec("logits", len(card.classes))
    others = [output for output in teacher.spec.outputs if output.name != "logits"]
    before = [output for output in others if output.name in _BEFORE_PATCHES]
    spec = replace(
        teacher.spec,
        outputs=(*before, logits, *(output for output in others if output not in before)),
        weights_sha256=_digest(teacher.spec.weights_sha256, card.features, classifier),
        derived_from=card.derived_from,
    )
    return replace(teacher, spec=spec, forward=_forward_of(teacher, card.features, classifier.to(teacher.device)))


def save_classifier(folder: "Path", classifier: nn.Linear, card: Card) -> None:
    """Write both files; the card last.

    Raises:
        StorageError: They could not be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in classifier.state_dict().items()}
    write_atomic(folder / WEIGHTS_FILE, safetensors.torch.save(state))
    document = {"features": card.features, "classes": list(card.classes), "derived_from": card.derived_from}
    write_atomic(folder / CARD_FILE, canonical_json({**card.facts, **document}) + b"\n")


def read_card(folder: "Path") -> Card:
    """The card of a tuned teacher's folder.

    Raises:
        TeacherError: It is missing, or a value is of another type or too long.
    """
    file = folder / CARD_FILE
    if file.is_file() and file.stat().st_size > _MAX_CARD_BYTES:
        raise TeacherError(f"'{file}' has more than {_MAX_CARD_BYTES} bytes; it is no card of a tuned teacher")
    facts = read_json(file)
    features, names, origin = (facts.pop(name, None) for name in ("features", "classes", "derived_from"))
    texts = names if isinstance(names, list) and 1 <= len(names) <= MAX_CLASSES else [None]
    if not all(isinstance(text, str) and len(text) <= _MAX_TEXT for text in (features, origin, *texts)):
        raise TeacherError(
            f"'{file}' is no card of a tuned teacher: expected texts features and derived_from, and 1 to "
            f"{MAX_CLASSES} names of classes; copy the whole folder again"
        )
    return Card(str(features), tuple(str(text) for text in texts), str(origin), facts)


def _read_classifier(folder: "Path", dim: int, classes: int) -> nn.Linear:
    """The classifier, after its file was found to be as long as these numbers make it.

    Raises:
        TeacherError: It is not.
    """
    file = folder / WEIGHTS_FILE
    expected_bytes = 4 * classes * (dim + 1)
    size_bytes = file.stat().st_size if file.is_file() else 0
    if not expected_bytes <= size_bytes <= expected_bytes + _MAX_HEADER_BYTES:
        raise TeacherError(
            f"'{file}' has {size_bytes} bytes; expected {expected_bytes} and a header for {classes} classes of "
            f"{dim} features, as {CARD_FILE} says; copy the whole folder again"
        )
    state = read_weights([file])
    shapes = {"weight": [classes, dim], "bias": [classes]}
    refuse_misfits(f"'{file}'", _misfits(state, shapes))
    with torch.device("meta"):
        classifier = nn.Linear(dim, classes)
    classifier.load_state_dict(state, assign=True)
    return classifier.eval().requires_grad_(False)


def _misfits(state: "Mapping[str, Tensor]", shapes: "Mapping[str, list[int]]") -> list[str]:
    found = [f"{name} is left over" for name in state if name not in shapes]
    for name, shape in shapes.items():
        tensor = state.get(name)
        if tensor is None:
            found.append(f"{name} is missing")
        elif list(tensor.shape) != shape or tensor.dtype != torch.float32:
            found.append(f"{name} is {tensor.dtype} {list(tensor.shape)}, the teacher's features need {shape} float32")
        elif not bool(tensor.isfinite().all()):
            found.append(f"{name} has values that are not finite")
    return found


def _digest(backbone: str, features: str, classifier: nn.Linear) -> str:
    facts = {"backbone": backbone, "features": features, "classifier": weights_sha256(classifier.state_dict())}
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def _forward_of(teacher: "TorchTeacher", features: str, classifier: nn.Linear) -> "Forward":
    inner = teacher.forward

    def forward(pixels: "Tensor", wanted: frozenset[str]) -> "Mapping[str, Tensor]":
        if "logits" not in wanted:
            return inner(pixels, wanted)
        found = inner(pixels, (wanted - {"logits"}) | {features})
        return {**found, "logits": classifier(found[features])}

    return forward

"""A model card: what an exported student is, for people, in Markdown. Names of strangers cannot act in it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedkd.evaluation import shown
from embedkd.export.onnx import INPUT, OPSET, OUTPUTS, TOLERANCE
from embedkd.store.card import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embedkd.config import Config
    from embedkd.evaluation import Evaluation
    from embedkd.students import TimmStudent
    from embedkd.training import StudentCard

_SHOWN_CLASSES = 20


@dataclass(frozen=True)
class RunFacts:
    """What a card tells of a run beside its student.

    Attributes:
        config: What the run was asked.
        result: result.json; None while the run goes on.
        evaluation: Of these very weights; None without one.
        licence: Of the teacher's weights; None where it is not known.
    """

    config: "Config"
    result: "Mapping[str, Any] | None"
    evaluation: "Evaluation | None"
    licence: str | None


def model_card(student: "TimmStudent", card: "StudentCard", run: RunFacts, files: "Mapping[str, int]") -> str:
    """The card.

    Args:
        student: For its widths.
        card: What it is.
        run: Where it comes from.
        files: Name of each exported file to its bytes.
    """
    sections = [
        "---\nlibrary_name: timm\npipeline_tag: image-classification\ntags:\n- embedkd\n- knowledge-distillation\n---",
        f"# {escaped(card.name)}",
        _summary(card, run),
        "## Student",
        _table(("", ""), _student(student, card)),
        "## Training",
        _table(("", ""), _training(run)),
        "## Accuracy",
        _accuracy(run),
        "## Images",
        _images(card),
        "## Files and use",
        _table(("file", "bytes"), [(f"`{name}`", f"{size:,}") for name, size in files.items()]),
        *_use(card, files),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(card: "StudentCard", run: RunFacts) -> str:
    learned = "from stored embeddings of a teacher model" if run.config.train.targets else "from labels"
    return f"An image classifier of {card.num_classes} classes that learned {learned}, trained with embedkd."


def _student(student: "TimmStudent", card: "StudentCard") -> "Iterable[tuple[str, str]]":
    yield "architecture of timm", escaped(student.architecture)
    yield "parameters", f"{card.parameters:,}"
    yield "multiply-adds an image", f"{card.multiply_adds:,}"
    yield "embedding", f"{student.embedding_dim} numbers, before the classifier, not normalised"
    yield "first weights", escaped(card.begun_from) if card.begun_from else "drawn at random"
    classes = str(card.num_classes)
    if card.class_names is not None:
        shown = ", ".join(escaped(name) for name in card.class_names[:_SHOWN_CLASSES])
        classes += f": {shown}{', ...' if len(card.class_names) > _SHOWN_CLASSES else ''}"
    yield "classes", classes


def _training(run: RunFacts) -> "Iterable[tuple[str, str]]":
    config, result = run.config, run.result or {}
    yield "data", escaped(_name_of(config.data.shards or "the shards that the store remembers"))
    yield "targets", escaped(", ".join(map(_name_of, config.train.targets)) or "none: labels alone")
    teacher = result.get("teacher")
    if teacher is not None:
        yield "teacher", escaped(str(teacher))
        yield "licence of the teacher's weights", escaped(run.licence or "not known: ask before you use the student")
    for name, weight in config.losses.items():
        if weight:
            options = ", ".join(f"{key} = {value}" for key, value in config.loss_options.get(name, {}).items())
            yield f"loss {escaped(name)}", escaped(f"weight {weight:g}" + (f", {options}" if options else ""))
    if run.result is None:
        yield "state", "the run had not ended when this was exported"
    else:
        yield "epochs", f"{result['epochs']}, the best after {result['best_epoch']}"
        yield "samples an epoch", f"{result['train_rows']:,}"
    yield "seed", str(config.train.seed)


def _name_of(url: str) -> str:
    """The last part of a path or URL: where it lay is nobody's business."""
    return url.rstrip("/").rpartition("/")[2] or url


def _accuracy(run: RunFacts) -> str:
    rows = []
    for split in ("val", "test"):
        share = (run.result or {}).get(f"{split}_top1")
        if share is not None:
            rows.append((f"top-1, {split} split, at the end of the run", f"{share:.1%}", "-"))
    if run.evaluation is not None:
        for name, found in run.evaluation.metrics.items():
            where = f"{run.evaluation.split} split of {_name_of(run.evaluation.data)}"
            what = f"{name}, {where}, {run.evaluation.rows} images"
            rows.append((escaped(what), *shown(name, found)))
    if not rows:
        return "Not measured yet; `embedkd evaluate RUN` does, and another export writes it here."
    return _table(("measure", "value", "95 % interval"), rows)


def _images(card: "StudentCard") -> str:
    return (
        f"RGB; shorter side resized to {card.image_px} px (bicubic, antialiased), centre of {card.image_px} x "
        f"{card.image_px} px cut out; values to [0, 1]; minus {list(card.mean)}, divided by {list(card.std)} for each "
        "channel; float32, NCHW."
    )


def _use(card: "StudentCard", files: "Mapping[str, int]") -> "Iterable[str]":
    if "model.safetensors" in files:
        yield (
            "```python\nimport timm  # embedkd is not needed\n\n"
            'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()\n'
            "prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
            "logits = model(prepare(image)[None])\n```"
        )
        yield (
            "```python\nimport embedkd\n\n"
            'student, card = embedkd.load_student("FOLDER")\n'
            "embedding, logits, _ = student(card.view()(image)[None])\n```"
        )
    if "model.onnx" in files:
        size, outputs = card.image_px, " and ".join(f"`{name}`" for name in OUTPUTS)
        yield (
            f"ONNX, opset {OPSET}: `{INPUT}` float32 [batch, 3, {size}, {size}] to {outputs}, any batch size; at "
            f"export equal to the student within {TOLERANCE:g} on the CPU."
        )
        yield (
            "```python\nimport onnxruntime\n\n"
            'session = onnxruntime.InferenceSession("FOLDER/model.onnx")\n'
            f'embedding, logits = session.run(None, {{"{INPUT}": pixels}})\n```'
        )


def _table(header: "Sequence[str]", rows: "Iterable[Sequence[str]]") -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

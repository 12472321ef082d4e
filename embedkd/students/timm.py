"""Students that timm builds: the paper's vision transformers, and any other model that ends in one classifier.

The embedding is what timm calls features before the logits: pooled, and after whatever the model has between its
pooling and its classifier.
"""

import inspect
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn

from embedkd.errors import ConfigError, UnknownNameError
from embedkd.students.base import Student, StudentOutput, drawn_from, parameter_count
from embedkd.students.cost import multiply_adds
from embedkd.students.quick_gelu import fuse_quick_gelu
from embedkd.students.timm_arguments import UNBUILDABLE, timm_arguments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embedkd.students.names import StudentName
    from embedkd.students.spec import StudentOptions
    from embedkd.students.weights import StartingWeights


@dataclass(frozen=True)
class StudentFacts:
    """What is known of a student without its weights.

    Attributes:
        parameters: How many it has.
        multiply_adds: Of its matrix products and convolutions for one image that it sees whole.
        embedding_dim: Width of the embedding.
        taps: Name of each inner layer that it can give out, counted from 0, to its width.
    """

    parameters: int
    multiply_adds: int
    embedding_dim: int
    taps: "Mapping[str, int]"


class TimmStudent(Student):
    """A model of timm as a student.

    Args:
        name: Of the student.
        num_classes: Width of the logits.
        image_px: Height and width of its input.
        options: What else is asked of it.
        seed: All that weights depend on that are drawn.
        start: Weights to begin with; None draws all.

    Attributes:
        model: A complete timm model, classifier included: its state loads into timm without embedkd.
        architecture: What timm calls it.
        arguments: What ``timm.create_model`` was given beside that.

    Raises:
        ConfigError: timm builds no such model, or the weights are of another one.
        UnknownNameError: It has no such tap or argument.
    """

    def __init__(
        self,
        name: "StudentName",
        *,
        num_classes: int,
        image_px: int,
        options: "StudentOptions",
        seed: int = 0,
        start: "StartingWeights | None" = None,
    ) -> None:
        super().__init__()
        self.architecture = name.architecture
        self.arguments = timm_arguments(name, num_classes, image_px, options)
        facts = examine(name, self.arguments, image_px)
        self.embedding_dim, self.num_classes, self.image_px = facts.embedding_dim, num_classes, image_px
        self.multiply_adds = facts.multiply_adds
        self._taps = {tap: _tap_layer(name, tap, facts.taps) for tap in options.taps}
        self.tap_dims = {tap: facts.taps[f"{kind}@{layer}"] for tap, (kind, layer) in self._taps.items()}
        with drawn_from(seed):
            self.model: Any = start.load(self.architecture, self.arguments) if start is not None else self._draw()
        fuse_quick_gelu(self.model)
        if start is not None:
            self.mean, self.std, self.begun_from = start.mean, start.std, start.source

    def _draw(self) -> nn.Module:
        model: nn.Module = timm.create_model(self.architecture, **self.arguments)
        return model

    def forward(self, pixels: Tensor) -> StudentOutput:
        """Look at images.

        Args:
            pixels: float32 [B, 3, image_px, image_px], normalised per channel.

        Raises:
            ConfigError: Pixels of another shape.
        """
        if pixels.ndim != 4 or pixels.shape[1:] != (3, self.image_px, self.image_px):
            raise ConfigError(
                f"student: expected pixels [B, 3, {self.image_px}, {self.image_px}], got {list(pixels.shape)}; "
                "resize the images to student.image_px"
            )
        layers = sorted({layer for _, layer in self._taps.values()})
        features, inner = _run(self.model, pixels, layers)
        embedding = self.model.forward_head(features, pre_logits=True)
        taps = {tap: inner[layer][kind] for tap, (kind, layer) in self._taps.items()}
        return StudentOutput(embedding, classify(self.model, embedding), taps)

    def no_weight_decay(self) -> set[str]:
        """Positions and class tokens, where timm's model names them."""
        names = getattr(self.model, "no_weight_decay", None)
        return {f"model.{name}" for name in names()} if callable(names) else set()


def examine(name: "StudentName", arguments: "Mapping[str, Any]", image_px: int) -> StudentFacts:
    """Build a model without storage and run it on one image: its sizes, and whether it can be a student at all.

    Raises:
        ConfigError: timm cannot build it, it takes no such images, or it has not one embedding and one classifier.
    """
    if image_px < 1:
        raise ConfigError(f"student: expected image_px of at least 1, got {image_px}")
    try:
        return _examine(name.architecture, tuple(arguments.items()), image_px)
    except UNBUILDABLE as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{name.model} cannot be a student for images of {image_px} px: {reason}") from error


@lru_cache(maxsize=32)
def _examine(architecture: str, arguments: tuple[tuple[str, Any], ...], image_px: int) -> StudentFacts:
    """The same, kept: describing a student and then building it asks twice."""
    classes = dict(arguments)["num_classes"]
    with torch.device("meta"), torch.no_grad():
        model: Any = timm.create_model(architecture, **dict(arguments)).eval()
        pixels = torch.zeros(1, 3, image_px, image_px)
        _check_patches(model, image_px)
        cost = multiply_adds(model, pixels)
        embedding = model.forward_head(model.forward_features(pixels), pre_logits=True)
        logits = classify(model, embedding)
        if embedding.ndim != 2 or logits.shape != (1, classes):
            found = f"{list(embedding.shape[1:])} and {list(logits.shape[1:])}"
            raise ValueError(f"expected an embedding and {classes} logits of an image, got {found}")
        return StudentFacts(
            parameter_count(model), cost, embedding.shape[1], MappingProxyType(_tap_widths(model, pixels))
        )


def classify(model: Any, embedding: Tensor) -> Tensor:
    """Logits [B, C] of embeddings [B, d], as timm's own forward pass has them.

    Raises:
        TypeError: The model has several classifiers.
    """
    classifier = model.get_classifier()
    if not isinstance(classifier, nn.Module) or isinstance(classifier, nn.ModuleList):
        raise TypeError("it has several classifiers")
    if isinstance(classifier, nn.Conv2d):  # of 1 x 1, as some of timm's older models have
        return classifier(embedding[:, :, None, None]).flatten(1)  # type: ignore[no-any-return]
    logits: Tensor = classifier(embedding)
    return logits


def _check_patches(model: Any, image_px: int) -> None:
    """Refuse images that a transformer would silently cut to whole patches."""
    size = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    patch_px = size[0] if isinstance(size, tuple) else size
    if isinstance(patch_px, int) and (patch_px > image_px or image_px % patch_px):
        raise ValueError(f"expected patch_px to divide image_px = {image_px}, got {patch_px}")


def _has_tokens(model: Any) -> bool:
    """Whether inner layers are tokens of a plain transformer, [B, N, d], and not maps [B, d, h, w]."""
    return "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters


def _run(model: Any, pixels: Tensor, layers: "Sequence[int] | None") -> "tuple[Tensor, dict[int, dict[str, Tensor]]]":
    """The last features, and what the inner layers say; None runs for all layers, an empty list for none."""
    if layers is not None and not layers:
        return model.forward_features(pixels), {}
    tokens = _has_tokens(model)
    form = {"return_prefix_tokens": True, "output_fmt": "NLC"} if tokens else {}
    features, found = model.forward_intermediates(pixels, indices=layers, norm=False, **form)
    say = _of_tokens if tokens else _of_map
    numbers: Iterable[int] = range(len(found)) if layers is None else layers
    return features, {layer: say(model, inner) for layer, inner in zip(numbers, found, strict=True)}


def _of_tokens(model: Any, inner: Any) -> dict[str, Tensor]:
    patches, prefix = inner if isinstance(inner, tuple) else (inner, None)
    said = {"patch_mean": patches.mean(dim=1)}
    if prefix is not None and getattr(model, "cls_token", None) is not None:
        said["cls"] = prefix[:, 0]
    return said


def _of_map(model: Any, inner: Tensor) -> dict[str, Tensor]:
    return {"patch_mean": inner.mean(dim=(2, 3))}


def _tap_widths(model: Any, pixels: Tensor) -> dict[str, int]:
    """Every tap of a model to its width; none where timm cannot look inside."""
    if not hasattr(model, "forward_intermediates"):
        return {}
    try:
        _, inner = _run(model, pixels, None)
    except (*UNBUILDABLE, NameError):  # some of timm's models cannot; they are students all the same
        return {}
    return {f"{kind}@{layer}": rows.shape[1] for layer, said in inner.items() for kind, rows in said.items()}


def _tap_layer(name: "StudentName", tap: str, known: "Mapping[str, int]") -> tuple[str, int]:
    """Kind and layer from 0 of a tap."""
    kind, at, layer = tap.partition("@")
    layers = 1 + max((int(key.partition("@")[2]) for key in known), default=-1)
    if at and layer.removeprefix("-").isdecimal() and -layers <= int(layer) < layers:
        number = int(layer) % layers
        if f"{kind}@{number}" in known:
            return kind, number
    raise UnknownNameError(f"inner layer of {name.model}", tap, known)

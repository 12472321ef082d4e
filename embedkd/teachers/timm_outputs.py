"""What a timm model can say of images: its pooled features, its logits, and the tokens of vision transformers.

Used for timm's models, for the packaged one, and for the towers that open_clip takes from timm. Everything is read from
the model itself.
"""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from embedkd.records import LAYERED_OUTPUTS, OutputSpec

if TYPE_CHECKING:
    from embedkd.teachers.runner import Forward

_GROUP = tuple[nn.Parameter, ...]


@dataclass(frozen=True)
class TimmOutputs:
    """What a model of timm offers.

    Attributes:
        pooled: Width of the pooled features; 0 where it pools nothing.
        logits: Number of classes; 0 without a classifier.
        tokens: Width of the tokens after the last norm; 0 where the model has none (convolutions), or no norm of its
            tokens (it then norms the pooled features).
        prefix: Number of tokens before those of the patches: class, distillation, registers.
        has_cls: Whether the first of them is a class token.
        layers: Number of blocks whose tokens can be had; 0 where timm cannot give them with the class token.
        channels_first: Whether the features are those of a convolutional network, [B, C, H, W].
    """

    pooled: int
    logits: int
    tokens: int = 0
    prefix: int = 0
    has_cls: bool = False
    layers: int = 0
    channels_first: bool = False

    @property
    def token_specs(self) -> tuple[OutputSpec, ...]:
        """The outputs made of tokens, in a spec's order: ``cls``, ``patch_mean``."""
        return tuple(
            OutputSpec(name, self.tokens)
            for name, there in (("cls", self.has_cls), ("patch_mean", True))
            if there and self.tokens
        )

    @property
    def specs(self) -> tuple[OutputSpec, ...]:
        """All outputs, in a spec's order."""
        tokens = {spec.name: spec for spec in self.token_specs}
        heads = {name: OutputSpec(name, dim) for name, dim in (("pooled", self.pooled), ("logits", self.logits)) if dim}
        found = tokens | heads
        return tuple(found[name] for name in ("cls", "pooled", "logits", "patch_mean") if name in found)


def find_outputs(blank: nn.Module, input_px: tuple[int, int]) -> TimmOutputs:
    """What a model offers, from its shapes; costs no arithmetic on the meta device.

    Args:
        blank: The model, on the meta device.
        input_px: Height and width of its images.

    Raises:
        RuntimeError: The model takes no such images.
    """
    model: Any = blank.eval()
    with torch.no_grad(), torch.device("meta"):
        features = model.forward_features(torch.zeros(1, 3, *input_px))
        pooled = model.forward_head(features, pre_logits=True)
        logits = model.forward_head(features) if model.num_classes > 0 else None
    widths = _width(pooled), _width(logits)
    if not isinstance(features, Tensor):
        return TimmOutputs(*widths)
    if features.ndim != 3 or not _norms_tokens(model):
        # A feature map; swin's has its channels last.
        return TimmOutputs(*widths, channels_first=features.ndim == 4 and features.shape[1] == model.num_features)
    prefix = int(model.num_prefix_tokens)
    return TimmOutputs(
        *widths,
        tokens=features.shape[2],
        prefix=prefix,
        has_cls=prefix > 0 and getattr(model, "cls_token", None) is not None,
        layers=_layers(model),
    )


def embed_tokens(
    model: Any, offer: TimmOutputs, pixels: Tensor, wanted: Iterable[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a model up to its features.

    Args:
        model: A timm model that `offer` describes.
        offer: From `find_outputs`.
        pixels: [B, 3, H, W].
        wanted: Names of outputs; those that are not made of tokens are passed over.

    Returns:
        The features as ``forward_features`` gives them, and the outputs made of tokens, [B, tokens] each.
    """
    named = {name: place for name in wanted if (place := layer_of(name, offer.layers)) is not None}
    indices = sorted({layer for _, layer in named.values() if layer is not None})
    inner: dict[int, tuple[Tensor, Tensor | None]] = {}
    if indices:
        features, found = model.forward_intermediates(
            pixels, indices=indices, return_prefix_tokens=True, norm=False, output_fmt="NLC"
        )
        # Without tokens before the patches, timm gives the patches alone.
        pairs = (tokens if isinstance(tokens, tuple) else (tokens, None) for tokens in found)
        inner = dict(zip(indices, pairs, strict=True))
    else:
        features = model.forward_features(pixels)
    outputs: dict[str, Tensor] = {}
    for name, (base, layer) in named.items():
        patches, prefix = (features[:, offer.prefix :], features[:, : offer.prefix]) if layer is None else inner[layer]
        outputs[name] = cast("Tensor", prefix)[:, 0] if base == "cls" else patches.mean(dim=1)
    return features, outputs


def layer_of(name: str, layers: int) -> tuple[str, int | None] | None:
    """Which tokens an output is made of.

    >>> layer_of("cls@-1", 12), layer_of("patch_mean", 12), layer_of("pooled", 12)
    (('cls', 11), ('patch_mean', None), None)
    """
    base, at, layer = name.partition("@")
    if base not in LAYERED_OUTPUTS:
        return None
    return base, int(layer) % layers if at else None


def forward_of(model: Any, offer: TimmOutputs) -> "Forward":
    """A model's forward pass as a teacher runs it, in timm's own steps."""

    def forward(pixels: Tensor, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        features, found = embed_tokens(model, offer, pixels, wanted)
        if "pooled" in wanted:
            found["pooled"] = model.forward_head(features, pre_logits=True)
        if "logits" in wanted:
            found["logits"] = model.forward_head(features)
        return found

    return forward


def near_architectures(name: str) -> list[str]:
    """Architectures of nearly that name, else timm's modules: it has more architectures than anybody reads."""
    import timm

    return get_close_matches(name, timm.list_models(), cutoff=0.5) or list(timm.models.list_modules())


def parts_of(model: Any) -> tuple[_GROUP, ...]:
    """All parameters that the pooled features depend on, in order from pixels to features, each in one part.

    timm's own matcher of layers says what is stem and block; everything behind the blocks is one part. The classifier
    is in none: it reads the features.
    """
    heads = model.get_classifier()
    heads = heads if isinstance(heads, list | tuple) else [heads]
    behind = {id(parameter) for head in heads for parameter in head.parameters()}
    groups: dict[float, list[nn.Parameter]] = {}
    layer_ids = _layer_ids(model)
    for name, parameter in model.named_parameters():
        if id(parameter) not in behind:
            groups.setdefault(layer_ids[name], []).append(parameter)
    return tuple(tuple(groups[key]) for key in sorted(groups))


def _layer_ids(model: Any) -> dict[str, float]:
    from timm.models import group_parameters

    ids: dict[str, float] = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    return ids


def _norms_tokens(model: Any) -> bool:
    """Whether ``forward_features`` ends with a norm of every token."""
    norm = getattr(model, "norm", None)
    counted = isinstance(getattr(model, "num_prefix_tokens", None), int)
    return counted and isinstance(norm, nn.Module) and not isinstance(norm, nn.Identity)


def _layers(model: Any) -> int:
    blocks = getattr(model, "blocks", None)
    tapped = inspect.signature(model.forward_intermediates).parameters if blocks is not None else {}
    return len(blocks) if blocks is not None and "return_prefix_tokens" in tapped else 0


def _width(found: Any) -> int:
    return found.shape[1] if isinstance(found, Tensor) and found.ndim == 2 else 0

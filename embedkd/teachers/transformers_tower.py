"""What an image encoder of transformers says, by the names of our outputs. Runs the library's own forward pass once.

Inner layers are caught on their way through the encoder, and only where they are asked for.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import ModuleList
from transformers import PreTrainedConfig

from embedkd.teachers.runner import Forward

# Tokens in front of the patches, the class token first. Other kinds have no sequence of patches that we know of.
_SPECIAL_TOKENS: Mapping[str, Callable[[PreTrainedConfig], int]] = {
    "beit": lambda _: 1,
    "clip_vision_model": lambda _: 1,
    "data2vec-vision": lambda _: 1,
    "deit": lambda _: 2,  # class and distillation
    "dinov2": lambda _: 1,
    "dinov2_with_registers": lambda config: 1 + int(config.num_register_tokens),
    "dinov3_vit": lambda config: 1 + int(config.num_register_tokens),
    "ijepa": lambda _: 0,
    "siglip_vision_model": lambda _: 0,
    "swin": lambda _: 0,
    "swinv2": lambda _: 0,
    "vit": lambda _: 1,
    "vit_msn": lambda _: 1,
}

_STAGED = ("swin", "swinv2")


@dataclass(frozen=True)
class Tower:
    """An image encoder and where to find what it says.

    Attributes:
        encoder: Gives ``last_hidden_state`` and, where it pools, ``pooler_output``.
        blocks: Its blocks, or the stages of a network that narrows; empty where it names no number of them.
        special: Number of tokens in front of the patches, the class token first; None where there are no patch tokens.
        norm: What the library applies to the class token alone behind the encoder (CLIP); None where
            ``last_hidden_state`` is normalised already.
        classifier: The library's classifier around the encoder; None where its head has no trained weights.
        projection: From what is pooled to the common space of images and texts.
    """

    encoder: nn.Module
    blocks: "ModuleList | tuple[()]"
    special: int | None
    norm: nn.Module | None = None
    classifier: nn.Module | None = None
    projection: nn.Module | None = None

    @property
    def forward(self) -> Forward:
        """From pixels [B, 3, H, W] and the names wanted to these outputs, [B, D] each."""

        def forward(pixels: Tensor, wanted: frozenset[str]) -> Mapping[str, Tensor]:
            inner = {name: self.blocks[int(name.partition("@")[2])] for name in wanted if "@" in name}
            top = self.encoder if self.classifier is None or "logits" not in wanted else self.classifier
            with _caught({"encoder": self.encoder} | inner) as found:
                answer = top(pixel_values=pixels)
            rows = {name: self.row(name, found["encoder"]) for name in wanted - inner.keys() - {"logits"}}
            rows |= {name: self._pool(name.partition("@")[0], found[name]) for name in inner}
            return rows | ({"logits": answer.logits} if "logits" in wanted else {})

        return forward

    def row(self, name: str, encoded: Any) -> Tensor:
        """One of the outputs behind the encoder, [B, D], from what the encoder gave."""
        if name in {"cls", "patch_mean"}:
            return self._pool(name, encoded.last_hidden_state, self.norm)
        pooled: Tensor = encoded.pooler_output.flatten(1)
        projected: Tensor = pooled if name == "pooled" or self.projection is None else self.projection(pooled)
        return projected

    def _pool(self, name: str, tokens: Tensor, norm: nn.Module | None = None) -> Tensor:
        """One vector an image: the class token, or the mean over patches; a norm comes before the mean."""
        chosen = tokens[:, 0] if name == "cls" else tokens[:, self.special :]
        normed: Tensor = chosen if norm is None else norm(chosen)
        return normed if name == "cls" else normed.mean(1)


def special_tokens(config: PreTrainedConfig) -> int | None:
    """Tokens in front of the patches, the class token first; None where the kind of model has no such sequence."""
    count = _SPECIAL_TOKENS.get(config.model_type)
    return None if count is None else count(config)


def find_blocks(encoder: nn.Module, config: PreTrainedConfig) -> "ModuleList | tuple[()]":
    """The blocks of an encoder: the first list of modules that is as long as its config says."""
    depth = getattr(config, "num_hidden_layers", None)
    lists = [module for module in encoder.modules() if isinstance(module, ModuleList) and len(module) == depth]
    return lists[0] if lists else ()


def count_layers(tower: Tower, config: PreTrainedConfig) -> int:
    """How many blocks give one token a patch, in the width of the last: 0 where stages merge patches."""
    return 0 if tower.special is None or config.model_type in _STAGED else len(tower.blocks)


def split_parts(module: nn.Module, blocks: "ModuleList") -> tuple[tuple[nn.Parameter, ...], ...]:
    """A tower's parameters from pixels to features: what comes before the blocks, each block, and what follows."""
    inside = {id(parameter) for parameter in blocks.parameters()}
    first, before, after = next(iter(blocks.parameters())), list[nn.Parameter](), list[nn.Parameter]()
    reached = False
    for parameter in module.parameters():
        reached = reached or parameter is first
        if id(parameter) not in inside:
            (after if reached else before).append(parameter)
    return (tuple(before), *(tuple(block.parameters()) for block in blocks), tuple(after))


@contextmanager
def _caught(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Any]]:
    """What these modules give while the block runs, by name; the first of several where one gives a tuple."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _arguments: Any, output: Any) -> None:
            found[name] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()

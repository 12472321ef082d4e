"""The ``openclip:`` family: every model of open_clip, by name and tag, by folder, or by checkpoint.

``image`` and ``text`` are the common space, not normalised. ``cls`` is the class token after the last norm, before the
projection, where the tower pools by it (Radford et al., 2021, arXiv:2103.00020). Images are prepared by open_clip's own
evaluation transform, built from what the checkpoint says and never from open_clip's defaults.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from embedkd.errors import TeacherError
from embedkd.records import OutputSpec, TeacherSpec
from embedkd.teachers.base import Backbone
from embedkd.teachers.classifier import with_classifier
from embedkd.teachers.hub import read_licence
from embedkd.teachers.known.openclip import CONFIG_FILE
from embedkd.teachers.openclip_model import UNBUILDABLE, WEIGHT_FILES, ClipSource, build, find_source
from embedkd.teachers.openclip_tokens import ClipTokenizer, load_tokenizer
from embedkd.teachers.runner import Forward, TorchTeacher, choose_device, choose_precision
from embedkd.teachers.timm_outputs import TimmOutputs, embed_tokens, find_outputs, layer_of, parts_of
from embedkd.teachers.transforms import describe_transform
from embedkd.teachers.weights import weights_sha256

if TYPE_CHECKING:
    from embedkd.teachers.base import LoadOptions, ResolvedName

_TOLD_ELSEWHERE = (
    "hf_model_pretrained",
    "hf_tokenizer_name",
    "timm_model_pretrained",
    "tokenizer_kwargs",
    "tokenizer_mode",
)
_LIBRARIES = ("torch", "torchvision", "open_clip_torch", "timm", "pillow")


@dataclass(frozen=True)
class LoadedClip:
    """A model with all that belongs to it.

    Attributes:
        model: CLIP, CustomTextCLIP or CoCa of open_clip.
        found: Its config.
        pixels: The whole of its image config.
        tokenizer: None for a dry run without one.
        tokens: What its image tower offers besides ``image``.
    """

    model: Any
    found: ClipSource
    pixels: PreprocessCfg
    tokenizer: ClipTokenizer | None
    tokens: TimmOutputs


def load(name: "ResolvedName", options: "LoadOptions") -> TorchTeacher:
    """Load a model of open_clip from its folder, from a checkpoint, or from the hub where the name has neither.

    Raises:
        UnknownNameError: The model has no such tag.
        TeacherError: The hub cannot be reached, the folder is incomplete or unsafe, nothing says how images are
            prepared, the weights do not fit, or the device is not there.
    """
    place = choose_device(options.device)
    drawn = options.random_seed is not None
    found = find_source(name, drawn=drawn)
    model, blank = build(found, options.random_seed)
    pixels = _pixels(found, model)
    transform = image_transform_v2(pixels, is_train=False)
    preprocess = describe_transform(transform, found.source)
    clip = LoadedClip(model, found, pixels, _tokenizer(name, found, drawn=drawn), _tokens(blank, preprocess.crop_px))
    scale, bias = model.logit_scale, model.logit_bias if hasattr(model, "logit_bias") else None
    spec = TeacherSpec(
        name=name.name,
        model=describe_architecture(found),
        weights_sha256=weights_sha256(model.state_dict()),
        outputs=_outputs(clip, blank, preprocess.crop_px),
        preprocess=preprocess,
        normalised=False,
        precision=choose_precision(options.precision, place),
        source=f"random weights, seed {options.random_seed}" if drawn else name.weights or found.source,
        logit_scale=float(scale.detach().exp()),
        logit_bias=None if bias is None else float(bias.detach()),
        revision=None if drawn else found.revision,
        libraries=tuple((library, version(library)) for library in _LIBRARIES),
        licence=read_licence(found.folder) if found.folder is not None and not drawn else None,
        random_weights=drawn,
        layers=clip.tokens.layers,
        tokenizer=clip.tokenizer.description if clip.tokenizer else None,
    )
    teacher = _teacher(clip, spec, transform, place)
    return with_classifier(teacher, found.folder) if found.folder is not None and not drawn else teacher


def describe_architecture(found: ClipSource) -> str:
    """One line that is the same for every copy of the same architecture: what differs from open_clip's defaults."""
    config = {key: value for key, value in found.architecture.items() if value or key == "init_logit_bias"}
    plain = {"vision_cfg": asdict(CLIPVisionCfg()), "text_cfg": asdict(CLIPTextCfg())}
    for tower, defaults in plain.items():
        # Where weights and tokenizer came from decides nothing that their own digests do not tell.
        kept = [key for key in config[tower] if key not in _TOLD_ELSEWHERE and config[tower][key] != defaults[key]]
        config[tower] = {key: config[tower][key] for key in kept}
    return f"open_clip {json.dumps(config, sort_keys=True)}"


def save_clip(clip: LoadedClip, folder: Path) -> None:
    """Write the whole model, both towers, in open_clip's folder form, with tokenizer and preprocessing."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in clip.model.state_dict().items()}
    safetensors.torch.save_file(plain, folder / WEIGHT_FILES[0])
    if clip.tokenizer is not None and hasattr(clip.tokenizer.inner, "save_pretrained"):
        clip.tokenizer.inner.save_pretrained(folder)
    text_config = getattr(getattr(clip.model, "text", None), "config", None)
    if text_config is not None:
        text_config.save_pretrained(folder / Path(clip.found.architecture["text_cfg"]["hf_model_name"]).name)
    kept = ("mean", "std", "interpolation", "resize_mode", "fill_color")
    pixels = {key: value for key, value in asdict(clip.pixels).items() if key in kept}
    document = {"model_cfg": clip.found.architecture, "preprocess_cfg": pixels}
    (folder / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _pixels(found: ClipSource, model: Any) -> PreprocessCfg:
    """The image config: what the checkpoint says, at the size that its image tower takes.

    A config that gives no interpolation or resize mode is of the form's first years, when it meant bicubic and the
    shorter side; that is how open_clip reads it.
    """
    try:
        given = merge_preprocess_dict(PreprocessCfg(), found.pixels) | {"size": model.visual.image_size}
        pixels = PreprocessCfg(**given)
        image_transform_v2(pixels, is_train=False)
    except UNBUILDABLE as error:
        raise TeacherError(
            f"{found.source} has a preprocess_cfg that open_clip refuses: {str(error) or given}"
        ) from error
    return pixels


def _tokenizer(name: "ResolvedName", found: ClipSource, *, drawn: bool) -> ClipTokenizer | None:
    """The tokenizer; a dry run does without the ones that would have to be fetched."""
    text = found.architecture["text_cfg"]
    try:
        return load_tokenizer(text, found.folder, found.source, name.name)
    except TeacherError:
        if drawn and text.get("hf_tokenizer_name"):
            return None
        raise


def _tokens(blank: Any, input_px: tuple[int, int]) -> TimmOutputs:
    """What the image tower offers besides its place in the common space."""
    visual, none = blank.visual, TimmOutputs(0, 0)
    if isinstance(visual, TimmModel):
        return find_outputs(visual.trunk, input_px)
    if not isinstance(visual, VisionTransformer):
        return TimmOutputs(0, 0, channels_first=isinstance(visual, ModifiedResNet))
    if visual.attn_pool is not None:
        return none  # its last norm follows the pooling
    layers = len(visual.transformer.resblocks)
    width = visual.conv1.out_channels
    return TimmOutputs(0, 0, tokens=width, prefix=1, has_cls=visual.pool_type == "tok", layers=layers)


def _outputs(clip: LoadedClip, blank: Any, input_px: tuple[int, int]) -> tuple[OutputSpec, ...]:
    try:
        with torch.no_grad(), torch.device("meta"):
            image = blank.encode_image(torch.zeros(1, 3, *input_px), normalize=False)
        outputs = [OutputSpec("image", image.shape[1])]
        if clip.tokenizer is not None:
            with torch.no_grad():
                text = clip.model.encode_text(clip.tokenizer(["a"]), normalize=False)
            outputs.append(OutputSpec("text", text.shape[1]))
    except UNBUILDABLE as error:
        raise TeacherError(
            f"{clip.found.source}: the model does not run as its config says: {' '.join(str(error).split())}"
        ) from error
    return (*outputs, *clip.tokens.token_specs)


def _teacher(
    clip: LoadedClip, spec: TeacherSpec, transform: Callable[..., Tensor], place: torch.device
) -> TorchTeacher:
    layout = torch.channels_last if clip.tokens.channels_first else torch.contiguous_format
    trained = tuple(parameter for parameter in clip.model.parameters() if parameter.requires_grad)
    clip.model.to(place).requires_grad_(False)
    if clip.tokens.channels_first:
        clip.model.visual.to(memory_format=layout)
    model = clip.model
    return TorchTeacher(
        spec,
        transform,
        _forward_of(clip),
        place,
        layout,
        tokenize=clip.tokenizer,
        text_forward=partial(model.encode_text, normalize=False) if clip.tokenizer else None,
        backbone=_backbone(clip, {id(parameter) for parameter in trained}),
    )


def _forward_of(clip: LoadedClip) -> Forward:
    visual, model = clip.model.visual, clip.model
    if not clip.tokens.tokens:
        return lambda pixels, _wanted: {"image": model.encode_image(pixels, normalize=False)}
    run = _run_timm if isinstance(visual, TimmModel) else _run_own

    def forward(pixels: Tensor, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        return run(visual, clip.tokens, pixels, wanted)

    return forward


def _run_timm(visual: Any, tokens: TimmOutputs, pixels: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
    features, found = embed_tokens(visual.trunk, tokens, pixels, wanted)
    if "image" in wanted:
        found["image"] = visual.head(visual.trunk.forward_head(features))
    return found


def _run_own(visual: Any, tokens: TimmOutputs, pixels: Tensor, wanted: frozenset[str]) -> dict[str, Tensor]:
    """One pass through open_clip's vision transformer, which gives the tokens behind any block, before the norm."""
    last = tokens.layers - 1
    places = {name: place for name in wanted if (place := layer_of(name, tokens.layers)) is not None}
    indices = sorted({last if layer is None else layer for _, layer in places.values()} | {last})
    run = visual.forward_intermediates(pixels, indices=indices, output_fmt="NLC", output_extra_tokens=True)
    patches = dict(zip(indices, run["image_intermediates"], strict=True))
    prefix = dict(zip(indices, run["image_intermediates_prefix"], strict=True))
    found = {"image": run["image_features"]}
    for name, (base, layer) in places.items():
        tower = (prefix if base == "cls" else patches)[last if layer is None else layer]
        normed = visual.ln_post(tower) if layer is None else tower
        found[name] = normed[:, 0] if base == "cls" else normed.mean(dim=1)
    return found


def _backbone(clip: LoadedClip, trained: set[int]) -> Backbone:
    visual = clip.model.visual

    def features(pixels: Tensor) -> Tensor:
        found = visual(pixels)
        pooled: Tensor = found[0] if isinstance(found, tuple) else found  # CoCa's tower gives its tokens too
        return pooled

    parts = [tuple(parameter for parameter in part if id(parameter) in trained) for part in _parts(visual)]
    return Backbone(visual, features, "image", tuple(part for part in parts if part), partial(save_clip, clip))


def _parts(visual: Any) -> Sequence[Sequence[nn.Parameter]]:
    """The tower from pixels to the common space: stem, each block, and what follows them."""
    if isinstance(visual, TimmModel):
        *blocks, last = parts_of(visual.trunk)
        inside = {id(parameter) for part in (*blocks, last) for parameter in part}
        behind = [parameter for parameter in visual.parameters() if id(parameter) not in inside]
        return [*blocks, [*last, *behind]]
    own = isinstance(visual, VisionTransformer)
    tail = ("ln_post", "proj", "attn_pool") if own else ("attnpool",)
    stages = [visual.transformer.resblocks] if own else [getattr(visual, f"layer{stage}") for stage in (1, 2, 3, 4)]
    middle = [list(block.parameters()) for stage in stages for block in stage]
    told = {id(parameter) for part in middle for parameter in part}
    outer = [(name, parameter) for name, parameter in visual.named_parameters() if id(parameter) not in told]
    stem = [parameter for name, parameter in outer if not name.startswith(tail)]
    return [stem, *middle, [parameter for name, parameter in outer if name.startswith(tail)]]

"""Weights that a student begins with: a file, an export, a run folder, or a tag on the hub. None can run code."""

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from embedkd.errors import ConfigError
from embedkd.records import blake2b_hex
from embedkd.students.spec import IMAGENET_MEAN, IMAGENET_STD
from embedkd.students.timm_arguments import UNBUILDABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedkd.students.names import StudentName

Numbers = tuple[float, float, float]

# In the order in which a folder is looked through: an export, a run, and what others save.
_FILES: Final = ("model.safetensors", "student.safetensors", "pytorch_model.bin")
_CARDS: Final = {"model.safetensors": "config.json", "student.safetensors": "student.json"}
# Under which trainers keep the weights in a checkpoint, averaged ones first.
_NESTED: Final = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES: Final = ("module.", "model.")
_ANSWER_S = 5.0
_SHOWN_MISFITS = 3


@dataclass(frozen=True)
class StartingWeights:
    """Tensors by name, and what their images were normalised by.

    Attributes:
        source: For people and errors; no path, as it goes into files that are shared.
        state: On the CPU.
        mean: Per channel, on pixels in [0, 1].
        std: Likewise.
    """

    source: str
    state: "Mapping[str, Tensor]"
    mean: Numbers = IMAGENET_MEAN
    std: Numbers = IMAGENET_STD

    def load(self, architecture: str, arguments: "Mapping[str, Any]") -> nn.Module:
        """A model with these weights; one of other classes gets a classifier that is drawn.

        timm translates names of the model's authors and resizes positions to other images.

        Args:
            architecture: Of timm.
            arguments: Of ``timm.create_model``.

        Raises:
            ConfigError: The weights are of another model.
        """
        classes = self._classes(architecture, arguments["num_classes"])
        # No offset: timm would cut a class for the background off weights that are loaded with all of theirs.
        overlay = {"state_dict": dict(self.state), "num_classes": classes, "label_offset": 0, "source": "timm"}
        try:
            # At the weights' own number of classes timm demands that every tensor fits.
            model: Any = timm.create_model(
                architecture,
                pretrained=True,
                pretrained_cfg_overlay=overlay,
                **{**arguments, "num_classes": classes},
            )
        except UNBUILDABLE as error:
            raise ConfigError(
                f"{self.source} holds no weights of {architecture}: {self._misfits(architecture, arguments) or error}"
            ) from error
        model.pretrained_cfg.pop("state_dict", None)
        if classes != arguments["num_classes"]:
            model.reset_classifier(arguments["num_classes"])
        return model  # type: ignore[no-any-return]

    def _classes(self, architecture: str, wanted: int) -> int:
        """Rows of the classifier; 0 where there is none. Where its name is not timm's, the model's usual number."""
        config = timm.get_pretrained_cfg(architecture)
        names = config.classifier if config is not None else None
        name = names if isinstance(names, str) else (names or ("",))[0]
        if f"{name}.weight" in self.state:
            return len(self.state[f"{name}.weight"])
        with torch.device("meta"):
            own = timm.create_model(architecture, num_classes=0).state_dict()
        if own.keys() >= self.state.keys():
            return 0
        return config.num_classes if config is not None else wanted

    def _misfits(self, architecture: str, arguments: "Mapping[str, Any]") -> str:
        with torch.device("meta"):
            expected = timm.create_model(architecture, **arguments).state_dict()
        found = [f"{name} is missing" for name in expected if name not in self.state]
        found += [
            f"{name} is {list(tensor.shape)}, expected {list(expected[name].shape)}"
            for name, tensor in self.state.items()
            if name in expected and tensor.shape != expected[name].shape
        ]
        found += [f"{name} is left over" for name in self.state if name not in expected]
        more = f"; and {len(found) - _SHOWN_MISFITS} more" if len(found) > _SHOWN_MISFITS else ""
        return "; ".join(found[:_SHOWN_MISFITS]) + more


def find_weights(name: "StudentName") -> StartingWeights | None:
    """What a name says a student should begin with; None for one from scratch.

    Raises:
        ConfigError: There is no such tag or file, it holds no weights, or the hub cannot be reached.
    """
    numbers = _tag_numbers(name) if name.tag else (IMAGENET_MEAN, IMAGENET_STD)
    if name.weights is None:
        return _from_hub(name, numbers) if name.tag else None
    path = Path(name.weights).expanduser()
    if path.is_dir():
        return _from_folder(path, numbers)
    return _from_file(path, numbers)


def _from_folder(folder: Path, numbers: tuple[Numbers, Numbers]) -> StartingWeights:
    for file in _FILES:
        if (folder / file).is_file():
            card = folder / _CARDS[file] if file in _CARDS else None
            return _from_file(folder / file, numbers if card is None else _card_numbers(card, numbers))
    raise ConfigError(f"{folder} holds no weights; expected {', '.join(_FILES[:-1])} or {_FILES[-1]}")


def _from_file(path: Path, numbers: tuple[Numbers, Numbers]) -> StartingWeights:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read weights {path}: {error.strerror}") from error
    state = _read_safetensors(path, data) if path.suffix == ".safetensors" else _read_pickle(path)
    if not state:
        raise ConfigError(f"{path} holds no tensor; expected the weights of a student")
    return StartingWeights(f"{path.name} (blake2b {blake2b_hex(data)[:16]})", _plain_names(state), *numbers)


def _read_safetensors(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise ConfigError(f"{path} is no whole file of safetensors: {error}; copy it again") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path} holds more than tensors and numbers, or is damaged; refused, since loading could run code\n"
            "save its weights as safetensors where you trust it: safetensors.torch.save_file(weights, file)"
        ) from error
    for key in _NESTED:
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ConfigError(f"{path} holds no weights by name, but a {type(found).__name__}")
    return found


def _plain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers put before every name: our own students, and torch's parallel ones."""
    for prefix in _PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _card_numbers(card: Path, otherwise: tuple[Numbers, Numbers]) -> tuple[Numbers, Numbers]:
    """Mean and std that a folder's card tells: those of timm's form lie one level down."""
    try:
        document = json.loads(card.read_bytes())
        facts = document.get("pretrained_cfg", document)
        return _three(facts["mean"]), _three(facts["std"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return otherwise


def _tag_numbers(name: "StudentName") -> tuple[Numbers, Numbers]:
    config = _tag_config(name)
    return _three(config.mean), _three(config.std)


def _three(values: Any) -> Numbers:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _tag_config(name: "StudentName") -> Any:
    model = f"{name.architecture}.{name.tag}"
    try:
        return timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{name.architecture}.*")]
        raise ConfigError(f"timm has no weights {model}; its tags: {', '.join(tags) or 'none'}") from error


def _from_hub(name: "StudentName", numbers: tuple[Numbers, Numbers]) -> StartingWeights:
    config = _tag_config(name)
    advice = f"fetch the weights where it can be reached, and say --student {name.model}.{name.tag}@FILE"
    if not config.hf_hub_id:
        raise ConfigError(f"{name.model}.{name.tag} is not on the Hugging Face hub; {advice}")
    try:
        path = _fetch(config.hf_hub_id)
    except Exception as error:  # the hub client passes on what its HTTP library raises, and that library changes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"cannot get {config.hf_hub_id} from the Hugging Face hub: {reason}\n{advice}") from error
    found = _from_file(path, numbers)
    return StartingWeights(f"{config.hf_hub_id} of the Hugging Face hub", found.state, *numbers)


def _fetch(repo_id: str) -> Path:
    """The weights of a repository: from the cache without asking the hub, else downloaded, else a quick error."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo_id, _FILES[0], local_files_only=True))
    except LocalEntryNotFoundError:
        # A download tries a silent host again and again; this question does not.
        HfApi().model_info(repo_id, timeout=_ANSWER_S)
        return Path(hf_hub_download(repo_id, _FILES[0]))

"""A model repository of the Hugging Face hub as a local folder: from the cache, else downloaded, else a quick error.

Torch-free.
"""

import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from embedkd.errors import TeacherError

# The hub client waits without limit for a host that takes the connection and stays silent; a firewall does just that.
_ANSWER_S = 5.0
# Each name of weights stands for a format; the first one that a repository has is fetched.
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
# Configs, tokenizers (JSON, lists of merges, sentencepiece) and the model card with its licence.
# Code comes along and is never run unless its repository is named with --trust-code.
_DESCRIPTIONS = ("*.json", "*.txt", "*.model", "*.py", "README.md")
_CARD_BYTES = 65_536
_LICENCE = re.compile(r"^license(?:_name)?:[ \t]*['\"]?([A-Za-z0-9][A-Za-z0-9 ._+-]{0,60}?)['\"]?[ \t]*$", re.MULTILINE)


def fetch_folder(repo_id: str, name: str, weights: Sequence[str] = _WEIGHTS) -> Path:
    """The folder of a repository's newest snapshot, or of the cached one where there is one.

    A cached snapshot is taken without asking the hub, so a long precompute goes on with the very weights it began with.

    Args:
        repo_id: "google/vit-large-patch32-224-in21k"
        name: The teacher's full name, for the advice in the error.
        weights: Patterns of weight files, the preferred one first: only files of the first that is there are fetched.
            Empty for a repository that is wanted for its config or tokenizer.

    Returns:
        A folder that is named after the revision.

    Raises:
        TeacherError: Neither cached nor downloadable; says what to fetch where the hub can be reached.
    """
    cached = _cached_folder(repo_id, weights or ("*.json",))
    if cached is not None:
        return cached
    try:
        return _download(repo_id, weights)
    except Exception as error:  # The hub client passes on what its HTTP library raises, and that library changes.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TeacherError(
            f"cannot get {repo_id} from the Hugging Face hub: {reason}\n{_advice(repo_id, name, weights)}"
        ) from error


def read_licence(folder: Path) -> str | None:
    """The licence that a model card's front matter gives ("apache-2.0"); None without a card or a licence.

    Args:
        folder: A snapshot, or a copy of one; its README.md may come from a stranger.
    """
    try:
        with (folder / "README.md").open("rb") as file:
            card = file.read(_CARD_BYTES).decode("utf-8", errors="replace").replace("\r\n", "\n")
    except OSError:
        return None
    matter = re.match(r"\ufeff?---\n(.*?)^---", card, re.DOTALL | re.MULTILINE)
    found = _LICENCE.findall(matter[1]) if matter else []
    # A card says "license: other" where it has a licence of its own, and that one's name beside it.
    return next((licence for licence in found if licence != "other"), found[0] if found else None)


def _advice(repo_id: str, name: str, weights: Sequence[str]) -> str:
    family, _, rest = name.partition(":")
    model = rest.partition("@")[0]
    place = model.rpartition("/")[2] if weights else repo_id.rpartition("/")[2]
    fetch = f"where it can be reached, run `hf download {repo_id} --exclude '*.h5' --exclude '*.msgpack' --local-dir"
    if not weights:
        return f"{fetch} {place}`; copy what it holds into the model's own folder and name that folder as the teacher"
    # A ViT of one's own is checked against the name; other folders say themselves what they are.
    teacher = f"{family}:{model}@{place}" if family == "vit" else f"{family}:./{place}"
    return f"{fetch} {place}`; bring that folder here and say `--teacher {teacher}`"


def _cached_folder(repo_id: str, needed: Sequence[str]) -> Path | None:
    try:
        folder = Path(snapshot_download(repo_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    return folder if any(True for pattern in needed for _ in folder.glob(pattern)) else None


def _download(repo_id: str, weights: Sequence[str]) -> Path:
    files = [sibling.rfilename for sibling in HfApi().model_info(repo_id, timeout=_ANSWER_S).siblings or ()]
    found = [pattern for pattern in weights if any(fnmatch(file, pattern) for file in files)]
    return Path(snapshot_download(repo_id, allow_patterns=[*_DESCRIPTIONS, *(found or weights)[:1]]))

"""A model repository of the Hugging Face hub as a local folder: from the cache, else downloaded, else a quick error."""

from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from embedkd.errors import TeacherError
from embedkd.teachers.weights import find_weight_files

# The hub client waits without limit for a host that takes the connection and stays silent; a firewall does just that.
_ANSWER_S = 5.0
_SAFETENSORS = "model*.safetensors"
_PICKLES = "pytorch_model*.bin"


def fetch_folder(repo_id: str, name: str) -> Path:
    """The folder of a repository's newest snapshot, or of the cached one where there is one.

    A cached snapshot is taken without asking the hub, so a long precompute goes on with the very weights it began with.

    Args:
        repo_id: "google/vit-large-patch32-224-in21k"
        name: The teacher's full name, for the advice in the error.

    Returns:
        A folder that is named after the revision.

    Raises:
        TeacherError: Neither cached nor downloadable; says what to fetch where the hub can be reached.
    """
    cached = _cached_folder(repo_id)
    if cached is not None:
        return cached
    try:
        return _download(repo_id)
    except Exception as error:  # The hub client passes on what its HTTP library raises, and that library changes.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        family, _, model = name.partition(":")
        raise TeacherError(
            f"cannot get {repo_id} from the Hugging Face hub: {reason}\n"
            f"where it can be reached, run `hf download {repo_id} --exclude '*.h5' --exclude '*.msgpack' "
            f"--local-dir {model}`; bring that folder here and say `--teacher {family}:{model}@{model}`"
        ) from error


def _cached_folder(repo_id: str) -> Path | None:
    for weights in (_SAFETENSORS, _PICKLES):
        try:
            folder = Path(snapshot_download(repo_id, allow_patterns=["*.json", weights], local_files_only=True))
            find_weight_files(folder)
        except (LocalEntryNotFoundError, TeacherError):
            continue
        return folder
    return None


def _download(repo_id: str) -> Path:
    files = [sibling.rfilename for sibling in HfApi().model_info(repo_id, timeout=_ANSWER_S).siblings or ()]
    weights = _SAFETENSORS if any(fnmatch(file, _SAFETENSORS) for file in files) else _PICKLES
    return Path(snapshot_download(repo_id, allow_patterns=["*.json", weights]))

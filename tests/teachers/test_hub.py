import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import LocalEntryNotFoundError

from embedkd.errors import TeacherError
from embedkd.teachers import hub, load_teacher

REPO = "google/vit-large-patch32-224-in21k"
NAME = "vit:ViT-L-32"


def missing(*_: object, **__: object) -> str:
    raise LocalEntryNotFoundError("not cached")


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def silent_host() -> Iterator[str]:
    """A host that takes connections and never answers, as behind a firewall."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.usefixtures("no_cache")
def test_without_a_hub_two_lines_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TeacherError) as caught:
        load_teacher("ViT-L-32")
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"cannot get {REPO} from the Hugging Face hub: ")
    assert f"hf download {REPO}" in second
    assert "--local-dir ViT-L-32" in second
    assert second.endswith("`--teacher vit:ViT-L-32@ViT-L-32`")
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("no_cache")
def test_a_hub_that_never_answers_is_given_up(silent_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_ANSWER_S", 0.1)
    monkeypatch.setattr(hub, "HfApi", partial(HfApi, endpoint=silent_host))
    began = time.monotonic()
    with pytest.raises(TeacherError, match="cannot get"):
        hub.fetch_folder(REPO, NAME)
    # Not a speed: without the limit it waits for ever.
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("files", "pattern"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin", "tf_model.h5"], "model*.safetensors"),
        (["config.json", "pytorch_model.bin", "onnx/other.safetensors"], "pytorch_model*.bin"),
    ],
)
def test_only_the_needed_files_are_downloaded_safetensors_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], pattern: str
) -> None:
    class Api:
        def model_info(self, repo_id: str, timeout: float) -> SimpleNamespace:
            assert repo_id == REPO
            assert timeout > 0
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    def download(repo_id: str, allow_patterns: Sequence[str] = (), *, local_files_only: bool = False) -> str:
        if local_files_only:
            return missing()
        assert (repo_id, allow_patterns) == (REPO, ["*.json", "*.txt", "*.model", "*.py", "README.md", pattern])
        return str(tmp_path)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert hub.fetch_folder(REPO, NAME) == tmp_path


def test_a_family_says_which_weights_it_takes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []

    def download(_repo_id: str, allow_patterns: Sequence[str] = (), *, local_files_only: bool = False) -> str:
        if local_files_only:
            return missing()
        asked.append(allow_patterns)
        return str(tmp_path)

    siblings = [SimpleNamespace(rfilename=file) for file in ("b.bin", "c.bin", "model.safetensors")]
    api = SimpleNamespace(model_info=lambda *_, **__: SimpleNamespace(siblings=siblings))
    monkeypatch.setattr(hub, "HfApi", lambda: api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    hub.fetch_folder(REPO, NAME, ("a.safetensors", "b.bin", "c.bin"))
    assert asked.pop()[-1] == "b.bin"
    hub.fetch_folder(REPO, NAME, weights=())
    assert asked.pop() == ["*.json", "*.txt", "*.model", "*.py", "README.md"]


@pytest.mark.parametrize(
    ("name", "weights", "advice"),
    [
        (
            "vit:ViT-L-32",
            ("w",),
            "--local-dir ViT-L-32`; bring that folder here and say `--teacher vit:ViT-L-32@ViT-L-32`",
        ),
        (
            "openclip:ViT-B-32@tag",
            ("w",),
            "--local-dir ViT-B-32`; bring that folder here and say `--teacher openclip:./ViT-B-32`",
        ),
        (
            "timm:resnet50.a1_in1k",
            ("w",),
            "--local-dir resnet50.a1_in1k`; bring that folder here and say `--teacher timm:./resnet50.a1_in1k`",
        ),
        ("hf:google/siglip", ("w",), "--local-dir siglip`; bring that folder here and say `--teacher hf:./siglip`"),
        (
            "openclip:ViT-B-16-SigLIP",
            (),
            "--local-dir vit-large-patch32-224-in21k`; copy what it holds into the model's own folder",
        ),
    ],
)
@pytest.mark.usefixtures("no_cache")
def test_the_advice_is_the_familys_own(
    monkeypatch: pytest.MonkeyPatch, name: str, weights: tuple[str, ...], advice: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(TeacherError) as caught:
        hub.fetch_folder(REPO, name, weights)
    assert advice in str(caught.value).splitlines()[1]


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags:\n- x\n---\n# Model", "apache-2.0"),
        ("---\r\ntags: [a]\r\nlicense: 'MIT'\r\n---\r\n", "MIT"),
        ("---\nlicense: other\nlicense_name: apple-ascl\nlicense_link: LICENSE\n---\n", "apple-ascl"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\ntags: []\n---\nlicense: mit\n", None),
        ("# Model\nlicense: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("---\nlicense: <script>\n---\n", None),
        ("---\n" + "x: y\n" * 20_000 + "license: mit\n---\n", None),
        ("", None),
    ],
)
def test_a_cards_licence_is_that_of_its_front_matter(tmp_path: Path, card: str, licence: str | None) -> None:
    (tmp_path / "README.md").write_bytes(card.encode() + b"\xff")
    assert hub.read_licence(tmp_path) == licence


def test_a_folder_without_a_card_gives_no_licence(tmp_path: Path) -> None:
    assert hub.read_licence(tmp_path) is None
    (tmp_path / "README.md").mkdir()
    assert hub.read_licence(tmp_path) is None


def test_a_cached_snapshot_is_taken_without_asking_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    monkeypatch.setattr(hub, "HfApi", missing)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    assert hub.fetch_folder(REPO, NAME) == tmp_path


def test_a_cached_snapshot_without_weights_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").touch()
    monkeypatch.setattr(hub, "HfApi", missing)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(TeacherError, match="cannot get"):
        hub.fetch_folder(REPO, NAME)
    assert hub.fetch_folder(REPO, NAME, weights=()) == tmp_path


@pytest.mark.usefixtures("no_cache")
def test_a_snapshot_in_the_librarys_own_cache_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0" * 40
    repo = tmp_path / "cache" / f"models--{REPO.replace('/', '--')}"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    monkeypatch.setattr(hub, "HfApi", missing)
    assert hub.fetch_folder(REPO, NAME) == snapshot

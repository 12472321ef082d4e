"""ONNX graphs, run by onnxruntime."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

import embedkd
from embedkd.errors import ConfigError, TrainingError
from embedkd.export import ExportResult, export_run
from embedkd.export.onnx import compare
from embedkd.rundir import RunDir
from tests.export.conftest import make_run

RunOf = Callable[..., RunDir]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportResult]:
    """A run of a transformer and its export; torch takes seconds to translate."""
    run = make_run(tmp_path_factory.mktemp("exported") / "run")
    return run.path, export_run(run.path, form="onnx")


def check_against_the_run(run: Path, folder: Path) -> None:
    student, _ = embedkd.load_student(run)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for size in (1, 5, 33):
        pixels = torch.randn(size, 3, 32, 32, generator=torch.Generator().manual_seed(size))
        embedding, logits = session.run(None, {"pixels": pixels.numpy()})
        expected = student(pixels)
        np.testing.assert_allclose(embedding, expected.embedding.detach(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(logits, expected.logits.detach(), rtol=1e-4, atol=1e-4)
    assert [output.name for output in session.get_outputs()] == ["embedding", "logits"]


def test_another_runtime_says_the_same_for_any_batch(exported: tuple[Path, ExportResult]) -> None:
    run, result = exported

    check_against_the_run(run, Path(result.folder))

    assert result.max_error is not None
    assert 0 <= result.max_error <= 1e-4
    assert result.file == "model.onnx"


def test_norms_over_batches_are_translated_as_they_evaluate(run_of: RunOf) -> None:
    run = run_of("timm:test_resnet")

    check_against_the_run(run.path, Path(export_run(run.path, form="onnx").folder))


def test_the_file_alone_says_how_images_are_prepared(exported: tuple[Path, ExportResult]) -> None:
    model = onnx.load(Path(exported[1].folder) / "model.onnx")

    onnx.checker.check_model(model)
    facts = {entry.key: entry.value for entry in model.metadata_props}

    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    preprocess = json.loads(facts["embedkd.preprocess"])
    assert preprocess["size_px"] == [32, 32]
    assert preprocess["mean"] == [0.485, 0.456, 0.406]
    assert json.loads(facts["embedkd.class_names"]) == ["a", "b", "c"]


def test_a_graph_has_its_own_words_in_the_card(exported: tuple[Path, ExportResult]) -> None:
    text = (Path(exported[1].folder) / "README.md").read_text()

    assert "`pixels` float32 [batch, 3, 32, 32] to `embedding` and `logits`, any batch size" in text
    assert "opset 20" in text
    assert "local-dir" not in text


def test_both_formats_share_a_folder_and_onnx_alone_does_not_load(
    exported: tuple[Path, ExportResult], tmp_path: Path
) -> None:
    folder = shutil.copytree(exported[1].folder, tmp_path / "both")
    with pytest.raises(TrainingError, match="export the run with --format safetensors"):
        embedkd.load_student(folder)

    export_run(exported[0], out=folder)

    assert sorted(path.name for path in folder.iterdir()) == [
        *("README.md", "config.json", "model.onnx", "model.safetensors"),
    ]
    assert all(f"| `{name}` |" in (folder / "README.md").read_text() for name in ("model.onnx", "model.safetensors"))
    embedkd.load_student(folder)


class Wrong:
    """A session that is off by so much in one output of batches of two and more."""

    def __init__(self, student: torch.nn.Module, *, by: float, cut: bool = False) -> None:
        self.student, self.by, self.cut = student, by, cut

    def run(self, _: object, inputs: dict[str, NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            answer = self.student(torch.from_numpy(inputs["pixels"]))
        logits = answer.logits.numpy()
        if len(logits) > 1:
            logits[1, 0] += self.by
        return [answer.embedding.numpy(), logits[:, :-1] if self.cut else logits]


@pytest.mark.parametrize(
    ("by", "cut", "message"),
    [
        (1e-2, False, r"ONNX differs from vit-tiny by .* in logits of a batch of 2, expected at most 0.0001"),
        (float("nan"), False, r"ONNX differs from vit-tiny by nan in logits of a batch of 2"),
        (0.0, True, r"ONNX gives logits of shape \[1, 2\], expected \[1, 3\]"),
    ],
)
def test_a_graph_that_says_something_else_is_refused(by: float, cut: bool, message: str, run_of: RunOf) -> None:
    student, card = embedkd.load_student(run_of().path)

    with pytest.raises(TrainingError, match=message):
        compare(student, Wrong(student, by=by, cut=cut), card)
    assert compare(student, Wrong(student, by=0.0), card) == 0


def test_nothing_is_written_where_the_graph_is_wrong(
    exported: tuple[Path, ExportResult], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run, result = exported
    student, _ = embedkd.load_student(run)
    graph = onnx.load(Path(result.folder) / "model.onnx")
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: SimpleNamespace(model_proto=graph))
    monkeypatch.setattr("embedkd.export.onnx.open_session", lambda _: Wrong(student, by=1.0))

    with pytest.raises(TrainingError, match="nothing was written"):
        export_run(run, form="onnx", out=tmp_path / "export")

    assert not (tmp_path / "export").exists()


def test_a_student_that_torch_cannot_translate_is_told(
    exported: tuple[Path, ExportResult], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no\nsuch operator")

    monkeypatch.setattr("torch.onnx.export", fail)

    with pytest.raises(TrainingError, match="torch cannot translate vit-tiny to ONNX: no such operator"):
        export_run(exported[0], form="onnx", out=tmp_path / "export")


def test_a_missing_package_is_told(run_of: RunOf, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(name: str) -> None:
        if name == "onnxscript":
            raise ImportError(name)

    monkeypatch.setattr("embedkd.export.onnx.import_module", without)

    with pytest.raises(
        ConfigError, match=r"ONNX needs the package onnxscript; install it with: pip install 'embedkd\[onnx\]'"
    ):
        export_run(run_of().path, form="onnx")

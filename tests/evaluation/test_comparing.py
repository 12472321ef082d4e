"""A run's student beside its teacher: everything is computed again here from the files of the run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn.functional import cosine_similarity

from embedkd.config import AverageConfig
from embedkd.config.tuning import HeadConfig
from embedkd.errors import ConfigError, TrainingError
from embedkd.evaluation import Measures, evaluate_run
from embedkd.evaluation.cka import linear_cka
from embedkd.evaluation.looking import Look
from embedkd.evaluation.samples import own_splits
from embedkd.heads.stage import make_head
from embedkd.progress import Silent
from embedkd.rundir import RunDir, read_json
from embedkd.store import open_store, write_class_set
from embedkd.training import train
from tests.evaluation.conftest import PAIR_SPEC, ROWS, TEXTS, config_of, says, write_store

RunOf = Callable[[str], Path]
NOTHING = Measures(knn=False, calibration=False, per_class=False)
COMPARED = Measures(knn=False, calibration=False, per_class=False, agreement=True, zero_shot=True)
KEYS = [f"test-000000/{number:03d}" for number in range(ROWS["test"])]
LABELS = np.arange(ROWS["test"]) % 3


def values_of(run: Path, measures: Measures) -> dict[str, float]:
    found = evaluate_run(run, measures=measures, device="cpu")
    return {name: one["value"] for name, one in found["metrics"].items()}


def answers_of(run: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    folder = RunDir(run)
    config = folder.read_config()
    found = Look.of(folder, config, "cpu", 0, Silent()).at(own_splits(config)["test"], "test")
    assert list(found.keys) == KEYS
    return found.embeddings, found.logits


def rows_of(output: str) -> NDArray[np.float32]:
    rows = np.stack([says(key, output, label) for key, label in zip(KEYS, LABELS.tolist(), strict=True)])
    return rows.astype(np.float16).astype(np.float32) if output != "logits" else rows  # as the store keeps them


def projected(run: Path, loss: str, rows: NDArray[np.float32]) -> torch.Tensor:
    state = load_file(run / "student-projections.safetensors")
    weight, bias = (state[f"losses.{loss}.projection.{part}"] for part in ("weight", "bias"))
    return torch.from_numpy(rows) @ weight.T + bias


def test_a_student_that_meets_rows_is_compared_after_its_own_projection(run_of: RunOf) -> None:
    run = run_of("pair")
    found = values_of(run, COMPARED)
    embeddings, logits = answers_of(run)
    theirs = rows_of("image")
    cosine = cosine_similarity(projected(run, "cosine", embeddings), torch.from_numpy(theirs)).mean()
    assert found["cosine"] == pytest.approx(float(cosine), abs=1e-5)
    assert found["agreement"] == pytest.approx((rows_of("logits").argmax(1) == logits.argmax(1)).mean())
    assert found["teacher_top1"] == pytest.approx((rows_of("logits").argmax(1) == LABELS).mean())
    assert found["cka"] == pytest.approx(dict(linear_cka(embeddings, theirs))["cka"].value, abs=1e-5)
    assert 0 <= found["neighbours"] <= 1
    assert found["top1"] == read_json(run / "result.json")["test_top1"], "the rows change no sample and no answer"


def test_zero_shot_takes_the_texts_that_the_student_met(run_of: RunOf) -> None:
    run = run_of("pair")
    embeddings, _ = answers_of(run)
    ours = projected(run, "interactive_contrastive", embeddings)
    nearest = cosine_similarity(ours[:, None], torch.from_numpy(TEXTS)[None], dim=2).argmax(1).numpy()
    assert values_of(run, COMPARED)["zero_shot"] == pytest.approx((nearest == LABELS).mean())


def test_of_several_sets_of_texts_the_run_says_which(home: Path, tmp_path: Path) -> None:
    """A loss that meets images alone names no texts by itself."""
    write_store(tmp_path / "pair.zarr", home / "data", PAIR_SPEC)
    (tmp_path / "data").symlink_to(home / "data")
    view = open_store(tmp_path / "pair.zarr").teacher()
    texts = -TEXTS[[1, 2, 0]]
    write_class_set(view, "text", replace(view.class_set(None, "text"), name="mine", mean=texts))
    still = ("augment.crop_padding_px=0", "augment.flip=0")
    sets = ("losses={cosine=1}", f"train.targets={tmp_path / 'pair.zarr'}", *still)
    train(config_of(tmp_path / "unnamed", *sets))
    with pytest.raises(TrainingError, match=r"the run named none of .*text has 2 class sets.*mine, prompts-simple"):
        evaluate_run(tmp_path / "unnamed", measures=replace(NOTHING, zero_shot=True), device="cpu")
    train(config_of(tmp_path / "named", *sets, "train.class_set=mine"))
    ours = projected(tmp_path / "named", "cosine", answers_of(tmp_path / "named")[0])
    nearest = cosine_similarity(ours[:, None], torch.from_numpy(texts)[None], dim=2).argmax(1).numpy()
    found = values_of(tmp_path / "named", replace(NOTHING, zero_shot=True))
    assert found["zero_shot"] == pytest.approx((nearest == LABELS).mean())
    losses = "losses={interactive_contrastive=1, mse=1}"
    option = "loss_options.interactive_contrastive.class_set=mine"
    train(config_of(tmp_path / "one", losses, option, *sets[1:]))
    assert "zero_shot" in values_of(tmp_path / "one", replace(NOTHING, zero_shot=True)), "one loss named its texts"


def test_a_loss_that_projects_the_teacher_is_compared_on_the_students_side(run_of: RunOf) -> None:
    run = run_of("stored")
    found = values_of(run, Measures(knn=False, calibration=False, per_class=False, agreement=True))
    ours, theirs = answers_of(run)[0], projected(run, "class_contrastive", rows_of("cls"))
    assert found["cosine"] == pytest.approx(float(cosine_similarity(torch.from_numpy(ours), theirs).mean()), abs=1e-5)
    assert "agreement" not in found, "the store has no logits of these classes"


def test_everything_leaves_a_line_for_what_a_run_cannot_have(run_of: RunOf) -> None:
    found = evaluate_run(run_of("stored"), measures=Measures.everything(), device="cpu")
    assert {"top1", "knn", "linear", "ece", "balanced", "cosine", "neighbours", "cka"} <= set(found["metrics"])
    (line,) = found["notes"]
    assert "zero-shot: the student shares no space with class texts" in line
    plain = evaluate_run(run_of("plain"), measures=Measures.everything(), device="cpu")
    assert "learned from labels" in plain["notes"][0]
    assert "linear" in plain["metrics"]


def test_what_was_asked_for_and_cannot_be_had_is_an_error(run_of: RunOf, home: Path) -> None:
    with pytest.raises(TrainingError, match="shares no space with class texts"):
        evaluate_run(run_of("stored"), measures=Measures(zero_shot=True), device="cpu")
    with pytest.raises(TrainingError, match="learned from labels"):
        evaluate_run(run_of("plain"), measures=Measures(agreement=True), device="cpu")
    with pytest.raises(ConfigError, match="leave out --data"):
        evaluate_run(home / "stored", data=str(home / "data"), measures=Measures(agreement=True))
    with pytest.raises(ConfigError, match="evaluate another split"):
        evaluate_run(home / "stored", split="train", measures=Measures(knn=False, linear=True))


def test_projections_of_another_student_and_lost_ones_are_named(run_of: RunOf) -> None:
    run = run_of("pair")
    path = run / "student-projections.safetensors"
    save_file(load_file(path), path, metadata={"student": "f" * 64})
    with pytest.raises(TrainingError, match=r"not the file that student\.json was written for"):
        evaluate_run(run, measures=COMPARED, device="cpu")
    path.unlink()
    with pytest.raises(TrainingError, match="does not hold what its losses learned"):
        evaluate_run(run, measures=COMPARED, device="cpu")
    assert evaluate_run(run, measures=NOTHING, device="cpu")["rows"] == 11


def test_without_a_validation_split_the_probe_holds_some_training_samples_out(
    run_of: RunOf, make_data: Callable[..., Path]
) -> None:
    run = run_of("plain")
    data = make_data({"train": 20, "test": 6})
    config = read_json(run / "config.json")
    config["data"]["shards"] = str(data / "gone")
    (run / "config.json").write_text(json.dumps(config))
    found = evaluate_run(run, data=str(data), measures=Measures(linear=True), device="cpu")
    assert "linear" in found["metrics"]
    assert "temperature" not in found["metrics"]
    assert found["notes"] == ["no temperature was fitted: that takes a validation split, and another one to measure"]


def test_the_evaluated_validation_split_fits_no_temperature(run_of: RunOf) -> None:
    found = evaluate_run(run_of("plain"), split="val", device="cpu")
    assert "temperature" not in found["metrics"]
    assert "ece" in found["metrics"]


def test_a_head_beside_the_teacher_answers_for_it(run_of: RunOf, home: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "store.zarr", home / "data")
    (tmp_path / "data").symlink_to(home / "data")
    make_head(HeadConfig(store=str(tmp_path / "store.zarr"), folds=2, device="cpu"), AverageConfig())
    run = run_of("stored")
    config = read_json(run / "config.json")
    config["train"]["targets"] = [str(tmp_path / "store.zarr")]  # which now has two teachers, one of them a head
    (run / "config.json").write_text(json.dumps(config))
    found = values_of(run, Measures(knn=False, calibration=False, per_class=False, agreement=True))
    assert {"agreement", "teacher_top1", "cosine"} <= set(found)


def test_each_of_several_teachers_is_named(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "both"
    stores = json.dumps([str(home / name) for name in ("store.zarr", "pair.zarr")])
    still = ("augment.crop_padding_px=0", "augment.flip=0")
    train(config_of(run, f"train.targets={stores}", "losses.class_contrastive=0", "losses.mse=1", *still))
    found = values_of(run, Measures(knn=False, calibration=False, per_class=False, agreement=True))
    names = ("efficientnet-lite0", "vit-b-32")
    for metric in ("cosine", "neighbours", "cka"):
        assert {f"{metric}@{name}" for name in names} <= set(found)
    assert "agreement@vit-b-32" in found
    assert "agreement@efficientnet-lite0" not in found
    embeddings, _ = answers_of(run)
    for name, rows in zip(names, (rows_of("cls"), rows_of("image")), strict=True):
        cosine = cosine_similarity(projected(run, f"mse@{name}", embeddings), torch.from_numpy(rows)).mean()
        assert found[f"cosine@{name}"] == pytest.approx(float(cosine), abs=1e-5)

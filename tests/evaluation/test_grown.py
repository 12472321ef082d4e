"""A store that goes on after a run: what is held out then is not what was held out in the run."""

from pathlib import Path

from embedkd.evaluation import Measures, evaluate_run
from embedkd.rundir import RunDir, read_json
from embedkd.training import train
from tests.evaluation.conftest import config_of, write_data, write_store

TOP1 = Measures(knn=False, calibration=False, per_class=False)


def notes_of(run: Path) -> list[str]:
    return [
        note for note in evaluate_run(run, measures=TOP1, device="cpu").get("notes", ()) if "training split" in note
    ]


def test_a_training_split_that_has_changed_is_told(tmp_path: Path) -> None:
    write_data(tmp_path / "data", {"train": 20, "test": 11})
    write_store(tmp_path / "store.zarr", tmp_path / "data", rows={"train": 20, "test": 11})
    run = tmp_path / "run"
    train(config_of(run, f"train.targets={tmp_path / 'store.zarr'}"))
    assert notes_of(run) == []
    result = read_json(RunDir(run).result)
    assert result["data"]["training split"]
    other = tmp_path / "other"
    other.mkdir()
    write_data(other / "data", {"train": 26, "test": 11})
    write_store(other / "store.zarr", other / "data", rows={"train": 26, "test": 11})
    config = config_of(run, f"train.targets={other / 'store.zarr'}")
    RunDir(run).claim(config)
    assert notes_of(run) == [
        "the training split has other samples than when the run ended: some that are held out now may be known"
    ]

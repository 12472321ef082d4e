"""What is fitted to stored rows: against NumPy, and never to what is held out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from embedkd.config import Config
from embedkd.errors import TrainingError
from embedkd.losses import fitted_temperature
from embedkd.records import Shard, key_hash
from embedkd.store import open_store
from embedkd.students import StudentOutput
from embedkd.training import fitting
from embedkd.training.data import TrainingData, open_data
from embedkd.training.fitting import measure_moments
from embedkd.training.objective import Objective
from embedkd.training.terms import build_terms

ConfigOf = Callable[..., Config]
MSE = ("losses={mse=1}", "loss_options.mse.standardise=true", "augment.flip=0", "augment.crop_padding_px=0")


@pytest.fixture
def alone(tmp_path: Path, make_data: Callable[..., tuple[Shard, ...]], make_store: Callable[..., Path]) -> Path:
    """A store without a validation split, one of whose rows is missing."""
    return make_store(tmp_path, make_data(tmp_path / "data", ("train", "test")), bad=(4,))


def opened(config: Config) -> TrainingData:
    return open_data(config, build_terms(config.losses, config.loss_options))


def rows_of(
    store: Path, output: str, *, without: tuple[str, ...] = ()
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Usable training rows, in order, and their labels."""
    view = open_store(store).teacher()
    (slot,) = (slot for slot in view.store.slots if slot.shard.split == "train")
    read = view.read(slot, output)
    kept = (read.status == 1) & ~np.isin(read.keys, [key_hash(key) for key in without])
    return np.asarray(read.rows, np.float64)[kept], read.labels[kept]


def test_moments_are_those_of_the_training_rows(config_of: ConfigOf, data: Path) -> None:
    found = opened(config_of(*MSE)).targets["mse"]
    rows, _ = rows_of(data / "store.zarr", "pooled")
    deviation = rows.std(axis=0)
    assert deviation[4] == 0, "the last value of this teacher never changes"
    assert found.centre is not None
    assert found.scale is not None
    np.testing.assert_allclose(found.centre.numpy(), rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.scale.numpy()[:4], 1 / deviation[:4], rtol=1e-6)
    assert found.scale[4] == 0


@pytest.mark.parametrize("numbers", [1, 12, 5 * 22])
def test_blocks_change_nothing(config_of: ConfigOf, data: Path, monkeypatch: pytest.MonkeyPatch, numbers: int) -> None:
    monkeypatch.setattr(fitting, "_BLOCK_NUMBERS", numbers)
    train = opened(config_of(*MSE)).train
    moments = measure_moments(train, ["pooled"])["pooled"]
    rows, _ = rows_of(data / "store.zarr", "pooled")
    assert moments.rows == 22
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.squares, ((rows - rows.mean(axis=0)) ** 2).sum(axis=0), rtol=1e-9, atol=1e-12)


def test_large_means_do_not_cancel() -> None:
    rows = 1e8 + np.random.default_rng(0).standard_normal((1000, 3))
    moments = fitting.Moments.of(rows[:300]).with_more(fitting.Moments.of(rows[300:]))
    np.testing.assert_allclose(moments.squares / 1000, rows.var(axis=0), rtol=1e-6)


def test_the_loss_sees_standardised_rows(config_of: ConfigOf, data: Path) -> None:
    found = opened(config_of(*MSE))
    rows, _ = rows_of(data / "store.zarr", "pooled")
    made = Objective(found.terms, targets=found.targets, student_dim=5, num_classes=3, seed=0)
    student = torch.randn(22, 5, generator=torch.Generator().manual_seed(0))
    answer = StudentOutput(student, torch.zeros(22, 3))
    total, _ = made(answer, torch.zeros(22, dtype=torch.int64), {"pooled": torch.from_numpy(rows).float()})
    deviation = rows.std(axis=0)
    expected = np.where(deviation > 0, (rows - rows.mean(axis=0)) / np.where(deviation > 0, deviation, 1), 0)
    assert float(total) == pytest.approx(((student.numpy() - expected) ** 2).mean(), rel=1e-5)


def test_classes_are_standardised_with_the_rows(config_of: ConfigOf, data: Path) -> None:
    changes = ("losses={similarity_kl=1}", *MSE[2:])
    plain = opened(config_of(*changes)).targets["similarity_kl"]
    found = opened(config_of(*changes, "loss_options.similarity_kl.standardise=true")).targets["similarity_kl"]
    assert plain.classes is not None
    assert found.classes is not None
    assert found.centre is not None
    assert found.scale is not None
    torch.testing.assert_close(found.classes, (plain.classes - found.centre) * found.scale)
    with pytest.raises(
        TrainingError, match=r"expected classes of pooled to standardise with its rows, got those of text"
    ):
        _texts(config_of)


def _texts(config_of: ConfigOf) -> None:
    """What a loss says that would compare rows of one space with classes of another."""
    from embedkd.training.targets import _Finder

    config = config_of("losses={similarity_kl=1}", "loss_options.similarity_kl.standardise=true")
    (term,) = build_terms(config.losses, config.loss_options)
    finder = _Finder(open_store(config.train.targets[0]).teacher(), config)
    finder._class_output = lambda term, output: "text"  # type: ignore[method-assign]
    finder._classes = lambda output, name: torch.zeros(3, 5)  # type: ignore[method-assign]
    finder.find(term)


def test_held_out_rows_take_no_part(config_of: ConfigOf, alone: Path) -> None:
    sets = (f"train.targets={alone}", "train.val_fraction=0.2", "train.allow_partial=true", *MSE[2:])
    found = opened(config_of(*MSE, *sets))
    assert found.val is not None
    assert (found.train.rows, found.val.rows) == (17, 4)
    held = [reader.read(0, n).key for reader in [found.val.reader()] for n in range(4)]
    rows, labels = rows_of(alone, "pooled", without=tuple(held))
    assert len(rows) == 17
    centre = found.targets["mse"].centre
    assert centre is not None
    np.testing.assert_allclose(centre.numpy(), rows.mean(axis=0), rtol=1e-6)

    found = opened(config_of("losses={kl=1}", "loss_options.kl.fitted=true", *sets))
    logits, labels = rows_of(alone, "logits", without=tuple(held))
    expected = fitted_temperature(torch.from_numpy(logits).float(), torch.from_numpy(labels).long())
    assert found.targets["kl"].options == {"temperature": expected}


def test_a_temperature_is_fitted_on_training_rows(config_of: ConfigOf, data: Path) -> None:
    rows, labels = rows_of(data / "store.zarr", "logits")
    expected = fitted_temperature(torch.from_numpy(rows).float(), torch.from_numpy(labels).long())
    for loss in ("kl", "scaled_kl"):
        found = opened(config_of(f"losses={{{loss}=1}}", f"loss_options.{loss}.fitted=true", *MSE[2:]))
        assert found.targets[loss].options == {"temperature": expected}
    assert opened(config_of("losses={kl=1}", "augment.flip=0")).targets["kl"].options == {}


def test_without_labels_there_is_no_temperature_to_fit(
    config_of: ConfigOf, tmp_path: Path, make_data: Callable[..., tuple[Shard, ...]], make_store: Callable[..., Path]
) -> None:
    store = make_store(tmp_path, make_data(tmp_path / "data", labelled=False), labelled=False, mean_of=())
    with pytest.raises(TrainingError, match="has no labelled training row to fit a temperature on"):
        opened(config_of(f"train.targets={store}", "losses={kl=1}", "loss_options.kl.fitted=true", "augment.flip=0"))


def test_the_identity_of_a_run_tells_what_was_fitted(config_of: ConfigOf) -> None:
    plain, standardised = opened(config_of("losses={mse=1}")), opened(config_of(*MSE))
    assert set(standardised.identity) - set(plain.identity) == {"centre of mse", "scale of mse"}

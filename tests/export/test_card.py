"""The model card."""

from collections.abc import Callable
from pathlib import Path

import pytest

from embedkd.errors import UnknownNameError
from embedkd.evaluation import Estimate, Evaluation, write_evaluation
from embedkd.export import export_run
from embedkd.export.latency import measure
from embedkd.rundir import RunDir, read_json

RunOf = Callable[..., RunDir]
SETS = (
    "train.targets=/home/somebody/secret/imagenet.zarr",
    "data.shards=s3://bucket/private/clipart",
    "losses={cross_entropy=0.5, mse=2.0, kl=0.0}",
)


def readme(run: RunDir, form: str = "safetensors") -> str:
    return (Path(export_run(run.path, form=form).folder) / "README.md").read_text()


def evaluate(run: RunDir, digest: str) -> None:
    data = "/home/somebody/clipart"
    metrics = {"top1": Estimate(0.75, 0.6, 0.86)}
    write_evaluation(run, Evaluation(digest, data, "test", 40, None, {}, "cpu", metrics))


def test_it_tells_student_data_teacher_losses_and_accuracy(run_of: RunOf) -> None:
    run = run_of("timm:test_resnet", sets=SETS)
    evaluate(run, read_json(run.student)["weights_blake2b"])

    text = readme(run)

    for said in (
        "# timm\\:test\\_resnet\n",
        "An image classifier of 3 classes that learned from stored embeddings of a teacher model",
        "| teacher | packaged\\:efficientnet\\-lite0 |",
        "| licence of the teacher's weights | not known\\: ask before you use the student |",
        "| targets | imagenet\\.zarr |",
        "| data | clipart |",
        "| loss mse | weight 2 |",
        "| top-1, test split, at the end of the run | 25.0% | - |",
        "| top1, test split of clipart, 40 images | 75.0% | 60.0% to 86.0% |",
        "| epochs | 3, the best after 2 |",
        "| classes | 3: a, b, c |",
        "[0.485, 0.456, 0.406]",
        'timm.create_model("local-dir:FOLDER", pretrained=True)',
        "embedkd.load_student",
        "| `model.safetensors` |",
    ):
        assert said in text
    assert "onnx" not in text
    assert "loss kl" not in text, "a loss of weight 0 was not used"


def test_it_tells_no_path_of_this_machine(run_of: RunOf) -> None:
    run = run_of(sets=SETS)
    evaluate(run, read_json(run.student)["weights_blake2b"])
    text = readme(run)

    for private in ("somebody", "secret", "private", "bucket", "/home", "tmp"):
        assert private not in text


def test_an_evaluation_of_other_weights_is_left_out(run_of: RunOf) -> None:
    run = run_of()
    evaluate(run, "0" * 64)

    assert "75.0%" not in readme(run)


def test_a_student_of_labels_alone_says_so(run_of: RunOf) -> None:
    assert "An image classifier of 3 classes that learned from labels, trained" in readme(run_of())


def test_a_run_that_goes_on_has_a_card_too(run_of: RunOf) -> None:
    run = run_of()
    run.result.unlink()

    text = readme(run)

    assert "the run had not ended when this was exported" in text
    assert "Not measured yet; `embedkd evaluate RUN` does" in text


def test_names_of_strangers_do_nothing(run_of: RunOf) -> None:
    run = run_of(class_names=("<script>alert(1)</script>", "[a](javascript:x)", "b|\nc"))

    text = readme(run)

    assert "<script>" not in text
    assert "[a](" not in text
    assert "| classes | 3: &lt;script&gt;" in text
    assert "b\\|" in text


def test_a_format_that_is_none_is_told(run_of: RunOf) -> None:
    with pytest.raises(UnknownNameError, match="unknown format 'onxx'; did you mean onnx"):
        export_run(run_of().path, form="onxx")


def test_latency_is_the_median_of_runs_of_both_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkd.export.latency._RUNS", 5)
    clock = iter([0, 0.001, 1, 1.5, 2, 2.002, 3, 3.003, 4, 4.002] * 2)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    shapes = []

    found = measure(lambda pixels: shapes.append(tuple(pixels.shape)), 8)

    assert found.median_ms == {1: 2.0, 32: 2.0}
    assert found.runs == {1: 5, 32: 5}
    assert set(shapes) == {(1, 3, 8, 8), (32, 3, 8, 8)}
    assert str(found) == "2.00 ms for 1, 2.00 ms for 32 (median of 5 runs, 1 threads)"


def test_a_slow_student_answers_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedkd.export.latency._RUNS", 100)
    clock = iter(range(0, 400, 2))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))

    assert measure(lambda _: None, 4).runs == {1: 3, 32: 3}

"""Commands as a person types them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., tuple[int, str, str]]


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, embedkd.cli; print([m for m in ('torch', 'timm', 'zarr', 'numpy', 'PIL') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_no_arguments_is_usage(embedkd: Command) -> None:
    code, out, err = embedkd()
    assert code == 2
    assert "precompute" in out + err


def test_unknown_option_is_usage(embedkd: Command) -> None:
    assert embedkd("train", "--no-such-flag")[0] == 2


def test_version(embedkd: Command) -> None:
    from embedkd import __version__

    assert embedkd("--version") == (0, f"embedkd {__version__}\n", "")


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("teachers", ["efficientnet-lite0", "ViT-L-32"]),
        ("students", ["vit-tiny", "vit-base", "vit-large"]),
        ("losses", ["cross_entropy", "class_contrastive", "sample_contrastive", "mse", "cosine"]),
    ],
)
def test_tables_list_everything_and_one(embedkd: Command, table: str, names: list[str]) -> None:
    code, out, _ = embedkd(table)
    assert code == 0
    assert all(name in out for name in names)
    code, out, _ = embedkd(table, names[-1])
    assert code == 0
    assert names[-1] in out
    assert names[0] not in out


def test_a_family_is_listed_alone(embedkd: Command) -> None:
    _, out, _ = embedkd("teachers", "vit:")
    assert "ViT-L-32" in out
    assert "bilinear" in out
    assert "efficientnet" not in out
    families = json.loads(embedkd("teachers", "--json")[1])
    assert set(families) == {"packaged", "vit", "openclip", "timm", "hf"}
    assert families["packaged"][0]["outputs"] == [{"dim": 1280, "name": "pooled"}, {"dim": 1000, "name": "logits"}]


def test_one_teacher_is_shown_with_all_its_facts(embedkd: Command) -> None:
    _, out, _ = embedkd("teachers", "ViT-L-32")
    for fact in (
        "google/vit-large-patch32-224-in21k",
        "306,560,000",
        "224 px, bilinear, mean 0.5 0.5 0.5",
        "Apache-2.0",
    ):
        assert fact in out
    assert "use it: embedkd precompute --teacher ViT-L-32" in out
    assert json.loads(embedkd("teachers", "ViT-L-32", "--json")[1])["parameters"] == 306_560_000
    _, out, _ = embedkd("teachers", "openclip:ViT-B-32")
    assert "image 512, text 512, cls 768" in out
    assert "tags        laion2b_s34b_b79k, " in out  # the default one first
    code, _, err = embedkd("teachers", "ViT-L-23")
    assert code == 1
    assert "did you mean ViT-L-32" in err


def test_pack_says_what_it_wrote_and_what_is_next(embedkd: Command, images: Path, tmp_path: Path) -> None:
    code, out, _ = embedkd("pack", images, tmp_path / "shards", "--rows-per-shard", 10)
    assert code == 0
    assert "3 classes" in out
    assert "next: embedkd precompute" in out
    assert (tmp_path / "shards" / "index.json").is_file()


def test_finished_store_is_said_so_without_loading_torch(shards: Path, store: Path) -> None:
    code = (
        "import sys; sys.argv[0] = 'embedkd'\n"
        "from embedkd.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "precompute", "--data", str(shards), "--out", str(store)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    said, loaded = found.stdout.strip().splitlines()[0], found.stdout.strip().splitlines()[-1]
    assert "is finished: 36 rows" in said
    assert loaded == "False False"


def test_rows_are_kept_in_the_encoding_that_was_asked_for(embedkd: Command, shards: Path, tmp_path: Path) -> None:
    arguments = ("precompute", "--data", shards, "--out", tmp_path / "s.zarr", "--weights", "random")
    asked = ("--outputs", "pooled,logits", "--encoding", "logits=top10", "--encoding", "pooled=int8")
    code, _, err = embedkd(*arguments, *asked)
    assert code == 0, err
    (teacher,) = json.loads(embedkd("store", "info", tmp_path / "s.zarr", "--json")[1])["teachers"]
    outputs = {output["name"]: output for output in teacher["outputs"]}
    assert (outputs["logits"]["encoding"], outputs["pooled"]["encoding"]) == ("top10", "int8")
    assert all(0 < output["error"]["mean"] <= output["error"]["max"] for output in outputs.values())
    shown = embedkd("store", "info", tmp_path / "s.zarr")[1]
    assert "top10" in shown
    assert f"{outputs['pooled']['error']['max']:.1e}" in shown
    code, _, err = embedkd(*arguments, "--encoding", "pooled=top10")
    assert (code, err.count("\n")) == (1, 1)
    assert "precompute.encoding: expected float16, float32, bfloat16, int8 or, of logits, top<K>" in err
    _, _, err = embedkd(*arguments, "--outputs", "pooled", "--encoding", "top10")
    assert "note: top10 is for logits; of packaged:efficientnet-lite0 it leaves pooled float16" in err


def test_random_weights_are_told_wherever_their_rows_are(embedkd: Command, shards: Path, tmp_path: Path) -> None:
    arguments = ("precompute", "--data", shards, "--out", tmp_path / "s.zarr", "--outputs", "pooled")
    code, out, err = embedkd(*arguments, "--weights", "random", "--set", "precompute.seed=3")
    assert code == 0, err
    assert "loading packaged:efficientnet-lite0 with random weights (seed 3)" in err
    assert "36 of 36 rows computed" in out
    assert "random weights: rows for dry runs" in out
    assert f"next: embedkd train --targets {tmp_path / 's.zarr'} --allow-random-teacher --student" in out
    again = json.loads(embedkd(*arguments, "--weights", "random", "--set", "precompute.seed=3", "--json")[1])
    (entry,) = again["teachers"]
    assert (again["computed"], entry["computed"], entry["random_weights"]) == (0, 0, True)
    assert entry["class_sets"] == {"pooled": ["n100-seed0"]}


def test_store_info_for_people_and_scripts(embedkd: Command, store: Path) -> None:
    code, out, _ = embedkd("store", "info", store)
    assert code == 0
    assert "36 samples" in out
    assert "n100-seed0" in out
    facts = json.loads(embedkd("store", "info", store, "--json")[1])
    assert facts["rows"] == 36
    assert facts["classes"] == ["blue", "green", "red"]
    assert {o["name"]: o["usable"] for o in facts["teachers"][0]["outputs"]} == {"logits": 36, "pooled": 36}


def test_average_makes_another_class_set(embedkd: Command, store: Path) -> None:
    code, out, _ = embedkd("average", store, "--per-class", 3, "--seed", 5, "--output", "pooled")
    assert code == 0
    assert "n3-seed5, 3 of 3 classes, 9 rows" in out


def test_a_second_class_set_leaves_the_default_one_chosen(embedkd: Command, store: Path, tmp_path: Path) -> None:
    assert embedkd("average", store, "--per-class", 2, "--output", "pooled")[0] == 0
    code, _, err = embedkd(
        *("train", "--targets", store, "--epochs", 1, "--batch-size", 8, "--out", tmp_path / "run"),
    )
    assert code == 0, err


def test_train_evaluate_report(embedkd: Command, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ("train", "--targets", store, "--student", "vit-tiny", "--out", run, "--epochs", 2, "--batch-size", 8)
    sets = ("--set", "train.class_set=n100-seed0")
    code, out, err = embedkd(*arguments, *sets)
    assert code == 0, err
    assert "test" in out
    assert embedkd(*arguments, *sets, "--resume")[0] == 0
    code, out, err = embedkd("evaluate", run, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {"top1", "knn"} <= set(found["metrics"])
    code, out, err = embedkd("evaluate", run)
    assert f"{found['rows']} test images" in out
    assert f"{found['metrics']['top1']['value']:.1%}" in out
    assert embedkd("evaluate", run, "--split", "val", "--no-knn")[1].count("val images") == 1
    code, out, err = embedkd("report", run, "--out", tmp_path / "report.html")
    assert code == 0, err
    assert "<html" in (tmp_path / "report.html").read_text()


def test_loss_flags_replace_the_recipe(embedkd: Command, store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, err = embedkd(
        *("train", "--targets", store, "--out", run, "--epochs", 1, "--batch-size", 8, "--json"),
        *("--loss", "cross_entropy=0.3", "--loss", "mse=2", "--allow-view-mismatch"),
    )
    assert code == 0, err
    assert json.loads(out)["losses"] == {"cross_entropy": 0.3, "mse": 2.0}


def test_store_without_data_flag_finds_its_shards_after_both_moved(
    embedkd: Command, store: Path, shards: Path, tmp_path: Path
) -> None:
    """A store and its shards that are copied together stay usable; shards elsewhere are named with --data."""
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(store, moved / "store.zarr")
    shutil.copytree(shards, moved / "shards")
    arguments = ("train", "--targets", moved / "store.zarr", "--epochs", 1, "--batch-size", 8)
    sets = ("--set", "train.class_set=n100-seed0")
    code, _, err = embedkd(*arguments, *sets, "--out", tmp_path / "run", "--data", moved / "shards")
    assert code == 0, err

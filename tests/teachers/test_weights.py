import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from embedkd.errors import TeacherError
from embedkd.teachers.weights import compare_state, find_weight_files, read_weights, refuse_misfits, weights_sha256

State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    random = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(3, 4, generator=random),
        "half": torch.randn(5, generator=random).to(torch.bfloat16),
        "steps": torch.tensor(7),
        "none": torch.empty(0, 2),
    }


def test_the_digest_is_independent_of_order_strides_and_file(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "model.safetensors")
    torch.save({name: state[name] for name in reversed(state)}, tmp_path / "pytorch_model.bin")
    digest = weights_sha256(state)
    assert weights_sha256(dict(reversed(state.items()))) == digest
    assert weights_sha256(state | {"weight": state["weight"].t().contiguous().t()}) == digest
    assert weights_sha256(read_weights([tmp_path / "model.safetensors"])) == digest
    assert weights_sha256(read_weights([tmp_path / "pytorch_model.bin"])) == digest


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s | {"weight": s["weight"].neg()},
        lambda s: s | {"weight": s["weight"].reshape(4, 3)},
        lambda s: s | {"steps": s["steps"].to(torch.int32)},
        lambda s: {("other" if name == "half" else name): tensor for name, tensor in s.items()},
        lambda s: s | {"extra": torch.zeros(1)},
    ],
)
def test_the_digest_sees_every_change(state: State, change: Callable[[State], State]) -> None:
    assert weights_sha256(change(dict(state))) != weights_sha256(state)


def test_the_digest_is_what_its_docstring_says() -> None:
    head = b'["w","float32",[2]]'
    body = b"\x00\x00\x80\x3f\x00\x00\x00\x40"
    expected = hashlib.sha256(len(head).to_bytes(8, "little") + head + body).hexdigest()
    assert weights_sha256({"w": torch.tensor([1.0, 2.0])}) == expected


def test_weights_are_contiguous_whatever_their_file_says(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(4, 3).t()}, tmp_path / "w.pth")
    assert read_weights([tmp_path / "w.pth"])["w"].stride() == (4, 1)


def test_safetensors_come_before_pickles_and_shards_follow_their_index(tmp_path: Path, state: State) -> None:
    torch.save({}, tmp_path / "pytorch_model.bin")
    names = sorted(state)
    for number, part in enumerate((names[:2], names[2:])):
        save_file({name: state[name] for name in part}, tmp_path / f"part-{number}.safetensors")
    weight_map = {name: f"part-{int(name in names[2:])}.safetensors" for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    files = find_weight_files(tmp_path)
    assert [file.name for file in files] == ["part-0.safetensors", "part-1.safetensors"]
    assert weights_sha256(read_weights(files)) == weights_sha256(state)
    save_file(state, tmp_path / "model.safetensors")
    assert [file.name for file in find_weight_files(tmp_path)] == ["model.safetensors"]


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="holds no weights: expected model"):
        find_weight_files(tmp_path)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ({"weight_map": {"w": "../elsewhere.safetensors"}}, "outside its own folder; refused"),
        ({"weight_map": {"w": "/etc/passwd"}}, "outside its own folder; refused"),
        ({"weight_map": {}}, "outside its own folder; refused"),
        ({"weight_map": {"w": 3}}, "is no index of weight files"),
        ({}, "is no index of weight files"),
    ],
)
def test_an_index_reaches_nothing_outside_its_folder(tmp_path: Path, index: object, says: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(TeacherError, match=says):
        find_weight_files(tmp_path)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text"])
def test_damaged_files_are_named(tmp_path: Path, state: State, name: str, damage: str) -> None:
    file = tmp_path / name
    if damage != "missing":
        save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
        whole = file.read_bytes()
        file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not weights at all"}[damage])
    with pytest.raises(TeacherError) as caught:
        read_weights([file])
    assert f"'{file}'" in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"w": torch.zeros(1)}}])
def test_a_pickle_of_something_else_is_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(TeacherError, match="holds no state dict"):
        read_weights([tmp_path / "w.pth"])


def test_differences_are_counted_and_the_first_listed() -> None:
    model = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1), "d": torch.zeros(1)}
    misfits = compare_state({"a": torch.zeros(2, 1), "e": torch.zeros(1)}, model)
    assert misfits == [
        "b is missing",
        "c is missing",
        "d is missing",
        "e is left over",
        "a is [2, 1], the model expects [2]",
    ]
    with pytest.raises(TeacherError, match="5 differences\nb is missing; c is missing; d is missing; and 2 more"):
        refuse_misfits("x", misfits)
    refuse_misfits("x", compare_state(model, model))

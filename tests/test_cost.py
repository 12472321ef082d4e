"""The cost benchmark's own arithmetic: which ratios are of what, and when a goal is met."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.training import MEANS, ROWS, SUPERVISED, End, Runner, Steps, Table, TeacherSize, turns

MB = 1_000_000


def runner(name: str, *wall_s: float) -> Runner:
    found = [Steps(wall, 2 * wall) for wall in wall_s]
    return cast("Runner", SimpleNamespace(variant=SimpleNamespace(name=name, rounds=len(found)), found=found))


def end(start: int, peak: int) -> End:
    return End({"start_bytes": start * MB, "peak_bytes": peak * MB}, 5_000_000, 300_000_000)


def table(rows_s: float = 1.05, rows_peak: int = 1030, online_s: float = 16.8) -> Table:
    runners = [
        runner(SUPERVISED, 1.0, 2.0, 1.0),
        runner(MEANS, 1.0, 2.0, 1.0),
        runner(ROWS, rows_s, 2 * rows_s, rows_s),
        runner("online ViT-L-32", online_s, 2 * online_s),
    ]
    peaks = {SUPERVISED: (900, 1000, 1300), MEANS: (1000,), ROWS: (rows_peak, 5000, 1000)}
    ends = {name: [end(0, peak) for peak in found] for name, found in peaks.items()}
    ends["online ViT-L-32"] = [end(500, 2560)]
    return Table(runners, ends, {"ViT-L-32": TeacherSize(300_000_000, 14_100_000_000)})


def test_ratios_are_of_neighbours_in_time() -> None:
    ratio = table().ratio(ROWS, SUPERVISED, lambda steps: steps.wall_s)
    assert ratio == pytest.approx({"median": 1.05, "min": 1.05, "max": 1.05})
    online = table().ratio("online ViT-L-32", ROWS, lambda steps: steps.wall_s)
    assert online["median"] == pytest.approx(16), "of the rounds in which both took part"


def test_memory_is_of_the_process_and_net_of_what_was_there() -> None:
    assert table().memory_ratio("online ViT-L-32", SUPERVISED, net=False) == pytest.approx(2.56)
    assert table().memory_ratio("online ViT-L-32", SUPERVISED, net=True) == pytest.approx(2.06)


@pytest.mark.parametrize(
    ("changed", "missed"),
    [({}, 0), ({"rows_s": 1.06}, 1), ({"rows_peak": 1031}, 1), ({"online_s": 15.7}, 1), ({"online_s": 15.8}, 0)],
)
def test_goals_are_met_or_missed(changed: dict[str, Any], missed: int, capsys: pytest.CaptureFixture[str]) -> None:
    facts = table(**changed).show()
    printed = capsys.readouterr().out
    assert printed.count("missed") == missed
    assert printed.count(": met") == 5 - missed
    assert facts["online"]["ViT-L-32"]["parameter_ratio"] == pytest.approx(60)
    assert facts["online"]["ViT-L-32"]["arithmetic"] == pytest.approx((14.1 + 0.9) / 0.9)


def test_every_round_begins_with_another_one() -> None:
    found = [one.variant.name for one in turns([runner("a", 1, 1, 1), runner("b", 1, 1, 1), runner("c", 1)])]
    assert found == ["a", "b", "c", "b", "a", "a", "b"]

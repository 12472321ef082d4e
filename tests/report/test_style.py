"""The style sheet's promises: colours that differ for everybody, in light and dark, and nothing from elsewhere."""

import re
from importlib import resources
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from embedkd.report.figures import COLOURS

CSS = resources.files("embedkd.report").joinpath("report.css").read_text(encoding="utf-8")
LIGHT, DARK = CSS.split("@media screen and (prefers-color-scheme: dark)")

# Machado, Oliveira and Fernandes 2009, severity 1: linear RGB as seen by dichromats.
SEEN_BY = {
    "everybody": np.eye(3),
    "protanopes": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopes": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopes": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
# Ottosson 2020, https://bottosson.github.io/posts/oklab: equal distances look equally different.
TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def variable(css: str, name: str) -> NDArray[np.float64]:
    """Linear RGB."""
    found = re.search(rf"--{name}: #(\w+);", css)
    assert found is not None
    digits = found[1] if len(found[1]) == 6 else "".join(2 * digit for digit in found[1])
    channels = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def look(colour: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(TO_LAB @ np.cbrt(TO_LMS @ colour.clip(0, 1)), np.float64)


def contrast(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """WCAG 2.2."""
    dark, light = sorted(float(colour @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("reader", SEEN_BY)
@pytest.mark.parametrize("css", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_of_runs_differ_for(css: str, reader: str) -> None:
    seen = [look(SEEN_BY[reader] @ variable(css, f"run-{run}")) for run in range(COLOURS)]
    least = 0.09 if reader == "tritanopes" else 0.11  # who are rare; black to white is 1
    assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) >= least


@pytest.mark.parametrize("css", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_and_text_stand_out_from_the_page(css: str) -> None:
    paper, soft = variable(css, "paper"), variable(css, "soft")
    assert min(contrast(variable(css, f"run-{run}"), paper) for run in range(COLOURS)) >= 3
    assert min(contrast(variable(css, ink), page) for ink in ("ink", "muted") for page in (paper, soft)) >= 4.5


def test_there_is_a_colour_for_each_run_and_no_other() -> None:
    for css in (LIGHT, DARK):
        assert sorted(re.findall(r"--run-(\d+):", css)) == [str(run) for run in range(COLOURS)]


def test_nothing_is_loaded_from_elsewhere() -> None:
    assert not re.search(r"url\(|@import|@font-face|https?:", CSS)

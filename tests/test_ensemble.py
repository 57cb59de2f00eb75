"""The mean over the eight turned and mirrored pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bidiffsr.errors import ConfigError
from bidiffsr.images.image import Header, Image
from bidiffsr.upscaling.options import UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler
from bidiffsr.upscaling.views import ALL_VIEWS
from tiny_model import tiny_config, tiny_upscaler

pytestmark = pytest.mark.usefixtures("one_thread")

# The eight, as numpy says them.
TURNS: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
    (lambda a, n=n, f=f: np.rot90(a[:, ::-1] if f else a, n),
     lambda a, n=n, f=f: np.rot90(a, -n)[:, ::-1] if f else np.rot90(a, -n))
    for n in range(4) for f in (False, True)
]  # fmt: skip


def noise(height: int, width: int) -> NDArray[np.uint16]:
    return np.random.default_rng(5).integers(0, 65536, (height, width, 3), np.uint16)


def test_the_views_are_all_eight_and_come_back() -> None:
    picture = np.arange(6).reshape(1, 2, 3)
    seen = {tuple(map(tuple, view.of(picture)[0])) for view in ALL_VIEWS}
    assert seen == {tuple(map(tuple, turn(picture[0]))) for turn, _ in TURNS}
    for view in ALL_VIEWS:
        np.testing.assert_array_equal(view.undone(view.of(picture)), picture)


@pytest.mark.parametrize("size", [(16, 16), (8, 24), (26, 10)])
def test_it_is_the_mean_of_eight_results(size: tuple[int, int]) -> None:
    upscaler = tiny_upscaler(tail=1.0)
    pixels = noise(*size)
    assert not np.array_equal(
        upscaler(pixels[:, ::-1], steps=1)[:, ::-1], upscaler(pixels, steps=1)
    )
    by_hand = np.mean(
        [back(upscaler(turn(pixels), steps=1)).astype(float) for turn, back in TURNS], axis=0
    )
    found = upscaler(pixels, steps=1, ensemble=True)
    # Where sides are no multiples of 8, what is added for the network lies on another side.
    inside = slice(None, -8) if any(side % 2 for side in size) else slice(None)
    np.testing.assert_allclose(found[inside, inside], by_hand[inside, inside], atol=1.5)


class Positional:
    """A network whose answer depends on where a pixel lies in its tile, and how large that is."""

    def __init__(self) -> None:
        self.tiles: list[tuple[int, int]] = []

    def predict(self, x_t: Any, cond: Any, t: Any) -> Any:
        height, width = cond.shape[2:]
        self.tiles.append((height, width))
        return np.broadcast_to(
            np.linspace(-0.2, 0.2, width, dtype=np.float32) * cond, cond.shape
        ).copy()

    def memory(self, height: int, width: int) -> int:
        return 1000 * height + width

    def release_memory(self) -> None:
        pass


def test_tiles_are_turned_too_and_progress_counts_all() -> None:
    network = Positional()
    upscaler = Upscaler(network, tiny_config())
    pixels = noise(20, 40)
    steps = list(upscaler.stream(Image(pixels), steps=1, ensemble=True, tile=80))
    assert len(set(network.tiles)) == 2
    assert {(w, h) for h, w in network.tiles} == set(network.tiles)
    assert steps[-1].total == len(network.tiles) == 24
    done = [at.done for at in steps]
    assert done == list(range(1, 25))
    assert steps[-1].result is not None
    by_hand = np.mean(
        [back(upscaler(turn(pixels), steps=1, tile=80)).astype(float) for turn, back in TURNS],
        axis=0,
    )
    np.testing.assert_allclose(steps[-1].result.pixels, by_hand, atol=1.5)


def test_the_memory_is_planned_for_it() -> None:
    upscaler = Upscaler(Positional(), tiny_config())
    header = Header(10, 4000, has_alpha=False, sample_bytes=1)
    plain, ensemble = (
        upscaler._plans(
            upscaler._passes(header, asked), upscaler.config.qualities["fast"], asked, disk=False
        )[0].needed
        for asked in (UpscaleOptions(quality="fast"), UpscaleOptions(quality="fast", ensemble=True))
    )
    turned = 1000 * 16000 + 40 - (1000 * 40 + 16000)
    assert ensemble - plain == 12 * 40 * 16000 + turned


def test_an_average_of_what_is_invented_is_refused() -> None:
    upscaler = tiny_upscaler()
    for asked in (UpscaleOptions(ensemble=True), UpscaleOptions(quality="best", ensemble=True)):
        with pytest.raises(ConfigError, match="ensemble: got it with 2 steps, which invent"):
            upscaler.check(asked)
    upscaler.check(UpscaleOptions(quality="fast", ensemble=True))

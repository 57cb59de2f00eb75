"""The comparison of whole pictures: what is absent is named, what is wrong is noticed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bidiffsr
from benchmarks import ncnn_networks, upscalers
from bidiffsr.errors import ConfigError
from bidiffsr.images.resize import imresize
from tiny_model import save_tiny_model

LOW = upscalers.picture(32)
PEERS = [each for each in upscalers.ALL if isinstance(each, ncnn_networks.Ncnn)]


def test_results_that_are_not_the_picture_are_noticed() -> None:
    upscalers.check("bicubic", lambda low: imresize(low, 4), LOW)
    wrongs: list[Callable[[Any], Any]] = [
        lambda low: low,
        lambda low: imresize(low, 4)[::-1],
        lambda low: 255 - imresize(low, 4),
        lambda low: imresize(low, 4) / 255,
    ]
    for wrong in wrongs:
        with pytest.raises(ConfigError, match=r"^peer: "):
            upscalers.check("peer", wrong, LOW)


@pytest.mark.parametrize("kind", [upscalers.Ours, upscalers.EngineAlone])
def test_models_of_ours_run(kind: type, tmp_path: Path) -> None:
    upscale = kind("tiny", str(save_tiny_model(tmp_path / "m.safetensors"))).load(1)
    upscalers.check("tiny", upscale, LOW)


def test_a_picture_is_cleaned_before_it_is_enlarged(tmp_path: Path) -> None:
    model = str(save_tiny_model(tmp_path / "m.safetensors", tail=1.0))
    upscale = upscalers.Cleaned("both", model, model, "best").load(1)
    clean = bidiffsr.Upscaler.from_pretrained(model, threads=1)(LOW, scale=1)
    assert clean.shape == LOW.shape
    assert not np.array_equal(clean, LOW)
    assert np.array_equal(upscale(LOW), upscalers.Ours("", model, "best").load(1)(clean))


def test_packages_that_are_absent_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncnn_networks, "find_spec", lambda _: None)
    for peer in PEERS:
        assert peer.load(1) == "not installed; pip install 'bidiffsr[peers]'"


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_peers_make_the_picture(peer: ncnn_networks.Ncnn) -> None:
    if find_spec("ncnn") is None or find_spec(peer.package) is None:
        pytest.skip("the extra 'peers' is not installed")
    upscale = peer.load(1)
    assert not isinstance(upscale, str)
    upscalers.check(peer.name, upscale, LOW)
    assert upscale(LOW).std() > np.float64(LOW.std()) / 2

"""Threads beside the network's: the same bytes whatever their number, and no trouble lost."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bidiffsr.errors import NumericalError
from bidiffsr.images.image import Image
from bidiffsr.system import buffers
from bidiffsr.system.threads import MOST, for_each
from bidiffsr.upscaling import upscaler as upscaler_module
from bidiffsr.upscaling.planning import MemoryPlan, plan_memory
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import tiny_upscaler


@pytest.mark.parametrize("threads", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000])
def test_every_item_is_done_once_by_no_more_threads_than_allowed(threads: int, count: int) -> None:
    done: list[int] = []
    workers = set()

    def do(item: int) -> None:
        done.append(item)
        workers.add(threading.get_ident())

    for_each(iter(range(count)), do, threads)
    assert sorted(done) == list(range(count))
    assert len(workers) <= min(threads, MOST)


def test_threads_work_at_once() -> None:
    together = threading.Barrier(3, timeout=60)
    for_each(range(3), lambda _: together.wait(), 3)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_ends_the_work_and_comes_out(threads: int, error: BaseException) -> None:
    done = []

    def do(item: int) -> None:
        if item == 5:
            raise error
        done.append(item)

    with pytest.raises(type(error)) as caught:
        for_each(range(10**6), do, threads)
    assert caught.value is error
    assert len(done) < 10**6


def test_where_there_are_no_threads_the_caller_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    for_each(range(100), done.append, 4)
    assert done == list(range(100))


def test_one_item_is_worth_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise AssertionError("a thread was started")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done: list[int] = []
    for_each(iter([7]), done.append, 4)
    for_each(iter([]), done.append, 4)
    assert done == [7]


CASES: dict[str, tuple[Image, dict[str, Any]]] = {}
for name, channels, dtype in (("colour", 3, np.uint8), ("16 bits", 3, np.uint16)):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (41, 29, channels), dtype)
    CASES[name] = Image(pixels), {}
    CASES[f"{name}, smaller"] = Image(pixels), {"scale": 2.7}
    CASES[f"{name}, alpha"] = Image(pixels, pixels[..., 0]), {"steps": 2}
    CASES[f"{name}, tiles"] = Image(pixels), {"tile": 64, "seed": 3}


@pytest.mark.parametrize("case", CASES)
def test_threads_do_not_change_the_result(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffers, "_STRIP_PIXELS", 1500)  # so that there are many strips
    image, options = CASES[case]
    ready = tiny_upscaler()
    sampling = ready.config.sampling.model_copy(update={"back_projections": 2, "mean_weight": 0.3})
    config = ready.config.model_copy(update={"sampling": sampling})
    results: list[Image] = []
    for threads, on_disk in product((1, 2, 4), (False, True)):

        def plan(*given: Any, on_disk: bool = on_disk, **more: Any) -> MemoryPlan:
            return replace(plan_memory(*given, **more), on_disk=on_disk)

        monkeypatch.setattr(upscaler_module, "plan_memory", plan)
        upscaler = Upscaler(ready.backend, config, threads=threads)
        stream = upscaler.stream(image, scratch=tmp_path, **options)
        results += [at.result for at in stream if at.result is not None]
    assert len(results) == 6
    for result in results[1:]:
        np.testing.assert_array_equal(result.pixels, results[0].pixels)
        if result.alpha is not None:
            assert results[0].alpha is not None
            np.testing.assert_array_equal(result.alpha, results[0].alpha)


def test_what_one_thread_finds_wrong_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "_STRIP_PIXELS", 500)
    ready = tiny_upscaler()

    class Unsound:
        def predict(self, x_t: Any, cond: Any, t: Any) -> Any:
            found = ready.backend.predict(x_t, cond, t)
            found[..., -1, -1] = np.nan
            return found

        memory = ready.backend.memory
        release_memory = ready.backend.release_memory

    upscaler = Upscaler(Unsound(), ready.config, threads=3)
    with pytest.raises(NumericalError, match="holds NaN or infinity"):
        upscaler(np.zeros((24, 24, 3), np.uint8))

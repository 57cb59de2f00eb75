"""Training in slices on rented machines: compact states, shards of pictures, the queue itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bidiffsr.binary.packing import MeanMagnitude
from bidiffsr.config import BiDiffSRConfig, TrainingConfig
from bidiffsr.errors import TrainingError
from bidiffsr.models.packed import load_packed
from bidiffsr.nn import build_network
from bidiffsr.training import compact
from bidiffsr.training.state import loads
from bidiffsr.training.trainer import TrainingProgress
from helpers import tiny_network_config
from training_runs import run, state_of

MIB = 2**20
LARGEST = float(np.finfo(np.float32).max)
LEAST_STEP = 2.0**-125

QUEUE_FILE = Path(__file__).parents[1] / "recipes" / "training_queue.py"


def load_queue() -> ModuleType:
    spec = importlib.util.spec_from_file_location("training_queue", QUEUE_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


queue = load_queue()


# The forms of a tensor.

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
tensors = arrays(np.float32, array_shapes(min_dims=1, max_dims=4, max_side=5), elements=finite)
of_one_size = array_shapes(min_dims=1, max_dims=4, max_side=5).flatmap(
    lambda shape: st.tuples(*[arrays(np.float32, shape, elements=finite)] * 2)
)


def doubles(value: Tensor) -> NDArray[np.float64]:
    assert value.dtype == torch.float32
    assert value.isfinite().all()
    return value.double().numpy()


def per_row(value: NDArray[Any]) -> NDArray[np.float64]:
    """The largest magnitude of each row, so shaped that it broadcasts."""
    magnitude = np.abs(value.astype(np.float64))
    return magnitude.max(axis=tuple(range(1, value.ndim)), keepdims=True, initial=0)


def assert_same_signs(found: NDArray[Any], expected: NDArray[Any]) -> None:
    np.testing.assert_array_equal(np.sign(found), np.sign(expected))


@given(tensors)
def test_bfloat16_keeps_signs_and_eight_bits(value: NDArray[np.float32]) -> None:
    narrow = compact.to_bfloat16(torch.from_numpy(value))
    assert narrow.dtype == torch.bfloat16
    found = doubles(narrow.float())
    assert_same_signs(found, value)
    exact = value.astype(np.float64)
    assert (np.abs(found - exact) <= np.abs(exact) / 128 + 2.0**-126).all()


@given(tensors)
def test_bytes_keep_signs_within_half_a_step(value: NDArray[np.float32]) -> None:
    codes, step = compact.to_bytes(torch.from_numpy(value))
    assert codes.dtype == torch.int8
    assert step.shape == (len(value), 1)
    found = doubles(compact.from_bytes(codes, step))
    assert found.shape == value.shape
    assert_same_signs(found, value)
    half = np.maximum(per_row(value) / 127, LEAST_STEP) / 2
    assert (np.abs(found - value.astype(np.float64)) <= 1.0001 * half).all()


@given(of_one_size)
def test_differences_keep_signs_within_a_step(
    pair: tuple[NDArray[np.float32], NDArray[np.float32]],
) -> None:
    value, weight = pair
    base = compact.to_bfloat16(torch.from_numpy(weight)).float()
    codes, step = compact.to_difference(torch.from_numpy(value), base)
    assert codes.dtype == torch.int8
    found = doubles(compact.from_difference(codes, step, base))
    assert_same_signs(found, value)
    exact = value.astype(np.float64)
    whole = np.maximum(per_row(exact - doubles(base)) / 126, LEAST_STEP)
    assert (np.abs(found - exact) <= 1.0001 * whole + 2.0**-23 * np.abs(exact)).all()


@given(tensors)
def test_logarithms_keep_zeros_within_half_a_step(value: NDArray[np.float32]) -> None:
    value = np.abs(value)
    codes, low, step = compact.to_logarithms(torch.from_numpy(value))
    assert codes.dtype == torch.uint8
    found = doubles(compact.from_logarithms(codes, low, step))
    np.testing.assert_array_equal(found == 0, value == 0)
    for row, restored in zip(value.reshape(len(value), -1), found, strict=True):
        exact = row[row > 0].astype(np.float64)
        if not len(exact):
            continue
        octaves = np.log2(exact.max() / exact.min())
        ratio = 2 ** (octaves / 508 + 1e-4)
        kept = restored.reshape(-1)[row > 0]
        assert (kept <= exact * ratio + 2.0**-149).all()
        assert (kept >= exact / ratio - 2.0**-149).all()


@given(st.integers(0, 2**32 - 1))
def test_what_a_run_holds_is_kept_closely(seed: int) -> None:
    """The steps are small against the mean weight, how far its average lags, and the moments."""
    random = np.random.default_rng(seed)
    weight = random.normal(0, 0.02, (4, 8, 3, 3)).astype(np.float32)
    average = (weight + random.normal(0, 1e-4, weight.shape)).astype(np.float32)
    weight[0, 0] = average[0, 0] = 0
    square = np.exp(random.normal(-25, 3, weight.shape)).astype(np.float32)
    base = compact.to_bfloat16(torch.from_numpy(weight)).float()
    codes, step = compact.to_difference(torch.from_numpy(average), base)
    lagging = compact.from_difference(codes, step, base)
    assert np.abs(lagging.numpy() - average).max() < 1e-5
    alone = compact.from_bytes(*compact.to_bytes(torch.from_numpy(average)))
    packing = MeanMagnitude()
    found, expected = packing.pack(alone.numpy()), packing.pack(average)
    np.testing.assert_array_equal(found.signs, expected.signs)
    np.testing.assert_array_equal(found.zeros, expected.zeros)
    np.testing.assert_allclose(found.scale, expected.scale, rtol=0.01)
    moments = compact.from_logarithms(*compact.to_logarithms(torch.from_numpy(square)))
    np.testing.assert_allclose(moments.numpy(), square, rtol=0.05)


# States, and runs that go on from them.


def configure(output: Path, pictures: Path, **changes: Any) -> TrainingConfig:
    network = tiny_network_config(channels=8, norm_groups=4, timesteps=2, dropout=0.0)
    values: dict[str, Any] = {
        "output": output,
        "model": {
            "network": network,
            "diffusion": {
                "schedule": {"kind": "angular", "timesteps": 2},
                "prediction": "sample",
                "variable": "residual",
                "input_scaling": "signal",
            },
            "sampling": {"steps": 2},
        },
        "data": {"folders": [pictures], "crop": 32},
        "optimizer": {"learning_rate": 2e-3, "warmup": 5, "ema_decay": 0.9},
        "noisiest_probability": 0.0,  # one timestep alone: losses of iterations can be compared
        "iterations": 80,
        "batch": 2,
        "checkpoint_every": 1000,
        "log_every": 1,
        "accelerator": "cpu",
    }
    return TrainingConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The size of a crop: a gradient plus a grid that bicubic upscaling loses."""
    folder = tmp_path_factory.mktemp("picture")
    rows, columns = np.mgrid[:32, :32]
    grid = 90 * ((rows + columns) % 2)
    pixels = np.stack([4 * rows + grid, 4 * columns + grid, 120 + grid], axis=-1)
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "fixed.png")
    return folder


STOPPED = 60


@pytest.fixture(scope="module")
def whole(picture: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """The losses of a run that nothing interrupted."""
    return losses(run(configure(tmp_path_factory.mktemp("whole"), picture)))


@pytest.fixture(scope="module")
def stopped(picture: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stopped")
    run(configure(folder, picture), STOPPED)
    return folder


def losses(progress: list[TrainingProgress]) -> list[float]:
    return [step.loss for step in progress if step.loss is not None]


def compact_bytes(folder: Path, *, moments: bool) -> int:
    """A limit that allows the form with moments, or only that without."""
    size = len(compact.compress(state_of(folder), 2**40))
    return size if moments else size - 1


@pytest.mark.parametrize("moments", [True, False])
def test_a_run_goes_on_from_a_compact_state(
    moments: bool, stopped: Path, whole: list[float], picture: Path, tmp_path: Path
) -> None:
    limit = compact_bytes(stopped, moments=moments)
    compact.write_compact(tmp_path / "brought", state_of(stopped), limit, None)
    assert (tmp_path / "brought.000").stat().st_size <= limit
    config = configure(tmp_path / "run", picture, resume_from=tmp_path / "brought")
    progress = run(config)
    assert [step.iteration for step in progress] == list(range(STOPPED + 1, 81))
    jump = np.array(losses(progress)) / whole[STOPPED:]
    assert whole[STOPPED] < 0.1 * whole[0]
    if moments:
        # The weights are those that were written; what lacks the first moments must not be worse.
        assert abs(jump[0] - 1) < 0.02
        assert 0.9 < jump[1] < 1.02
        assert jump.max() < 1.15
    else:  # the average lags behind the weights that the other run goes on with
        assert jump.max() < 2
    assert jump[-5:].mean() < 1.15


def test_fresh_moments_warm_up_and_go_on_doing_so(
    stopped: Path, picture: Path, tmp_path: Path
) -> None:
    limit = compact_bytes(stopped, moments=False)
    compact.write_compact(tmp_path / "brought", state_of(stopped), limit, None)
    config = configure(tmp_path / "run", picture, resume_from=tmp_path / "brought")
    for stop in (STOPPED + 2, STOPPED + 8):  # the second time from the run's own folder
        run(config, stop)
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    rates = [json.loads(line)["learning_rate"] for line in lines]
    assert rates == pytest.approx([2e-3 * min(1, step / 6) for step in range(1, 9)])
    assert state_of(tmp_path / "run")["optimizer"]["param_groups"][0]["lr"] == rates[-1]


def test_what_is_small_is_kept_as_it_is(stopped: Path) -> None:
    state = state_of(stopped)
    for moments in (True, False):
        data = compact.compress(state, compact_bytes(stopped, moments=moments))
        found = compact.decompress(loads(bytes(data)))
        assert found["iteration"] == STOPPED
        assert found["config"] == state["config"]
        assert found["average"]["n_averaged"] == state["average"]["n_averaged"] == STOPPED
        for name, value in state["network"].items():
            average = state["average"][f"module.{name}"]
            assert torch.equal(found["average"][f"module.{name}"].sign(), average.sign())
            expected = value if moments else average
            assert torch.equal(found["network"][name].sign(), expected.sign())
            if value.dim() != 4:
                assert torch.equal(found["average"][f"module.{name}"], average)
                assert torch.equal(found["network"][name], expected)


def test_the_runs_own_checkpoint_comes_first(stopped: Path, picture: Path, tmp_path: Path) -> None:
    compact.write_compact(tmp_path / "brought", state_of(stopped), MIB, None)
    run(configure(tmp_path / "run", picture), 3)
    config = configure(tmp_path / "run", picture, resume_from=tmp_path / "brought")
    assert run(config, 4)[0].iteration == 4


def test_a_compact_state_of_another_configuration_is_refused(
    stopped: Path, picture: Path, tmp_path: Path
) -> None:
    compact.write_compact(tmp_path / "brought", state_of(stopped), MIB, None)
    with pytest.raises(TrainingError, match="another configuration"):
        run(configure(tmp_path / "run", picture, seed=1, resume_from=tmp_path / "brought"))


def test_no_form_is_small_enough(stopped: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="1000 are allowed") as error:
        compact.write_compact(tmp_path / "brought", state_of(stopped), 1000, None)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_parts_are_joined_and_what_is_missing_or_damaged_is_one_line(
    stopped: Path, picture: Path, tmp_path: Path
) -> None:
    path = tmp_path / "brought"
    compact.write_compact(path, state_of(stopped), MIB, 20_000)
    parts = sorted(tmp_path.iterdir())
    assert [part.name for part in parts] == [f"brought.{n:03}" for n in range(len(parts))]
    assert len(parts) > 3
    assert {part.stat().st_size for part in parts[:-1]} == {20_000}
    assert compact.read_compact(path)["iteration"] == STOPPED
    contents = {part: part.read_bytes() for part in parts}
    for part in (parts[0], parts[1], parts[-1]):
        for damage in (None, b"", contents[part][:-1], contents[part][:-1] + b"?"):
            if damage is None:
                part.unlink()
            else:
                part.write_bytes(damage)
            with pytest.raises(TrainingError, match=r"brought\.000") as error:
                run(configure(tmp_path / "run", picture, resume_from=path))
            assert "\n" not in str(error.value)
            part.write_bytes(contents[part])
    compact.write_compact(path, state_of(stopped), compact_bytes(stopped, moments=False), 20_000)
    assert len(list(tmp_path.glob("brought.*"))) < len(parts)
    assert compact.read_compact(path)["iteration"] == STOPPED


@pytest.mark.parametrize(("channels", "moments"), [(32, True), (64, False)])
def test_the_networks_of_the_queue_fit_into_little(
    channels: int, moments: bool, tmp_path: Path
) -> None:
    config = BiDiffSRConfig(channels=channels, timesteps=4, time_groups=4)
    with torch.device("meta"):
        forms = build_network(config).state_dict()
    network = {name: torch.zeros(form.shape) for name, form in forms.items()}
    each = [{"step": torch.tensor(9.0), "exp_avg_sq": value} for value in network.values()]
    state = {
        "config": "x" * 5000,
        "iteration": 9,
        "network": network,
        "average": {f"module.{name}": value for name, value in network.items()},
        "optimizer": {"state": dict(enumerate(each)), "param_groups": []},
    }
    compact.write_compact(tmp_path / "state", state, 52 * MIB, 16 * MIB)
    sizes = [part.stat().st_size for part in tmp_path.iterdir()]
    assert max(sizes) <= 16 * MIB
    assert sum(sizes) <= 52 * MIB
    assert bool(compact.read_compact(tmp_path / "state")["optimizer"]["state"]) is moments


# Pictures.


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Noise, which does not compress, in the two folders of the runs."""
    random = np.random.default_rng(0)
    for name in ("photos", "gb82"):
        (tmp_path / "originals" / name).mkdir(parents=True)
        for index in range(3):
            pixels = random.integers(0, 256, (40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "originals" / name / f"{index}.png")
    (tmp_path / "originals" / "photos" / "notes.txt").write_text("not a picture")
    return [tmp_path / "originals" / "photos", tmp_path / "originals" / "gb82"]


def stage(folders: list[Path], out: Path, limit: str = "45k") -> list[Path]:
    assert queue.main(["stage", str(out), *map(str, folders), "--limit", limit]) == 0
    return sorted(out.iterdir())


def test_pictures_travel_as_they_are(folders: list[Path], tmp_path: Path) -> None:
    shards = stage(folders, tmp_path / "shards")
    assert len(shards) > 1
    assert max(shard.stat().st_size for shard in shards) <= 45_000
    again = stage(folders, tmp_path / "again")
    assert [shard.read_bytes() for shard in again] == [shard.read_bytes() for shard in shards]
    for shard in shards:  # each with a call of its own
        assert queue.main(["unstage", str(shard), "--into", str(tmp_path / "there")]) == 0
    found = {path for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert len(found) == 6
    for path in found:
        original = tmp_path / "originals" / path.relative_to(tmp_path / "there")
        assert path.read_bytes() == original.read_bytes()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("bidiffsr: error: ")
    assert error.count("\n") == 1
    return error


def test_a_picture_larger_than_a_shard(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["stage", str(tmp_path / "out"), *map(str, folders), "--limit", "20k"]
    assert queue.main(arguments) == 1
    assert "0.png" in one_line(capsys)


def test_damaged_shards_leave_nothing(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shard,) = stage(folders, tmp_path / "shards", "1M")
    data = shard.read_bytes()
    middle = bytes([data[len(data) // 2] ^ 1])
    damaged = {
        "empty": b"",
        "short": data[: len(data) // 2],
        "flipped": data[: len(data) // 2] + middle + data[len(data) // 2 + 1 :],
        "random": np.random.default_rng(0).bytes(20_000),
        "zeros": bytes(20_000),
    }
    capsys.readouterr()
    for name, content in damaged.items():
        path = tmp_path / f"{name}.tar"
        path.write_bytes(content)
        assert queue.main(["unstage", str(path), "--into", str(tmp_path / "there")]) == 1
        assert f"{name}.tar" in one_line(capsys)
    assert queue.main(["unstage", str(tmp_path / "absent.tar")]) == 1
    assert "absent.tar" in one_line(capsys)
    assert not (tmp_path / "there").exists()


def test_a_shard_writes_nowhere_else(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard whose checksums are right, but whose names lead out."""
    (shard,) = stage(folders[1:], tmp_path / "shards", "1M")
    evil = tmp_path / "evil.tar"
    with tarfile.open(shard) as source, tarfile.open(evil, "w") as target:
        for member in source.getmembers():
            file = source.extractfile(member)
            assert file is not None
            if member.name == "SHA256SUMS":
                data = file.read().replace(b"gb82/", b"../../")
                member.size = len(data)
                (tmp_path / "sums").write_bytes(data)
                file = (tmp_path / "sums").open("rb")
            member.name = member.name.replace("gb82/", "../../")
            with file:
                target.addfile(member, file)
    capsys.readouterr()
    into = tmp_path / "a" / "b"
    assert queue.main(["unstage", str(evil), "--into", str(into)]) == 1
    assert "evil.tar" in one_line(capsys)
    assert not list(tmp_path.glob("*.png"))


# The queue.


def test_the_list_says_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert queue.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if not line.startswith(("  ", "pictures:"))] == [
        "x4_small",
        "x4_base",
        "x2_base",
        "x2_small",
    ]
    commands = [line for line in lines if line.startswith("  bidiffsr train recipes/x4_full")]
    assert ["--model.scale=2" in command for command in commands] == [False, True, True]
    assert ["channels=64" in command for command in commands] == [True, True, False]


def slice_of(name: str, *arguments: str) -> int:
    return queue.main(["slice", name, "--toy", *arguments])


def test_slices_go_on_from_machine_to_machine(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [str(shard) for shard in stage(folders, tmp_path / "shards")]
    brought: list[Path] = []
    for machine in range(3):
        place = tmp_path / f"machine{machine}"
        place.mkdir()
        monkeypatch.chdir(place)
        assert queue.main(["unstage", *shards]) == 0
        resume = ["--resume", str(brought[-1])] if brought else []
        out = place / "out"
        sizes = ["--limit", "2M", "--part", "100k"]
        assert slice_of("x2_base", "--minutes", "1e-9", "--out", str(out), *sizes, *resume) == 0
        brought.append(out)
        files = list(out.iterdir())
        assert sum(file.stat().st_size for file in files) <= 2_000_000
        parts = [file.stat().st_size for file in sorted(out.glob("state.*"))]
        assert len(parts) > 1
        assert set(parts[:-1]) == {100_000}
        packed = load_packed(out / "x2_base.safetensors")
        assert packed.config.scale == 2
        log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        assert [line["iteration"] for line in log] == list(range(1, machine + 2))
        assert compact.read_compact(out / "state")["iteration"] == machine + 1


def test_the_low_resolution_form_trains_in_slices(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for shard in stage(folders, tmp_path / "shards"):
        assert queue.main(["unstage", str(shard)]) == 0
    shutil.copytree("runs/pictures/photos", "runs/pictures/photos2")
    assert slice_of("x4_small", "--minutes", "1e-9", "--out", "first") == 0
    assert Path("runs/pictures.bin").exists()
    assert slice_of("x4_small", "--minutes", "1e-9", "--out", "out", "--resume", "first") == 0
    assert load_packed(tmp_path / "out" / "x4_small.safetensors").config.network.patch == 4  # type: ignore[union-attr]
    assert compact.read_compact(tmp_path / "out" / "state")["iteration"] == 2


def test_a_slice_that_was_cut_off_goes_on(
    folders: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [str(shard) for shard in stage(folders, tmp_path / "shards")]
    monkeypatch.chdir(tmp_path)
    assert queue.main(["unstage", *shards]) == 0
    assert slice_of("x2_small", "--minutes", "1e-9", "--out", "first") == 0
    for expected in (2, 3, 3):  # the folder that is resumed from stays at 1
        arguments = ["--minutes", "1e-9", "--out", "out", "--resume", "first"]
        assert slice_of("x2_small", *arguments) == 0
        assert compact.read_compact(tmp_path / "out" / "state")["iteration"] == expected
    trained = load_packed(tmp_path / "runs" / "toy_x2_small" / "model.safetensors").tensors
    found = load_packed(tmp_path / "out" / "x2_small.safetensors").tensors
    assert found.keys() == trained.keys()
    for name, value in trained.items():
        np.testing.assert_allclose(found[name], value, rtol=2**-8, err_msg=name)


def test_a_slice_without_what_it_needs(
    folders: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert slice_of("x3", "--out", "out") == 1
    assert "x4_base" in one_line(capsys)
    assert slice_of("x4_base", "--out", "out") == 1
    assert "runs/pictures" in one_line(capsys)
    assert slice_of("x4_base", "--out", "out", "--resume", "nowhere") == 1
    assert "nowhere" in one_line(capsys)
    assert not (tmp_path / "out").exists()

"""The packed model file: what is in it, that both readers agree, and what neither may accept."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from any_network import networks
from bidiffsr.backends.compare import compare_backends
from bidiffsr.binary import ScaledWeightSign
from bidiffsr.binary.packing import MeanMagnitude
from bidiffsr.config import BiDiffSRConfig, ModelConfig, SamplingConfig, SR3Config
from bidiffsr.errors import CheckpointError, ConfigError, NumericalError, OutputError
from bidiffsr.models.container import is_model, narrow, widen
from bidiffsr.models.packed import FloatType, PackedModel, load_packed, save_packed
from bidiffsr.models.trained import load_model, save_model
from bidiffsr.nn import build_network
from bidiffsr.nn.layout import network_parameters
from helpers import largest_file, scramble, tiny_network_config
from hostile_models import (
    NETWORK,
    PLAIN,
    SCALE,
    SIGNS,
    ZEROS,
    corpus,
    good_file,
    join,
    model_of,
    random_parameters,
    split,
)

SLOWLY = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
FLOAT_TYPES: list[FloatType] = ["bf16", "fp32"]
every_float_type = pytest.mark.parametrize("float_type", FLOAT_TYPES)


@st.composite
def weights(draw: st.DrawFn) -> np.ndarray:
    """Convolution weights of any shape, with zeros of both signs."""
    shape = (
        *draw(st.tuples(st.integers(1, 5), st.integers(1, 9))),
        *[draw(st.sampled_from([1, 3]))] * 2,
    )
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    value = generator.standard_normal(shape, dtype=np.float32)
    value[generator.random(shape) < draw(st.sampled_from([0, 0.1, 0.9, 1]))] = 0
    return value * np.float32(draw(st.sampled_from([1, -1, 1e-20, 1e20])))


# One weight.


def test_the_example_in_the_documentation() -> None:
    weight = np.array([[0.5, -0.25, 0.75, -1, 0.5, 0.25, -0.5, 0, 0.25, 1, -0.5]], np.float32)
    packed = MeanMagnitude().pack(weight[..., None, None])
    assert packed.signs.tolist() == [[0b10101101, 0b11000000]]
    assert packed.scale.tolist() == [0.5]
    assert packed.zeros.tolist() == [7]


@SLOWLY
@given(weights())
def test_packing_is_what_a_slow_loop_makes_of_it(weight: np.ndarray) -> None:
    packed = MeanMagnitude().pack(weight)
    rows = weight.reshape(len(weight), -1)
    zeros = []
    for o, row in enumerate(rows.tolist()):
        bits = "".join("1" if value >= 0 else "0" for value in row)
        bits += "0" * (-len(bits) % 8)
        assert packed.signs[o].tobytes() == int(bits, 2).to_bytes(len(bits) // 8, "big")
        expected = np.float32(sum(abs(value) for value in row) / len(row))
        assert abs(packed.scale[o] - expected) <= np.spacing(expected)
        zeros += [o * len(row) + i for i, value in enumerate(row) if value == 0]
    assert packed.zeros.tolist() == zeros
    dtypes = (packed.signs.dtype, packed.scale.dtype, packed.zeros.dtype)
    assert dtypes == (np.uint8, np.float32, np.int32)


@SLOWLY
@given(weights())
def test_an_unpacked_weight_binarizes_to_the_same(weight: np.ndarray) -> None:
    packed = MeanMagnitude().pack(weight)
    unpacked = MeanMagnitude().unpack(packed, weight.shape)
    assert unpacked.dtype == np.float32
    np.testing.assert_array_equal(np.sign(unpacked), np.sign(weight))
    binarize = ScaledWeightSign()
    found, expected = (binarize(torch.from_numpy(value)) for value in (unpacked, weight))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    again = MeanMagnitude().pack(unpacked)
    np.testing.assert_array_equal(again.signs, packed.signs)
    np.testing.assert_array_equal(again.zeros, packed.zeros)
    np.testing.assert_allclose(again.scale, packed.scale, rtol=1e-6, atol=0)


# bfloat16.


def assert_rounds_as_pytorch(values: np.ndarray) -> None:
    expected = torch.from_numpy(values).to(torch.bfloat16)
    found = narrow(values)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected.view(torch.uint16).numpy())
    np.testing.assert_array_equal(widen(found), expected.float().numpy())


def test_rounding_of_every_exponent_and_every_tie() -> None:
    upper = np.arange(2**16, dtype=np.uint32) << 16
    for lower in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (upper | lower).view(np.float32)
        assert_rounds_as_pytorch(values[np.isfinite(values)])


@SLOWLY
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_rounding_of_any_number(values: list[float]) -> None:
    assert_rounds_as_pytorch(np.array(values, np.float32))


# Files.


def assert_same_tensors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].flags.c_contiguous
        np.testing.assert_array_equal(found[name], value, name)


def channel_means(rows: np.ndarray) -> np.ndarray:
    return np.abs(rows).mean(axis=1)


def power_of_two(rows: np.ndarray) -> np.ndarray:
    centred = rows - rows.mean(axis=1, keepdims=True)
    means, deviations = channel_means(centred), centred.std(axis=1)
    return np.array(
        [2.0 ** round(np.log2(m / d)) if d else 0.0 for m, d in zip(means, deviations, strict=True)]
    )


def alignment(network: BiDiffSRConfig, weight: np.ndarray) -> float:
    return 130 * weight.shape[1] / 64 if network.method == "bbcu" else 1


# The scales (C_out,) of weights (C_out, n), float64, by method.
SCALES: dict[str, Callable[[np.ndarray], Any]] = {
    "bi-diffsr": channel_means,
    "reactnet": channel_means,
    "bi-real": channel_means,
    "bnn": lambda rows: np.ones(len(rows)),
    "dorefa": lambda rows: np.full(len(rows), np.abs(rows).mean()),
    "dorefa-w1a2": lambda rows: np.full(len(rows), np.abs(rows).mean()),
    "xnor-net": channel_means,
    "ir-net": power_of_two,
    "bbcu": channel_means,
    "recu": lambda rows: np.ones(len(rows)),
}

# Those whose bits are signs of what is above a channel's mean.
CENTRED = ("ir-net", "recu")

# Those that keep weights of exactly 0 apart; elsewhere they are +1.
WITH_ZEROS = ("bi-diffsr", "reactnet", "bi-real")


def packed_by_hand(parameters: dict[str, np.ndarray], network: BiDiffSRConfig) -> dict[str, Any]:
    """What a reader has to give, without the code that it uses for that."""
    tensors = {}
    for name, form in network_parameters(network).items():
        value = parameters[name]
        if not form.one_bit:
            tensors[name] = value
            continue
        rows = value.reshape(len(value), -1)
        centred = network.method in CENTRED
        least = rows.mean(axis=1, keepdims=True, dtype=float) if centred else 0
        tensors[f"{name}.signs"] = np.packbits(rows >= least, axis=1, bitorder="big")
        scale = SCALES[network.method](rows.astype(np.float64)) / alignment(network, value)
        tensors[f"{name}.scale"] = scale.astype(np.float32)
        if (rows == 0).any() and network.method in WITH_ZEROS:
            tensors[f"{name}.zeros"] = np.nonzero(rows.ravel() == 0)[0].astype(np.int32)
    return tensors


def assert_readers_agree(path: Path) -> PackedModel:
    """Value for value, where a file is packed."""
    model = load_packed(path)
    network, config = load_model(path)
    assert config == model.config
    forms = network_parameters(NETWORK if config.network == NETWORK else network.config)  # type: ignore[arg-type]
    remaining = dict(model.tensors)
    for name, parameter in network.state_dict().items():
        value = parameter.numpy()
        if not forms[name].one_bit:
            np.testing.assert_array_equal(remaining.pop(name), value, name)
            continue
        rows = value.reshape(len(value), -1)
        packing = forms[name].packing
        if not isinstance(packing, MeanMagnitude):
            assert packing is not None
            for part, again in packing.pack(value).named(name).items():
                np.testing.assert_allclose(again, remaining.pop(part), rtol=1e-6, err_msg=part)
            continue
        signs = remaining.pop(f"{name}.signs")
        zeros = remaining.pop(f"{name}.zeros", np.empty(0, np.int32))
        scale = remaining.pop(f"{name}.scale")
        expected = np.unpackbits(signs, axis=1)[:, : rows.shape[1]] * 2.0 - 1
        expected.reshape(-1)[zeros] = 0
        np.testing.assert_array_equal(np.sign(rows), expected)
        full = (expected != 0).all(axis=1)
        np.testing.assert_array_equal(np.abs(rows).max(axis=1)[full], scale[full])
        means = np.abs(rows.astype(np.float64)).mean(axis=1)
        np.testing.assert_allclose(means[~full], scale[~full], rtol=1e-6)
    assert not remaining
    return model


@SLOWLY
@given(network=networks(6), seed=st.integers(0, 99), float_type=st.sampled_from(FLOAT_TYPES))
def test_a_file_gives_back_what_was_saved(
    network: BiDiffSRConfig, seed: int, float_type: FloatType, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    parameters = random_parameters(network, seed)
    save_packed(path, model_of(network), parameters, float_type=float_type)
    model = assert_readers_agree(path)
    assert model.config == model_of(network)
    expected = packed_by_hand(parameters, network)
    if float_type == "bf16":
        for name in expected.keys() & parameters.keys():
            if not name.endswith(".shift.bias"):
                rounded = torch.from_numpy(parameters[name]).bfloat16().float()
                expected[name] = rounded.numpy()
    assert_same_tensors(model.tensors, expected)
    # Packing again what is packed changes nothing, down to the bytes.
    again = tmp_path / "again.safetensors"
    save_packed(again, model.config, model.tensors, float_type=float_type)
    assert again.read_bytes() == path.read_bytes()


@every_float_type
def test_other_software_reads_the_same(float_type: FloatType, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(good_file(float_type))
    model = load_packed(path)
    tensors = load_file(path)
    assert tensors.keys() == model.tensors.keys()
    for name, value in tensors.items():
        one_bit = name.endswith((".signs", ".scale", ".zeros", ".shift.bias"))
        floats = torch.bfloat16 if float_type == "bf16" else torch.float32
        assert one_bit or value.dtype == floats, name
        same = value.float() if value.is_floating_point() else value
        np.testing.assert_array_equal(same.numpy(), model.tensors[name])
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"bidiffsr", "bidiffsr.format"}
    assert metadata["bidiffsr.format"] == "1"
    assert ModelConfig.model_validate_json(metadata["bidiffsr"]) == model.config
    header, _ = split(path.read_bytes())
    widths = {"F32": 4, "I32": 4, "BF16": 2, "U8": 1}
    for name, entry in list(header.items())[1:]:
        assert entry["data_offsets"][0] % widths[entry["dtype"]] == 0, name


def test_weights_that_are_floats_are_packed_on_reading(tmp_path: Path) -> None:
    network = scramble(build_network(NETWORK))
    with torch.no_grad():
        network.get_parameter("down.0.blocks.0.conv1.conv.weight").view(-1)[[3, 77]] = 0
    save_model(tmp_path / "floats.safetensors", network, model_of(NETWORK))
    model = load_packed(tmp_path / "floats.safetensors")
    parameters = {name: value.numpy() for name, value in network.state_dict().items()}
    expected = packed_by_hand(parameters, NETWORK)
    assert model.tensors[ZEROS].tolist() == [3, 77]
    assert_same_tensors(model.tensors, expected)
    save_model(tmp_path / "packed.safetensors", network, model_of(NETWORK), packed=True)
    assert_same_tensors(load_packed(tmp_path / "packed.safetensors").tensors, expected)


def test_half_floats_are_widened(tmp_path: Path) -> None:
    header, data = split(good_file())
    header[PLAIN]["dtype"] = "F16"
    path = tmp_path / "half.safetensors"
    path.write_bytes(join(header, data))
    expected = load_file(path)[PLAIN].float().numpy()
    np.testing.assert_array_equal(load_packed(path).tensors[PLAIN], expected)
    assert_readers_agree(path)


def test_qualities_are_in_the_file_only_where_the_model_names_some(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    plain = model_of(NETWORK)
    sharp = SamplingConfig(steps=7, spacing="trailing", noise_scale=0.9)
    named = plain.model_copy(update={"qualities": {"best": sharp}})
    for config, keys in ((plain, []), (named, ["qualities"])):
        save_packed(path, config, random_parameters(NETWORK))
        assert load_packed(path).config == config
        with safe_open(path, framework="numpy") as file:
            description = json.loads(file.metadata()["bidiffsr"])
        expected = ["network", "diffusion", "sampling", *keys, "scale", "provenance"]
        assert list(description) == expected


def test_the_weights_that_ship_are_read_by_both() -> None:
    with as_file(files("bidiffsr.models") / "weights" / "x4-small.safetensors") as path:
        assert is_model(path)
        model = assert_readers_agree(path)
        library = load_file(path)
    widened = {
        name: value.float() if value.dtype == torch.bfloat16 else value
        for name, value in library.items()
    }
    assert_same_tensors(model.tensors, {name: value.numpy() for name, value in widened.items()})


def test_the_published_network_takes_twelve_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_packed(path, ModelConfig(), random_parameters(BiDiffSRConfig()))
    assert path.stat().st_size <= 12_500_000
    assert load_packed(path).tensors["stem.weight"].shape == (64, 6, 3, 3)


def test_a_file_of_no_stated_version_is_of_the_first(tmp_path: Path) -> None:
    header, data = split(good_file())
    del header["__metadata__"]["bidiffsr.format"]
    header["__metadata__"]["another"] = "key"
    path = tmp_path / "model.safetensors"
    path.write_bytes(join(header, data))
    assert_readers_agree(path)


def test_bits_of_zero_weights_do_not_matter(tmp_path: Path) -> None:
    header, data = split(good_file())
    path = tmp_path / "model.safetensors"
    path.write_bytes(join(header, data))
    before, _ = load_model(path)
    zero = int(load_packed(path).tensors[ZEROS][0])
    at = header[SIGNS]["data_offsets"][0] + zero // 36 * 5 + zero % 36 // 8
    changed = bytearray(data)
    changed[at] ^= 0x80 >> zero % 36 % 8
    path.write_bytes(join(header, bytes(changed)))
    after, _ = load_model(path)
    for name, value in before.state_dict().items():
        assert torch.equal(value, after.get_parameter(name)), name


def test_reading_takes_no_pytorch(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(good_file())
    program = (
        "import sys; from bidiffsr.models.packed import load_packed, save_packed\n"
        f"model = load_packed({str(path)!r})\n"
        f"save_packed({str(path)!r}, model.config, model.tensors)\n"
        "print(*({'torch', 'safetensors'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == []
    assert path.read_bytes() == good_file()


# What cannot be saved.


def test_a_file_that_did_not_fit_the_disk_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    with largest_file(20_000), pytest.raises(OutputError, match=r"model\.safetensors"):
        save_packed(path, model_of(NETWORK), random_parameters(NETWORK))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("stem.weight", lambda value: None, "stem.weight: missing"),
        ("stem.weight", lambda value: value[0], "stem.weight: has F32 of"),
        ("stem.weight", lambda value: value.astype(np.float64), "stem.weight: has float64 of"),
        ("stem.weight", lambda value: value * np.nan, "stem.weight: holds NaN"),
        ("stem.weight", lambda value: value * 0 + np.float32(3.4e38), "magnitudes above 1e.06"),
        ("middle.0.conv1.conv.weight", lambda value: value * np.inf, "weight: holds NaN"),
        ("middle.0.conv1.conv.weight", lambda value: value * 0 + np.float32(1e31), "magnitudes"),
        ("unheard", lambda value: np.zeros(1, np.float32), "unheard: is no part"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_tensors_that_are_no_network_are_not_saved(
    name: str, change: Callable[[Any], Any], named: str, tmp_path: Path
) -> None:
    parameters = random_parameters(NETWORK)
    parameters[name] = change(parameters.pop(name, None))
    tensors = {key: value for key, value in parameters.items() if value is not None}
    with pytest.raises(CheckpointError, match=named):
        save_packed(tmp_path / "model.safetensors", model_of(NETWORK), tensors)
    assert not list(tmp_path.iterdir())


def test_more_provenance_than_fits_is_refused(tmp_path: Path) -> None:
    config = model_of(NETWORK).model_copy(update={"provenance": {"data": "x" * 70_000}})
    with pytest.raises(ConfigError, match="provenance"):
        save_packed(tmp_path / "model.safetensors", config, random_parameters(NETWORK))
    assert not list(tmp_path.iterdir())


def test_sr3_is_not_packed(tmp_path: Path) -> None:
    network = SR3Config(channels=8, multipliers=(1,), blocks_per_level=1, norm_groups=4)
    config = ModelConfig(network=network)
    path = tmp_path / "sr3.safetensors"
    save_model(path, build_network(network), config)
    assert load_model(path)[1] == config
    with pytest.raises(CheckpointError, match=r"sr3\.safetensors: is an SR3 network"):
        load_packed(path)
    with pytest.raises(CheckpointError, match="SR3"):
        save_packed(path, config, {})


# What no reader may accept.


READERS: list[Callable[[Path], Any]] = [load_packed, load_model]
CORPUS = corpus()


@contextmanager
def quickly(seconds: float = 3.0) -> Iterator[None]:
    """Fails where the block took much time of its own thread."""
    began = time.thread_time()
    yield
    assert time.thread_time() - began < seconds


@contextmanager
def sparingly(megabytes: int = 64) -> Iterator[None]:
    """Fails where the block took much memory. Watching that takes time, so nothing else is."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 2**20
    finally:
        tracemalloc.stop()


def assert_refused(path: Path) -> None:
    for read in READERS:
        for watched in (quickly, sparingly):
            with watched(), pytest.raises(CheckpointError) as error:
                read(path)
            message = str(error.value)
            assert message.isprintable()
            assert path.name in message
            assert len(message) < 800


def test_the_corpus_is_large() -> None:
    assert len(set(CORPUS.values())) == len(CORPUS) > 300


@pytest.mark.parametrize("what", CORPUS)
def test_a_hostile_file_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(CORPUS[what])
    assert_refused(path)


@pytest.mark.parametrize("name", ["absent", "folder", "absent/model", "new\nline", "x" * 300])
def test_what_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for read in READERS:
        with pytest.raises(CheckpointError) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_hostile_name_stays_one_line(tmp_path: Path) -> None:
    path = tmp_path / "new\nline\x1b[31m.safetensors"
    for data in (b"", CORPUS["names: with 'strange'"], CORPUS["configs: an unknown key"]):
        path.write_bytes(data)
        for read in READERS:
            with pytest.raises(CheckpointError) as error:
                read(path)
            assert str(error.value).isprintable()


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for read in READERS:
        with pytest.raises(CheckpointError, match="loop"):
            read(tmp_path / "loop")
    assert not is_model(tmp_path / "loop")


def assert_sound_or_refused(path: Path) -> None:
    """Both readers say the same, and what they accept, the safetensors library accepts, too."""
    accepted = []
    for read in READERS:
        try:
            accepted.append(read(path))
        except CheckpointError as error:
            assert str(error).isprintable()
    assert len(accepted) in (0, 2)
    if accepted:
        model = accepted[0]
        assert isinstance(model, PackedModel)
        assert load_file(path).keys() >= model.tensors.keys() - {"none"}
        for name, form in network_parameters(model.config.network).items():  # type: ignore[arg-type]
            if form.one_bit:
                scale = model.tensors[f"{name}.scale"]
                assert (scale >= 0).all()
                assert np.isfinite(scale).all()
            else:
                assert model.tensors[name].shape == form.shape
                assert np.isfinite(model.tensors[name]).all()


GOOD = {float_type: good_file(float_type) for float_type in FLOAT_TYPES}


@SLOWLY
@given(data=st.data())
def test_flipped_bytes_are_refused_or_harmless(data: st.DataObject, tmp_path: Path) -> None:
    file = bytearray(GOOD[data.draw(st.sampled_from(FLOAT_TYPES))])
    end = 8 + int.from_bytes(file[:8], "little")
    places = st.one_of(st.integers(0, 8), st.integers(8, end), st.integers(0, len(file) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=8)):
        file[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "flipped.safetensors"
    path.write_bytes(file)
    assert_sound_or_refused(path)


def test_every_bit_of_the_scales_may_flip(tmp_path: Path) -> None:
    header, data = split(GOOD["fp32"])
    begin, end = header[SCALE]["data_offsets"]
    path = tmp_path / "flipped.safetensors"
    for bit in range(8 * begin, 8 * end):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(join(header, bytes(changed)))
        assert_sound_or_refused(path)


def test_bits_of_the_header_may_flip(tmp_path: Path) -> None:
    good = GOOD["bf16"]
    length = int.from_bytes(good[:8], "little")
    path = tmp_path / "flipped.safetensors"
    for bit in random.Random(0).sample(range(8 * (8 + length)), 400):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert_sound_or_refused(path)


def test_a_huge_sparse_file_is_refused_unread(tmp_path: Path) -> None:
    """One tensor of 100 GB that no network has; it takes no room on the disk, either."""
    header, data = split(GOOD["bf16"])
    size = 100 * 10**9
    offsets = [len(data), len(data) + 4 * size]
    header["huge"] = {"dtype": "F32", "shape": [size], "data_offsets": offsets}
    path = tmp_path / "sparse.safetensors"
    path.write_bytes(join(header, data))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + 4 * size)
    assert_refused(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(GOOD["bf16"])
    from bidiffsr.models import packed

    original = packed.network_parameters

    def shrink(config: BiDiffSRConfig) -> Any:
        with path.open("r+b") as file:
            file.truncate(len(GOOD["bf16"]) - 9000)
        return original(config)

    monkeypatch.setattr(packed, "network_parameters", shrink)
    with pytest.raises(CheckpointError, match="became shorter"):
        load_packed(path)


# Verifying.


@pytest.mark.parametrize("changes", [{}, {"patch": 3, "weight_gain": True}])
def test_verifying_compares_everything_there_is(changes: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("bidiffsr.backends.engine")
    config = NETWORK.model_copy(update=changes)
    network = scramble(build_network(config), seed=1).eval()
    path = tmp_path / "model.safetensors"
    save_model(path, network, model_of(config), packed=True)
    exact = list(compare_backends(network, path))
    assert len(exact) == 2
    assert all(comparison.difference < 1e-5 for comparison in exact)
    with torch.no_grad():
        network.get_parameter("tail.weight").mul_(1.5)
    changed, _ = compare_backends(network, path)
    assert changed.difference > 0.1


def test_an_engine_that_is_wrong_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = pytest.importorskip("bidiffsr.backends.engine")
    network = build_network(NETWORK).eval()
    path = tmp_path / "model.safetensors"
    save_model(path, network, model_of(NETWORK), packed=True)
    predict = engine.Engine.predict
    for wrong in (lambda result: 1.02 * result, lambda result: result * np.float32("nan")):
        monkeypatch.setattr(
            engine.Engine,
            "predict",
            lambda self, *arguments, wrong=wrong: wrong(predict(self, *arguments)),
        )
        with pytest.raises(NumericalError, match=r"model\.safetensors.*engine"):
            list(compare_backends(network, path))
    monkeypatch.setitem(sys.modules, "bidiffsr.backends.engine", None)
    assert len(list(compare_backends(network, path))) == 1


def test_outputs_are_compared_in_every_time_group(tmp_path: Path) -> None:
    """A file that is wrong in one group only is found out."""
    config = NETWORK.model_copy(update={"time_groups": 5})
    network = scramble(build_network(config)).eval()
    path = tmp_path / "model.safetensors"
    for group in range(5):
        save_model(path, network, model_of(config), packed=True)
        original = build_network(config)
        original.load_state_dict(network.state_dict())
        with torch.no_grad():
            original.get_parameter("down.0.blocks.0.conv1.activation.bias_out")[group, 0] += 5
        first = next(compare_backends(original, path))
        assert first.difference > 0.01


# Other methods.


@pytest.mark.parametrize(
    ("method", "scale"),
    [
        ("bnn", [1, 2]),
        ("recu", [1, 2]),
        ("dorefa", [0.5, 0.25]),
        ("ir-net", [0.75, 1]),
        ("ir-net", [2, 1]),
    ],
)
def test_a_scale_that_no_weight_has_is_refused(
    method: str, scale: list[float], tmp_path: Path
) -> None:
    network = tiny_network_config(method=method, full_precision_up_levels=0)
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_packed(good, model_of(network), random_parameters(network), float_type="fp32")
    with safe_open(good, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(good)
    name = "down.0.resample.conv1.conv.weight"
    assert tensors[f"{name}.scale"].shape == (2,)
    tensors[f"{name}.scale"] = torch.tensor(scale, dtype=torch.float32)
    save_file(tensors, bad, metadata)
    for read in READERS:
        read(good)
        with pytest.raises(CheckpointError, match=f"{name}: has a scale or zeros that no weight"):
            read(bad)


def test_zeros_where_the_method_has_none_are_refused(tmp_path: Path) -> None:
    network = tiny_network_config(method="bnn")
    good, bad = tmp_path / "good.safetensors", tmp_path / "bad.safetensors"
    save_packed(good, model_of(network), random_parameters(network), float_type="fp32")
    with safe_open(good, framework="numpy") as file:
        metadata = file.metadata()
    name = "down.0.blocks.0.conv1.conv.weight"
    tensors = load_file(good) | {f"{name}.zeros": torch.tensor([3], dtype=torch.int32)}
    save_file(tensors, bad, metadata)
    for read in READERS:
        with pytest.raises(CheckpointError, match=f"{name}: has a scale or zeros that no weight"):
            read(bad)

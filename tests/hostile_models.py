"""Model files that no reader may accept, made from a good one."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bidiffsr.config import (
    BiDiffSRConfig,
    DiffusionConfig,
    LinearSchedule,
    ModelConfig,
    SamplingConfig,
)
from bidiffsr.models.packed import FloatType, save_packed
from bidiffsr.nn.layout import network_parameters

Header = dict[str, Any]

CONV = "down.0.blocks.0.conv1"
"""4 → 4 channels, 3×3: 36 bits in 5 bytes a row."""
SIGNS, SCALE, ZEROS = (f"{CONV}.conv.weight.{part}" for part in ("signs", "scale", "zeros"))
SHIFT = f"{CONV}.shift.bias"
PLAIN = "stem.weight"


def model_of(network: BiDiffSRConfig) -> ModelConfig:
    """A model around any network."""
    return ModelConfig(
        network=network,
        diffusion=DiffusionConfig(schedule=LinearSchedule(timesteps=network.timesteps)),
        sampling=SamplingConfig(steps=1),
        provenance={"data": "none, \u00e4\u00f6\u00fc"},
    )


NETWORK = BiDiffSRConfig(
    channels=4,
    multipliers=(1, 2),
    blocks_per_level=1,
    norm_groups=2,
    full_precision_up_levels=1,
    timesteps=100,
    time_groups=3,
)


def random_parameters(network: BiDiffSRConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Parameters of every name, float32; a few one-bit weights are exactly 0."""
    generator = np.random.default_rng(seed)
    result = {}
    for name, parameter in network_parameters(network).items():
        value = generator.standard_normal(parameter.shape, dtype=np.float32)
        if parameter.one_bit:
            value.reshape(-1)[generator.integers(0, value.size, 3)] = 0
        result[name] = value
    return result


def good_file(float_type: FloatType = "bf16") -> bytes:
    """A sound packed file, whose ``CONV`` has zeros."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "good.safetensors"
        parameters = random_parameters(NETWORK)
        save_packed(path, model_of(NETWORK), parameters, float_type=float_type)
        return path.read_bytes()


def split(file: bytes) -> tuple[Header, bytes]:
    """Header and data."""
    length = int.from_bytes(file[:8], "little")
    return json.loads(file[8 : 8 + length]), file[8 + length :]


def join(header: Header | str | bytes, data: bytes) -> bytes:
    """The reverse."""
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text.encode() if isinstance(text, str) else text
    return len(raw).to_bytes(8, "little") + raw + data


def with_tensors(file: bytes, change: Callable[[dict[str, tuple[str, np.ndarray]]], Any]) -> bytes:
    """A sound safetensors file of changed tensors: name → (dtype, bytes as an array)."""
    header, data = split(file)
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = {"F32": "<f4", "BF16": "<u2", "I32": "<i4", "U8": "u1"}[entry["dtype"]]
            value = np.frombuffer(data[begin:end], kind).reshape(entry["shape"]).copy()
            tensors[name] = (entry["dtype"], value)
    change(tensors)
    made: Header = {"__metadata__": header["__metadata__"]}
    body = b""
    for name, (dtype, value) in tensors.items():
        offsets = [len(body), len(body) + value.nbytes]
        made[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": offsets}
        body += value.tobytes()
    return join(made, body)


def corpus() -> dict[str, bytes]:
    """Every hostile file, by what is wrong with it."""
    good = good_file()
    files: dict[str, bytes] = {}
    for make in (_cut, _lengths, _texts, _entries, _names, _values, _metadata, _configs):
        for what, data in make(good):
            what = f"{make.__name__[1:]}: {what}"
            assert what not in files, what
            assert data != good, what
            files[what] = data
    return files


def _cut(good: bytes) -> Iterator[tuple[str, bytes]]:
    end = 8 + int.from_bytes(good[:8], "little")
    places = {0, 1, 4, 7, 8, 9, 20, end // 2, end - 1, end, end + 1, len(good) - 2, len(good) - 1}
    places |= {random.Random(seed).randrange(len(good)) for seed in range(40)}
    for place in sorted(places):
        yield f"after {place} bytes", good[:place]
    for extra in (1, 8, 10_000):
        yield f"{extra} bytes more", good + bytes(extra)
    yield "twice over", good + good
    yield "zeros only", bytes(len(good))
    yield "noise", random.Random(0).randbytes(len(good))


def _lengths(good: bytes) -> Iterator[tuple[str, bytes]]:
    length = int.from_bytes(good[:8], "little")
    size = len(good)
    near = (0, 1, 2, length - 1, length + 1, length + 8, size - 9, size - 8, size - 7, size)
    far = (4 * 2**20 + 1, 10**8, 2**31 - 1, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
    for value in near + far:
        yield str(value), value.to_bytes(8, "little") + good[8:]
    yield "big-endian", length.to_bytes(8, "big") + good[8:]
    yield "negative", (-length).to_bytes(8, "little", signed=True) + good[8:]


def _texts(good: bytes) -> Iterator[tuple[str, bytes]]:
    header, data = split(good)
    text = json.dumps(header)
    name = json.dumps(PLAIN)
    deep = 100_000
    texts: dict[str, str | bytes] = {
        "empty": "",
        "no JSON": "x" * 100,
        "cut short": text[:-1],
        "single quotes": text.replace('"', "'"),
        "something behind": text + "x",
        "two objects": text + text,
        "a space before": " " + text,
        "a byte order mark": "\ufeff" + text,
        "UTF-16": text.encode("utf-16-le"),
        "Latin-1": text.replace("stem", "st\u00e4m").encode("latin-1"),
        "a NUL inside": text.replace("stem", "st\0m"),
        "an escaped surrogate": text.replace("stem.weight", "\\ud800"),
        "a line break in a name": text.replace("stem.weight", "stem\\nweight"),
        "a very long name": text.replace("stem.weight", "stem" * 10_000),
        "a list": f"[{text}]",
        "null": "null",
        "a number": "17",
        "a text": '"model"',
        "deep lists": "[" * deep,
        "deep lists, closed": "[" * deep + "]" * deep,
        "deep objects": '{"a":' * deep,
        "deep entry": text.replace('"BF16"', "[" * 900 + "]" * 900, 1),
        "deep shape": text.replace('"shape": [', '"shape": [' + "[" * 5000 + "]" * 5000, 1),
        "an entry twice": text.replace(f"{name}:", f"{name}: {json.dumps(header[PLAIN])}, {name}:"),
        "a field twice": text.replace('"dtype":', '"dtype": "F32", "dtype":', 1),
        "metadata twice": text.replace("{", '{"__metadata__": {}, ', 1),
        "a number of 5000 digits": text.replace('"shape": [', f'"shape": [{"9" * 5000}, ', 1),
        "a number of 4000 digits": text.replace('"shape": [', f'"shape": [{"9" * 4000}, ', 1),
        "many long numbers": text.replace('"shape": [', f'"shape": [{("9" * 4000 + ",") * 900}', 1),
        "a shape without end": text.replace('"shape": [', f'"shape": [{"1, " * 500_000}', 1),
        "NaN": text.replace('"shape": [', '"shape": [NaN, ', 1),
        "too many entries": json.dumps(
            header | {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
                      for i in range(40_000)}
        ),
    }  # fmt: skip
    for what, value in texts.items():
        yield what, join(value, data)


def _entries(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Entries that do not describe their data; most are no sound safetensors files."""
    header, data = split(good)
    changes: dict[str, dict[str, Any]] = {
        "dtype": dict.fromkeys(
            ("F64", "I64", "I8", "U16", "BOOL", "C64", "F8_E4M3", "f32", "F4", "", "\n")
        )
        | {"null": None, "a number": 5, "a list": ["F32"], "an object": {}},
        "shape": {
            "none": [],
            "null": None,
            "negative": [-1],
            "negative pair": [-4, -9],
            "true": [True],
            "floats": [4.0, 6.0, 3.0, 3.0],
            "texts": ["4"],
            "zero": [0],
            "huge": [2**62],
            "overflowing": [2**32, 2**32],
            "overflowing to the right size": [2**63, 2],
            "beyond 64 bits": [2**64],
            "an object": {"0": 4},
        },
        "data_offsets": {
            "none": [],
            "one": [0],
            "three": [0, 1, 2],
            "swapped": None,
            "negative": [-8, 0],
            "beyond": [len(data), len(data) + 216],
            "far beyond": [2**62, 2**62 + 216],
            "overlapping": [0, 432],
            "floats": [0.0, 432.0],
            "texts": ["0", "432"],
            "beyond 64 bits": [2**64, 2**64 + 432],
            "an object": {},
        },
    }
    for field, values in changes.items():
        for what, value in values.items():
            for name in (PLAIN, SIGNS) if field == "dtype" else (PLAIN,):
                changed = copy.deepcopy(header)
                if what == "swapped":
                    value = changed[name]["data_offsets"][::-1]
                elif field == "dtype" and value is None and what != "null":
                    value = what
                changed[name][field] = value
                yield f"{field} of {name}, {what!r}", join(changed, data)
    for what, value in {"null": None, "a list": [], "a text": "F32", "empty": {}}.items():
        yield f"no entry, {what}", join(header | {PLAIN: value}, data)
    for field in changes:
        without = {key: value for key, value in header[PLAIN].items() if key != field}
        yield f"no {field}", join(header | {PLAIN: without}, data)
    yield "another field", join(header | {PLAIN: header[PLAIN] | {"stride": 1}}, data)
    same_place = {SHIFT: header[SHIFT], f"{SHIFT}.copy": header[SHIFT]}
    yield "two names for one place", join(header | same_place, data)


def _names(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Sound safetensors files with the wrong tensors."""
    header, _ = split(good)
    names = list(header)[1:]
    for name in sorted({*names[:: len(names) // 25], SIGNS, SCALE, SHIFT, PLAIN}):
        if not name.endswith(".zeros"):
            yield f"without {name}", with_tensors(good, lambda t, name=name: t.pop(name))
        new = name[:-1] + chr(ord(name[-1]) ^ 1)
        yield (
            f"with a flipped bit in {name}",
            with_tensors(good, lambda t, old=name, new=new: t.update({new: t.pop(old)})),
        )
    floats = np.zeros((4, 4, 3, 3), np.float32)
    added: dict[str, tuple[str, np.ndarray]] = {
        "strange": ("F32", np.zeros(1, np.float32)),
        "": ("F32", np.zeros(1, np.float32)),
        "stem": ("F32", np.zeros(1, np.float32)),
        f"{CONV}.conv.weight": ("F32", floats),
        f"{CONV}.conv.bias": ("F32", floats[0, 0, 0]),
        f"{CONV}.conv.weight.bits": ("U8", np.zeros(4, np.uint8)),
        f"{PLAIN}.signs": ("U8", np.zeros((4, 7), np.uint8)),
        f"{PLAIN}.zeros": ("I32", np.zeros(1, np.int32)),
        "empty": ("F32", np.zeros((0,), np.float32)),
    }
    assert not added.keys() & set(names)
    for name, value in added.items():
        yield f"with {name!r}", with_tensors(good, lambda t, n=name, v=value: t.update({n: v}))
    reshaped: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "flat": lambda value: value.reshape(-1),
        "in one row more": lambda value: value[None],
        "in one column more": lambda value: value[..., None],
        "shorter": lambda value: value[1:],
        "longer": lambda value: np.concatenate([value, value]),
    }
    for what, reshape in reshaped.items():
        for name in (PLAIN, SIGNS, SCALE, SHIFT, ZEROS, "tail.bias"):
            flat = name in (SCALE, ZEROS, "tail.bias") and what == "flat"
            if not flat and not (name == ZEROS and what == "shorter"):
                yield (
                    f"{name} {what}",
                    with_tensors(
                        good, lambda t, n=name, r=reshape: t.update({n: (t[n][0], r(t[n][1]))})
                    ),
                )
    yield (
        "signs of two layers exchanged",
        with_tensors(
            good,
            lambda t: t.update(
                {SIGNS: t["down.1.blocks.0.conv1.conv.weight.signs"],
                 "down.1.blocks.0.conv1.conv.weight.signs": t[SIGNS]}
            ),
        ),
    )  # fmt: skip


def _values(good: bytes) -> Iterator[tuple[str, bytes]]:
    def put(name: str, value: Any, at: int = -1) -> bytes:
        def change(tensors: dict[str, tuple[str, np.ndarray]]) -> None:
            tensors[name][1].reshape(-1)[at] = value

        return with_tensors(good, change)

    def replace(name: str, value: Any) -> bytes:
        return with_tensors(good, lambda t: t.update({name: ("I32", np.array(value, np.int32))}))

    for what, value in {
        "NaN": np.nan, "infinite": np.inf, "minus infinite": -np.inf, "negative": -1.0,
        "slightly negative": -1e-45, "too large": 3e38,
    }.items():  # fmt: skip
        yield f"a scale that is {what}", put(SCALE, np.float32(value))
    for value in (np.nan, np.inf, -np.inf):
        yield f"a shift that is {value}", put(SHIFT, np.float32(value), 0)
    for what, bits in {"NaN": 0x7FC0, "-NaN": 0xFFFF, "inf": 0x7F80, "-inf": 0xFF80}.items():
        for name in (PLAIN, "tail.bias", f"{CONV}.activation.slope"):
            yield f"{name} holding {what}", put(name, bits)
    for bit in range(4):
        for at in (4, -1):
            yield f"padding bit {bit} of byte {at}", put(SIGNS, 0xF0 | 1 << bit, at)
    for what, value in {
        "beyond": [0, 144], "far beyond": [2**31 - 1], "negative": [-1, 3], "lowest": [-(2**31)],
        "unsorted": [5, 3], "twice": [5, 5], "none": [], "all and one": list(range(145)),
        "all twice": [*range(144), *range(144)], "wrapping": [2**31 - 1, -(2**31)],
    }.items():  # fmt: skip
        yield f"zeros {what}", replace(ZEROS, value)


def _metadata(good: bytes) -> Iterator[tuple[str, bytes]]:
    header, data = split(good)
    ours = header["__metadata__"]
    others: dict[str, Any] = {
        "null": None,
        "a list": [],
        "a text": "bidiffsr",
        "empty": {},
        "of a published checkpoint": {"config": ours["bidiffsr"]},
        "with a number": ours | {"bidiffsr": 1},
        "with null": ours | {"note": None},
        "with an object": ours | {"bidiffsr": json.loads(ours["bidiffsr"])},
    }
    for version in ("2", "0", "1.0", "01", " 1", "", "one", "9" * 1000, "\n"):
        others[f"of version {version[:9]!r}"] = ours | {"bidiffsr.format": version}
    for what, value in others.items():
        yield what, join(header | {"__metadata__": value}, data)
    yield "absent", join({k: v for k, v in header.items() if k != "__metadata__"}, data)


def _configs(good: bytes) -> Iterator[tuple[str, bytes]]:
    header, data = split(good)
    text = header["__metadata__"]["bidiffsr"]

    def described(description: str) -> bytes:
        metadata = header["__metadata__"] | {"bidiffsr": description}
        return join(header | {"__metadata__": metadata}, data)

    texts = {
        "empty": "",
        "no JSON": "{",
        "NaN": text.replace('"scale":4', '"scale":NaN'),
        "a key twice": text.replace('"scale":4', '"scale":4,"scale":4'),
        "a list": "[]",
        "null": "null",
        "deep": "[" * 30_000,
        "deep, closed": "[" * 400 + "]" * 400,
        "deep in a key": text.replace('"scale":4', f'"scale":{"[" * 800 + "]" * 800}'),
        "endless": text.replace('"scale":4', '"scale":4,' + " " * 100_000),
        "a line break in a key": text.replace('"scale":', '"sc\\nale":'),
        "a long key": text.replace('"scale":', f'"{"scale" * 5000}":'),
        "a lone surrogate": text.replace("none", "\\ud800"),
    }
    for what, description in texts.items():
        yield what, described(description)
    hostile: dict[str, dict[str, Any]] = {
        "as wide as may be": {"channels": 2**14, "multipliers": [1], "blocks_per_level": 16},
        "wider than may be": {"channels": 2**15, "multipliers": [1]},
        "wide beyond reason": {"channels": 2**70},
        "as deep as may be": {
            "channels": 128,
            "multipliers": [1, 2, 4, 8, 16, 32, 64, 128],
            "blocks_per_level": 16,
            "attention_levels": list(range(8)),
            "time_groups": 1000,
        },
        "deeper than may be": {"multipliers": [1] * 9, "resampling": "strided"},
        "deep beyond reason": {"multipliers": [1] * 20_000},
        "many blocks": {"blocks_per_level": 10**9},
        "many groups": {"time_groups": 10**9},
        "many timesteps": {"timesteps": 10**12},
        "many wrong levels": {"attention_levels": [""] * 10_000},
        "many levels": {"attention_levels": [1] * 20_000},
        "negative channels": {"channels": -4},
        "no channels": {"channels": 0},
        "odd channels": {"channels": 5},
        "text channels": {"channels": "4x"},
        "infinite channels": {"channels": float("inf")},
        "groups that do not divide": {"norm_groups": 3},
        "negative levels": {"attention_levels": [-1]},
        "another architecture": {"architecture": "other"},
        "SR3 with keys of ours": {"architecture": "sr3"},
        "an unknown key": {"kernel": 5},
        "another width": {"channels": 8},
        "another depth": {"multipliers": [1, 2, 4]},
        "another count": {"blocks_per_level": 2},
        "other groups": {"time_groups": 2},
        "other levels": {"full_precision_up_levels": 0},
        "attention": {"attention_levels": [0]},
        "another fusion": {"fusion": "concat"},
        "another resampling": {"resampling": "strided"},
        "full precision": {"method": "full-precision"},
        "one threshold": {"timestep_aware_redistribution": False},
        "patches": {"patch": 2},
        "the largest patches": {"patch": 8},
        "larger patches than may be": {"patch": 9},
        "patches beyond reason": {"patch": 2**70},
        "patches of nothing": {"patch": 0},
        "negative patches": {"patch": -2},
        "halves of pixels": {"patch": 1.5},
        "means of patches": {"patch": 2, "stem_condition": "mean"},
        "another condition": {"stem_condition": "median"},
        "another normalization": {"normalization": "batch"},
        "no attention": {"middle_attention": False},
        "gains": {"weight_gain": True},
        "float help": {"float_help": "pointwise"},
    }
    values = json.loads(text)
    for what, change in hostile.items():
        yield what, described(json.dumps(values | {"network": values["network"] | change}))
    for change in (
        {"network": None},
        {"network": []},
        {"network": {"architecture": "sr3"}},
        {"network": {"architecture": "sr3", "multipliers": [1] * 2000}},
        {"scale": 0},
        {"scale": 10**30},
        {"sampling": {"steps": 0}},
        {"qualities": {"fast": {"steps": 10**6}}},
        {"qualities": {"superb": {}}},
        {"provenance": {"a": {"b": 1}}},
        {"diffusion": {"schedule": {"kind": "angular"}}},
        {"unheard": 1},
    ):
        yield json.dumps(change)[:60], described(json.dumps(values | change))

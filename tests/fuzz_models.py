"""Damaged model files by the hundred: each is refused in one line, or runs as PyTorch says.

Alone, `python tests/fuzz_models.py [how many]` tries them all, some dozens in one process, so that
a crash or a hang of native code is seen, and prints what became of them.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bidiffsr.backends.engine import Engine
from bidiffsr.backends.pytorch import TorchBackend
from bidiffsr.errors import CheckpointError, ConfigError, NumericalError
from bidiffsr.models.container import write_model_file
from bidiffsr.upscaling.upscaler import Upscaler
from hostile_models import NETWORK, good_file, join, model_of, random_parameters, split

# Relative L2; sums in another order turn signs of activations next to zero.
LARGEST_DIFFERENCE = 0.01
BATCH = 50
_SECONDS = 300  # for a batch, which takes some of them

Change = Callable[[random.Random, bytes], bytes]

EXTREMES = (
    *(0, 1, -1, 2, 3, 7, 1000, 100_000, 2**31, 2**63, 2**70, -(2**63), 0.5, 1e-7, 1e-300, 1e6),
    *(1e308, -0.0, None, True, False, "", "0", "group", "affine", "x" * 5000, [], [1], [1] * 9, {}),
    {"kind": "angular", "timesteps": 1},
)
VALUES = (
    *(np.nan, np.inf, -np.inf, 3.4e38, -3.4e38, 1e6, -1e6, 1.01e6, 1e-45, -1e-38, 0.0, -0.0),
    *(1e3, 1e-3),
)


@cache
def whole(kind: str) -> bytes:
    """A sound file: packed with bfloat16 or float32, or with all its weights as floats."""
    if kind != "floats":
        return good_file("bf16" if kind == "packed, bf16" else "fp32")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "good.safetensors"
        values = {name: ("F32", value) for name, value in random_parameters(NETWORK).items()}
        write_model_file(path, model_of(NETWORK), values)
        return path.read_bytes()


KINDS = ("packed, bf16", "packed, fp32", "floats")


def damaged(count: int, first: int = 0) -> Iterator[tuple[str, bytes]]:
    """Files number ``first`` and on, the same every time, each with what was done to it."""
    for seed in range(first, first + count):
        chance = random.Random(seed)
        change = CHANGES[seed % len(CHANGES)]
        kind = chance.choice(KINDS)
        yield f"{kind}: {change.__name__[1:]}", change(chance, whole(kind))


def _bits_of_the_data(chance: random.Random, good: bytes) -> bytes:
    return _flipped(chance, good, 8 + int.from_bytes(good[:8], "little"), len(good))


def _bits_of_the_header(chance: random.Random, good: bytes) -> bytes:
    return _flipped(chance, good, 0, 8 + int.from_bytes(good[:8], "little"))


def _flipped(chance: random.Random, good: bytes, start: int, stop: int) -> bytes:
    data = bytearray(good)
    for _ in range(chance.randint(1, 3)):
        data[chance.randrange(start, stop)] ^= 1 << chance.randrange(8)
    return bytes(data)


def _parts(chance: random.Random, good: bytes) -> bytes:
    """Cut short, or with a part lost, doubled or replaced."""
    data = bytearray(good)
    start, length = chance.randrange(len(data)), chance.choice([1, 4, 8, 36, 1000])
    match chance.randrange(4):
        case 0:
            del data[start:]
        case 1:
            del data[start : start + length]
        case 2:
            data[start:start] = data[start : start + length]
        case _:
            data[start : start + length] = chance.randbytes(length)
    return bytes(data)


def _entry(chance: random.Random, header: dict[str, Any]) -> dict[str, Any]:
    return header[chance.choice([name for name in header if name != "__metadata__"])]


def _dtypes(chance: random.Random, good: bytes) -> bytes:
    header, data = split(good)
    _entry(chance, header)["dtype"] = chance.choice(
        ["F32", "F16", "BF16", "I32", "U8", "F64", "I64", "BOOL", "F8_E4M3", "", None]
    )
    return join(header, data)


def _shapes(chance: random.Random, good: bytes) -> bytes:
    header, data = split(good)
    shape = _entry(chance, header)["shape"]
    match chance.randrange(4):
        case 0:
            chance.shuffle(shape)
        case 1:
            shape[chance.randrange(len(shape))] += chance.choice([-1, 1, 2**31, 2**62, 2**64])
        case 2:
            shape.append(chance.choice([0, 1, 2, -1]))
        case _:
            shape.pop()
    return join(header, data)


def _places(chance: random.Random, good: bytes) -> bytes:
    """Two tensors exchanged, or one moved."""
    header, data = split(good)
    one, other = _entry(chance, header), _entry(chance, header)
    if chance.random() < 0.5:
        one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]
    else:
        shift = chance.choice([-4, 4, 8, 1, 2**32, 2**63, -(2**63)])
        one["data_offsets"] = [offset + shift for offset in one["data_offsets"]]
    return join(header, data)


def _values(chance: random.Random, good: bytes) -> bytes:
    """One number, a whole tensor, or every tensor at an extreme, or multiplied by much."""
    header, data = split(good)
    changed = bytearray(data)
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    value = np.float32(chance.choice(VALUES))
    how = chance.randrange(4)
    for entry in entries if how == 3 else [chance.choice(entries)]:
        begin, end = entry["data_offsets"]
        if entry["dtype"] not in ("F32", "BF16"):
            changed[begin:end] = chance.randbytes(end - begin)
            continue
        single = np.frombuffer(data[begin:end], "<f4" if entry["dtype"] == "F32" else "<u2").copy()
        floats = single if entry["dtype"] == "F32" else (single.astype("<u4") << 16).view("<f4")
        if how == 0:
            floats[chance.randrange(len(floats))] = value
        elif how == 1:
            floats[:] = value
        else:
            with np.errstate(over="ignore", under="ignore"):
                floats *= np.float32(10.0 ** chance.uniform(-8, 5))
        stored = floats if entry["dtype"] == "F32" else (floats.view("<u4") >> 16).astype("<u2")
        changed[begin:end] = stored.tobytes()
    return join(header, bytes(changed))


def _texts(chance: random.Random, good: bytes) -> bytes:
    """A key twice, brackets in depth, a long number, or a piece of JSON somewhere in the header."""
    header, data = split(good)
    text = json.dumps(header)
    place = chance.choice([index for index, char in enumerate(text) if char in ",:[{"]) + 1
    piece = chance.choice(
        [
            *("[" * 2000, "[" * 300 + "]" * 300 + ",", '{"a":' * 1000, "9" * 4500, "NaN,", "-,"),
            *('"__metadata__": {},', '"stem.weight": {},', '"shape": [4],', '"dtype": "F32",'),
            *("null,", "\x00", "\\ud800", "\u2028", '"bidiffsr": "{}",', "1e999,"),
        ]
    )
    return join(text[:place] + piece + text[place:], data)


def _settings(chance: random.Random, good: bytes) -> bytes:
    """One or two values of the configuration at an extreme, or a key more or less."""
    header, data = split(good)
    config = json.loads(header["__metadata__"]["bidiffsr"])
    for _ in range(chance.randint(1, 2)):
        place = config
        while True:
            key = chance.choice(sorted(place))
            if not isinstance(place[key], dict) or not place[key] or chance.random() < 0.2:
                break
            place = place[key]
        if chance.random() < 0.1:
            del place[key]
            place[f"{key}s"] = 1
        else:
            place[key] = chance.choice(EXTREMES)
        if not config:
            break
    header["__metadata__"]["bidiffsr"] = json.dumps(config)
    return join(header, data)


CHANGES: tuple[Change, ...] = (
    _bits_of_the_data,
    _settings,
    _values,
    _bits_of_the_header,
    _dtypes,
    _shapes,
    _values,
    _parts,
    _settings,
    _places,
    _texts,
    _values,
)


def verdict(path: Path) -> str:
    """What became of a file: "refused", "unsound" when it is run, "runs", or "runs, unstable".

    The last where PyTorch in float32 does not agree with itself in float64.

    Raises:
        AssertionError: the engine's result is not PyTorch's, or a message has several lines.
        Exception: any but the house's own is let through.
    """
    try:
        engine = Engine(path, precision="exact", threads=1)
    except (CheckpointError, ConfigError) as error:
        assert str(error).isprintable(), str(error)
        return "refused"
    torch_backend, config = TorchBackend.load(path, "cpu")
    random_ = np.random.default_rng(0)
    picture = random_.integers(0, 256, (5, 6, 3), np.uint8)
    steps = min(2, config.diffusion.schedule.timesteps)
    try:
        for backend in (engine, torch_backend):
            result = Upscaler(backend, config)(picture, steps=steps)
            assert result.shape == (5 * config.scale, 6 * config.scale, 3)
    except NumericalError as error:
        assert str(error).isprintable(), str(error)
        return "unsound"
    side = 4 * config.network.size_multiple
    x_t, cond = random_.random((2, 1, 3, side, side), np.float32)
    time = np.array([config.diffusion.schedule.timesteps // 2])
    expected = torch_backend.predict(x_t, cond, time)
    found = engine.predict(x_t, cond, time)
    if not np.isfinite(expected).all():
        return "unsound"
    difference = _difference(found, expected)
    if difference <= LARGEST_DIFFERENCE:
        return "runs"
    network = torch_backend.network.double()
    with torch.inference_mode():
        doubles = (torch.from_numpy(array).double() for array in (x_t, cond))
        exact = network(*doubles, torch.from_numpy(time)).numpy()
    unstable = _difference(expected, exact)
    assert unstable > LARGEST_DIFFERENCE / 10, f"differs from PyTorch by {difference:.2g}"
    return "runs, unstable"


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    scale = np.linalg.norm(expected.astype(np.float64)) or 1.0
    return float(np.linalg.norm(found.astype(np.float64) - expected) / scale)


def try_batch(count: int, first: int) -> None:
    """Print the verdict on each file, its number first."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        for number, (what, data) in enumerate(damaged(count, first), first):
            print(number, end="\t", flush=True)
            path.write_bytes(data)
            try:
                found = verdict(path)
            except AssertionError as error:
                found = f"FAULT: {error}"
            print(what, found, sep="\t", flush=True)


def main(count: int) -> int:
    """Try them in processes of their own; 1 where one was at fault, crashed or hung."""
    tally: Counter[tuple[str, str]] = Counter()
    failed = 0
    for first in range(0, count, BATCH):
        command = [sys.executable, __file__, str(min(BATCH, count - first)), str(first)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as error:
            code, out, err = "no end", (error.stdout or b"").decode(), ""
        lines = [line.split("\t") for line in out.splitlines()]
        for number, what, found in (line for line in lines if len(line) == 3):
            if found.startswith("FAULT"):
                failed += 1
                print(f"file {number}: {what}: {found}", file=sys.stderr)
                found = "FAULT"
            tally[what, found] += 1
        if code != 0:
            failed += 1
            last = lines[-1][0] if lines else "none"
            print(f"FAULT at file {last} (code {code}):\n{err[-2000:]}", file=sys.stderr)
    for (what, found), number in sorted(tally.items()):
        print(f"{number:6} {what}: {found}")
    print(f"{sum(tally.values()):6} files: {dict(Counter(found for _, found in tally.elements()))}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) > 2:
        try_batch(int(sys.argv[1]), int(sys.argv[2]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1200))

"""Options: declared once, and every value that cannot be meant is refused by the option's name."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from bidiffsr import config
from bidiffsr.backends.engine import Engine
from bidiffsr.backends.options import BackendKeywords, BackendOptions
from bidiffsr.batch.options import FileOptions, Selection
from bidiffsr.errors import ConfigError, OptionError
from bidiffsr.images.image import Image
from bidiffsr.upscaling.options import Quality, UpscaleKeywords, UpscaleOptions
from bidiffsr.upscaling.upscaler import Upscaler
from tiny_model import save_tiny_model, tiny_upscaler

STRANGE: tuple[Any, ...] = ([], {}, b"", object(), 1j, math.nan)
NUMBERS_THAT_ARE_NONE = ("4", "", True, np.True_, [1], np.ones(2))
FRACTIONS = (1.5, 64.0, Fraction(3, 2), np.float32(2), math.inf)

# Option -> values that cannot be meant.
WRONG: dict[str, tuple[Any, ...]] = {
    "scale": (*NUMBERS_THAT_ARE_NONE, 0, -1, -0.0, math.inf, -math.inf, np.float32("nan")),
    "size": (*NUMBERS_THAT_ARE_NONE, 64, "640", "640x", "640x0", "axb", "-1x5", "1x2x3", "9" * 9),
    "width": (*NUMBERS_THAT_ARE_NONE, *FRACTIONS, 0, -1, 10**8),
    "height": (*NUMBERS_THAT_ARE_NONE, *FRACTIONS, 0, -1, 10**8),
    "quality": ("superb", "", "FAST", 3, True, ["fast"], np.array("fast")),
    "steps": (*NUMBERS_THAT_ARE_NONE, *FRACTIONS, 0, -1),
    "seed": (*NUMBERS_THAT_ARE_NONE, *FRACTIONS, None, -1, 2**64),
    "samples": (*NUMBERS_THAT_ARE_NONE, *FRACTIONS, None, 0, -1, 2**33),
    "tile": (*NUMBERS_THAT_ARE_NONE, *FRACTIONS, None, 0, -5, "Auto", "64"),
    "max_memory": (True, 1.5, -1, "much", "", "-1G", "1e9", [1]),
    "backend": ("gpu", "", "Engine", None, 3, True),
    "precision": ("slow", "", None, 16),
    "threads": ("2", None, -1, 1025, 1.0, True, np.float64(1)),
    "device": (3, "", True, b"cpu"),
    "recursive": (None, 1, "yes"),
    "include": (None, "*.jpg", ("",), ("/",), (3,), True),
    "exclude": (None, "*.jpg", ("",), ("a", "//"), (b"a",), 1),
    "shard": ("", "1", "1/", "0/2", "3/2", "0/0", "-1/2", "1/2/3", "1.0/2", "a/b", 1, 0.5, True),
    "overwrite": (None, 1, "yes", "False"),
    "strip": (None, 0, "no"),
    "mean": (None, 1, "yes"),
    "uncertainty": (None, 1, "yes"),
    "ensemble": (None, 1, "yes"),
    "keep_times": (None, 0, "no"),
    "format": ("gif3", "", "PNG", ".png", 3, True),
    "name": ("", "a.png", "{stem}", "{stem}.png", "{ext}", "in/{stem}{ext}", "{stem!r}{ext}"),
    "subsampling": ("4:2:2", "", None, 420, True),
    "file_quality": (0, 101, "95", None, 95.0, True),
    "pages": ("first", "", "ALL", 1, True),
    "max_pixels": (0, -1, "1", 1.5, True),
}
CASES = [(name, value) for name, values in WRONG.items() for value in (*values, *STRANGE)]
CLASSES: tuple[Any, ...] = (UpscaleOptions, BackendOptions, FileOptions, Selection)
CLASS_OF = {field.name: kind for kind in CLASSES for field in fields(kind)}

# Option -> values that can be meant, and what they are taken for.
RIGHT: list[tuple[str, Any, Any]] = [
    ("scale", 2, 2.0),
    ("scale", np.float32(2.5), 2.5),
    ("scale", np.int64(3), 3.0),
    ("scale", Fraction(3, 2), 1.5),
    ("scale", None, None),
    ("size", "640x480", "640x480"),
    ("size", "0640X480", "640x480"),
    ("width", np.int32(640), 640),
    ("height", 480, 480),
    ("quality", "best", "best"),
    ("name", "{stem}_{sample:03}{ext}", "{stem}_{sample:03}{ext}"),
    ("steps", np.uint8(3), 3),
    ("seed", 2**64 - 1, 2**64 - 1),
    ("seed", np.int32(7), 7),
    ("samples", np.array(2), 2),
    ("tile", "auto", "auto"),
    ("tile", np.int16(96), 96),
    ("max_memory", "2G", 2_000_000_000),
    ("max_memory", "1 KiB", 1024),
    ("max_memory", 800, 800),
    ("max_memory", None, None),
    ("threads", np.int64(2), 2),
    ("device", "cuda:1", "cuda:1"),
    ("include", ("a", "b/c"), ("a", "b/c")),
    ("shard", "02/16", "2/16"),
    ("shard", None, None),
    ("overwrite", True, True),
    ("max_pixels", 1, 1),
]


def test_every_option_has_its_wrong_values_here() -> None:
    assert set(WRONG) == set(CLASS_OF)


def test_an_option_that_does_not_exist_is_refused_by_its_name(tmp_path: Path) -> None:
    upscaler, model = tiny_upscaler(), save_tiny_model(tmp_path / "m.safetensors")
    picture = np.zeros((4, 4, 3), np.uint8)
    calls: dict[str, Any] = {
        "call": lambda **given: upscaler(picture, **given),
        "stream": lambda **given: list(upscaler.stream(Image(picture), **given)),
        "load": lambda **given: Upscaler.from_pretrained(model, **given),
    }
    for call in calls.values():
        for name in ("tilings", "Scale", "__init__"):
            with pytest.raises(ConfigError, match=f"^{name}: is no option; expected one of .*, "):
                call(**{name: 1})


@pytest.mark.parametrize(("name", "value"), CASES)
def test_what_cannot_be_meant_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as error:
        CLASS_OF[name](**{name: value})
    message = str(error.value)
    assert message.startswith(f"{name}: got ")
    assert ", expected " in message
    assert "\n" not in message
    assert len(message) < 250


@pytest.mark.parametrize(("name", "value", "meant"), RIGHT)
def test_what_can_be_meant_is_taken_as_plain_python(name: str, value: Any, meant: Any) -> None:
    found = getattr(CLASS_OF[name](**{name: value}), name)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(("name", "value"), [case for case in CASES if case[0] in WRONG])
def test_upscalers_refuse_it_too(name: str, value: Any) -> None:
    kind = CLASS_OF[name]
    with pytest.raises(ConfigError, match=f"^{name}: "):
        if kind is UpscaleOptions:
            UPSCALER(np.zeros((4, 4, 3), np.uint8), **{name: value})
        elif kind is BackendOptions:
            Upscaler.from_pretrained("x4-small", **{name: value})
        else:
            kind(**{name: value})


UPSCALER = tiny_upscaler()


@pytest.mark.parametrize(
    ("given", "later"),
    [
        ({"scale": 2, "width": 5}, "width"),
        ({"scale": 2, "size": "5x5"}, "size"),
        ({"size": "5x5", "height": 5}, "height"),
        ({"scale": 2, "width": 5, "height": 5}, "width"),
    ],
)
def test_one_size_is_enough(given: dict[str, Any], later: str) -> None:
    with pytest.raises(ConfigError, match=f"^{later}: got it beside .*, expected one of them"):
        UpscaleOptions(**given)


@pytest.mark.parametrize("name", ["precision", "threads"])
def test_the_engine_by_itself_refuses_it_too(name: str) -> None:
    for value in WRONG[name]:
        with pytest.raises(ConfigError, match=f"^{name}: "):
            Engine("nowhere.safetensors", **{name: value})


@pytest.mark.parametrize(
    ("kind", "keywords"), [(UpscaleOptions, UpscaleKeywords), (BackendOptions, BackendKeywords)]
)
def test_keywords_are_the_fields(kind: Any, keywords: Any) -> None:
    assert get_type_hints(kind) == get_type_hints(keywords)


def test_the_qualities_are_those_that_model_files_name() -> None:
    assert get_args(Quality) == get_args(config.Quality)


@pytest.mark.parametrize("kind", CLASSES)
def test_options_are_as_good_as_their_fields(kind: Any) -> None:
    assert kind(**asdict(kind())) == kind() == pickle.loads(pickle.dumps(kind()))


def test_the_error_survives_a_process() -> None:
    error = OptionError("tile", "got 3")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, OptionError)
    assert (str(again), again.option, again.complaint) == ("tile: got 3", "tile", "got 3")


def test_memory_may_be_given_as_text(tmp_path: Path) -> None:
    upscaler = Upscaler.from_pretrained(save_tiny_model(tmp_path / "m.safetensors"))
    pixels = np.zeros((4, 4, 3), np.uint8)
    np.testing.assert_array_equal(upscaler(pixels, max_memory="64G"), upscaler(pixels))


def test_options_are_light() -> None:
    code = (
        "import sys, bidiffsr.upscaling.options, bidiffsr.backends.options, bidiffsr.batch.options;"
        "print(sorted({'numpy', 'pydantic', 'torch', 'pyvips', 'cyclopts'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

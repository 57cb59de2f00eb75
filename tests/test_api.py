"""The package's face: few names, loaded late."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import bidiffsr
from bidiffsr.errors import CheckpointError, ConfigError, ImageError, OutputError
from bidiffsr.images.convert import as_image

SOURCE = Path(bidiffsr.__file__).parents[1]


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_does_no_work() -> None:
    code = (
        "import sys, time; started = time.perf_counter(); import bidiffsr\n"
        "print(time.perf_counter() - started)\n"
        "heavy = {'torch', 'PIL', 'pyvips', 'numpy', 'rich', 'cyclopts', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    seconds, loaded = run_python(code).splitlines()
    assert loaded == "[]"
    assert float(seconds) < 5  # a fraction of 0.3 s, but on how busy a machine?


def test_pictures_and_scores_need_no_torch_and_no_pil() -> None:
    code = (
        "import sys, bidiffsr as b\n"
        "b.read_image, b.write_image, b.Image, b.imresize, b.cubic_upscale, b.Upscaler\n"
        "b.list_models()\n"
        "b.psnr, b.ssim, b.niqe, b.BidiffsrError, b.__version__\n"
        "print(sorted({'torch', 'PIL'} & set(sys.modules)))\n"
    )
    assert run_python(code) == "[]\n"


def test_upscaling_from_the_command_line_loads_no_torch_and_no_pil(tmp_path: Path) -> None:
    demo = Path(__file__).parents[1] / "examples" / "demo.png"
    code = (
        "import sys; from pathlib import Path\n"
        "import numpy as np; from bidiffsr import Image, read_image, write_image\n"
        f"folder = Path({str(tmp_path)!r}); small, large = folder / 'a.png', folder / 'a_x4.png'\n"
        f"write_image(small, Image(read_image({str(demo)!r}).pixels[:24, :32]))\n"
        "from bidiffsr.cli import main\n"
        "assert main(['upscale', str(small), '-o', str(large)]) == 0\n"
        "print(read_image(large).pixels.shape)\n"
        "print(sorted({'torch', 'torchvision', 'PIL', 'safetensors'} & set(sys.modules)))\n"
    )
    assert run_python(code).splitlines()[-2:] == ["(96, 128, 3)", "[]"]


def test_there_are_few_names_and_all_are_there() -> None:
    assert len(bidiffsr.__all__) <= 15
    assert bidiffsr.__all__ == sorted(bidiffsr.__all__)
    for name in bidiffsr.__all__:
        assert getattr(bidiffsr, name) is not None
    assert set(bidiffsr.__all__) <= set(dir(bidiffsr))
    exec("from bidiffsr import *", namespace := {})
    assert set(bidiffsr.__all__) <= set(namespace)


def test_names_are_those_of_the_modules() -> None:
    from bidiffsr import errors, evaluation, images
    from bidiffsr.backends import engine
    from bidiffsr.models import catalog, networks
    from bidiffsr.upscaling import upscaler

    for module, names in {
        catalog: ("list_models",),
        engine: ("Engine",),
        errors: ("BidiffsrError",),
        evaluation: ("niqe", "psnr", "ssim"),
        images: ("Image", "cubic_upscale", "imresize", "read_image", "write_image"),
        networks: ("from_reference", "load_model"),
        upscaler: ("Upscaler",),
    }.items():
        for name in names:
            assert getattr(bidiffsr, name) is getattr(module, name)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        bidiffsr.nonsense  # noqa: B018


def test_version() -> None:
    assert isinstance(bidiffsr.__version__, str)
    assert bidiffsr.__version__[0].isdigit()


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        b"bytes",
        [[1]],
        np.zeros((4, 4), float),
        np.zeros((4, 4, 3), np.int64),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 2, 2, 3), np.uint8),
    ],
)
def test_a_wrong_picture_is_complained_of_by_the_argument_s_name(wrong: Any) -> None:
    with pytest.raises(ImageError, match=r"^image (is|has) [^\n]*expected [^\n]*$"):
        as_image(wrong)


def test_the_other_arguments_too(tmp_path: Path) -> None:
    pixels: Any = np.zeros((4, 4, 3), np.uint8)
    wrong: Any = [[1]]
    with pytest.raises(ImageError, match=r"^pixels is of type list; expected a numpy array$"):
        bidiffsr.Image(wrong)
    with pytest.raises(ImageError, match=r"^alpha is of type list; expected a numpy array$"):
        bidiffsr.Image(pixels, alpha=wrong)
    with pytest.raises(ImageError, match=r"^image is of type ndarray; expected a bidiffsr\.Image"):
        bidiffsr.write_image(tmp_path / "a.png", pixels)
    for wrong in (None, 3, b"a.png", ["a.png"], Path):
        kind = type(wrong).__name__
        with pytest.raises(ImageError, match=rf"^path is of type {kind}; expected a str"):
            bidiffsr.read_image(cast(Any, wrong))
        with pytest.raises(OutputError, match=rf"^path is of type {kind}; expected a str"):
            bidiffsr.write_image(cast(Any, wrong), bidiffsr.Image(pixels))
    with pytest.raises(ConfigError, match=r"^quality: got 'x', expected a whole number, 1 to 100"):
        bidiffsr.write_image(tmp_path / "a.png", bidiffsr.Image(pixels), quality=cast(Any, "x"))


@pytest.mark.parametrize("wrong", [None, 3, b"x4-small", ["x4-small"], Path])
def test_what_is_no_path_of_a_model_is_called_so(wrong: Any) -> None:
    message = f"is of type {type(wrong).__name__}; expected a str or a pathlib.Path"
    for name, load in (
        ("model", bidiffsr.Upscaler.from_pretrained),
        ("model", bidiffsr.Engine),
        ("path", bidiffsr.load_model),
        ("path", bidiffsr.from_reference),
    ):
        with pytest.raises(CheckpointError) as caught:
            load(wrong)
        assert str(caught.value) == f"{name} {message}"


@pytest.mark.parametrize("wrong", ["4", [], -1, 0, float("nan"), float("inf"), True])
def test_a_wrong_scale_is_complained_of_whatever_the_model(wrong: Any) -> None:
    for model in ("default", "x4-small"):
        with pytest.raises(ConfigError, match=r"^scale: got .*, expected a number above 0"):
            bidiffsr.Upscaler.from_pretrained(model, scale=wrong)


def test_an_engine_takes_the_names_of_shipped_models() -> None:
    x_t = np.random.default_rng(0).random((1, 3, 16, 16), np.float32)
    time = np.array([0])
    file = Path(bidiffsr.__file__).parent / "models" / "weights" / "x4-small.safetensors"
    named, by_path = (bidiffsr.Engine(path, threads=1) for path in ("x4-small", file))
    assert np.array_equal(named.predict(x_t, x_t, time), by_path.predict(x_t, x_t, time))
    copied = pickle.loads(pickle.dumps(named))
    assert np.array_equal(copied.predict(x_t, x_t, time), by_path.predict(x_t, x_t, time))
    with pytest.raises(CheckpointError, match=r"no such file, .*x4-small"):
        bidiffsr.Engine("x9-small")

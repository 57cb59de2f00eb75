"""All pages and frames of a file: as other readers see them, and into files that others read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr.batch.options import FileOptions
from bidiffsr.cli import main
from bidiffsr.errors import ImageError, OptionError, OutputError
from bidiffsr.images.codec import read_image
from bidiffsr.images.compression import Compression
from bidiffsr.images.encode import encode_image
from bidiffsr.images.formats import FORMAT_BY_SUFFIX
from bidiffsr.images.image import Image
from bidiffsr.images.join import Joined
from bidiffsr.images.pages import Pages, open_pages
from bidiffsr.images.timing import Timing
from image_files import chunk, page, tiff

ONE_LINE = r"^[^\n]+$"
TIMES = (Fraction(5, 100), Fraction(7, 100), Fraction(90, 100))
LOSSLESS: dict[str, Any] = {"lossless": True, "exact": True}
ANIMATIONS = ["GIF", "PNG", "WEBP"]


def noise(channels: int, seed: int = 0, height: int = 16, width: int = 24) -> NDArray[np.uint8]:
    shape = height, width, channels
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def frames(kind: str, channels: int = 3) -> list[PIL.Image.Image]:
    """Three pictures, which a GIF can hold without a loss, too."""
    made = [PIL.Image.fromarray(noise(channels, seed)) for seed in range(3)]
    if kind == "GIF":
        made = [picture.convert("RGB").quantize(200) for picture in made]
        if channels == 4:
            for picture in made:
                picture.info["transparency"] = 3
    return made


def animation(path: Path, kind: str, pictures: Sequence[PIL.Image.Image], **options: Any) -> Path:
    extra: dict[str, Any] = {"duration": [50, 70, 900], "loop": 2} if kind in ANIMATIONS else {}
    extra |= LOSSLESS if kind == "WEBP" else {}
    pictures[0].save(path, kind, save_all=True, append_images=pictures[1:], **(extra | options))
    return path


def as_pillow_sees(path: Path) -> list[NDArray[np.uint8]]:
    with PIL.Image.open(path) as opened:
        return [np.asarray(one.convert("RGBA")) for one in PIL.ImageSequence.Iterator(opened)]


def opened(path: Path) -> Pages:
    pages = open_pages(path)
    assert pages is not None
    return pages


def rgba(image: Image) -> NDArray[Any]:
    opaque = np.full(image.pixels.shape[:2], 255, np.uint8)
    return np.dstack([image.pixels, opaque if image.alpha is None else image.alpha])


def assert_looks_like(images: Sequence[Image], expected: Sequence[NDArray[Any]], most: int) -> None:
    """Colours may differ where they cannot be seen."""
    assert len(images) == len(expected)
    for image, wanted in zip(images, expected, strict=True):
        found = rgba(image).astype(int)
        np.testing.assert_allclose(found[..., 3], wanted[..., 3], atol=most)
        visible = wanted[..., 3:] > 0
        np.testing.assert_allclose(found * visible, wanted * visible, atol=most)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kind", ANIMATIONS)
def test_frames_and_their_times_are_those_of_another_reader(
    tmp_path: Path, kind: str, channels: int
) -> None:
    path = animation(tmp_path / "a", kind, frames(kind, channels))
    pages = opened(path)
    assert len(pages) == 3
    assert_looks_like(list(pages), as_pillow_sees(path), 0)
    assert_looks_like(list(pages), as_pillow_sees(path), 0)  # they can be read again
    assert {image.alpha is None for image in pages} == {channels == 3}
    # A GIF's number is that of repetitions.
    assert pages.timing() == Timing(TIMES, 3 if kind == "GIF" else 2)
    assert [header.height for header in pages.headers()] == [16] * 3
    with pytest.raises(ImageError, match=r"holds 3 pages or frames; .*--pages all"):
        read_image(path)


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_frames_that_change_a_part_are_whole(tmp_path: Path, kind: str) -> None:
    """Writers then store that part, and let the rest show through."""
    pictures = [frames(kind)[0].convert("RGB") for _ in range(3)]
    for number, picture in enumerate(pictures):
        picture.paste((255, 0, number), (4, 2 + number, 10, 9))
        picture = picture.quantize(200) if kind == "GIF" else picture
    path = animation(tmp_path / "a", kind, pictures)
    assert_looks_like(list(opened(path)), as_pillow_sees(path), 0)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["GIF", "PNG"])
def test_frames_go_in_every_way(tmp_path: Path, kind: str, after: int) -> None:
    """Disposal: GIF's 0 to 3; PNG's 0 to 2."""
    pictures = [PIL.Image.new("RGBA", (24, 16)) for _ in range(3)]
    for number, picture in enumerate(pictures):
        picture.paste((50 * number, 200, 9, 255), (4 * number, number, 9 + number, 12))
    disposal = {"disposal": after if kind == "GIF" else after % 3}
    path = animation(tmp_path / "a", kind, pictures, **disposal)
    assert_looks_like(list(opened(path)), as_pillow_sees(path), 0)


def apng(pictures: Sequence[NDArray[Any]], *, blend: int) -> bytes:
    """An APNG by hand, each frame whole."""
    height, width, _ = pictures[0].shape
    depth, kind = pictures[0].itemsize * 8, 6
    parts = [chunk(b"IHDR", struct.pack(">2I5B", width, height, depth, kind, 0, 0, 0))]
    parts.append(chunk(b"acTL", struct.pack(">2I", len(pictures), 0)))
    number = 0
    for picture in pictures:
        big = picture.astype(picture.dtype.newbyteorder(">"))
        data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in big))
        control = struct.pack(">5I2H2B", number, width, height, 0, 0, 1, 30, 0, blend)
        parts.append(chunk(b"fcTL", control))
        first = number == 0
        number += 1
        if first:
            parts.append(chunk(b"IDAT", data))
        else:
            parts.append(chunk(b"fdAT", struct.pack(">I", number) + data))
            number += 1
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


def test_what_is_half_transparent_is_laid_over(tmp_path: Path) -> None:
    pictures = [noise(4, seed) for seed in range(3)]
    (tmp_path / "a.png").write_bytes(apng(pictures, blend=1))
    expected = [PIL.Image.fromarray(pictures[0])]
    for picture in pictures[1:]:
        expected.append(PIL.Image.alpha_composite(expected[-1], PIL.Image.fromarray(picture)))
    pages = opened(tmp_path / "a.png")
    for image, wanted in zip(pages, map(np.asarray, expected), strict=True):
        np.testing.assert_allclose(rgba(image)[..., 3].astype(int), wanted[..., 3], atol=1)
        seen = wanted[..., 3:] > 30  # or rounding of one and the other adds up
        np.testing.assert_allclose(rgba(image) * seen, wanted * seen, atol=6)
    timing = pages.timing()
    assert timing is not None
    assert timing.delays == (Fraction(1, 30),) * 3


def test_sixteen_bits_of_frames_are_kept(tmp_path: Path) -> None:
    pictures = [noise(4, seed).astype(np.uint16) * 251 for seed in range(2)]
    (tmp_path / "a.png").write_bytes(apng(pictures, blend=0))
    pages = opened(tmp_path / "a.png")
    for image, wanted in zip(pages, pictures, strict=True):
        np.testing.assert_array_equal(rgba(image), wanted)
    write(tmp_path / "b.png", list(pages), pages.timing())
    again = opened(tmp_path / "b.png")
    for image, wanted in zip(again, pictures, strict=True):
        np.testing.assert_array_equal(rgba(image), wanted)
    assert again.timing() == pages.timing()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_frames_are_made_upright_together(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = animation(tmp_path / "a", kind, frames(kind), exif=exif)
    still = tmp_path / "b"
    for image, picture in zip(opened(path), frames(kind), strict=True):
        picture.save(still, "PNG", exif=exif)
        np.testing.assert_array_equal(image.pixels, read_image(still).pixels)


def write(path: Path, images: Sequence[Image], timing: Timing | None) -> tuple[str, ...]:
    with Joined(path, Compression(quality=100)) as joined:
        for image in images:
            joined.add(image)
        return joined.write(timing, overwrite=True, modified=None)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif", ".tif"])
def test_written_frames_are_read_by_another_reader(
    tmp_path: Path, suffix: str, alpha: bool
) -> None:
    images = []
    for number in range(3):
        pixels = np.full((16, 24, 3), (40, 90 * number, 200), np.uint8)
        opacity = np.full((16, 24), 255, np.uint8)
        opacity[2 * number : 8] = 0
        images.append(Image(pixels, opacity if alpha else None))
    path = tmp_path / f"a{suffix}"
    notes = write(path, images, Timing(TIMES, 5))
    most = {".png": 0, ".tif": 0, ".gif": 2, ".webp": 3}[suffix]
    assert_looks_like(images, as_pillow_sees(path), most)
    if suffix == ".tif":
        assert notes == ("timing is left out: TIFF has no place for it",)
        for number, found in enumerate(tifffile.imread(path, key=range(3))):
            np.testing.assert_array_equal(found[..., :3], images[number].pixels)
        return
    assert notes == ()
    with PIL.Image.open(path) as made:
        assert made.info["loop"] == (4 if suffix == ".gif" else 5)
        durations = []
        for number in range(3):
            made.seek(number)
            made.load()
            durations.append(made.info["duration"])
    assert durations == [50, 70, 900]
    assert opened(path).timing() == Timing(TIMES, 5)


@pytest.mark.parametrize("plays", [0, 1, 2, 65535])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif"])
def test_how_often_frames_are_shown_is_kept(tmp_path: Path, suffix: str, plays: int) -> None:
    images = [Image(noise(3, seed)) for seed in range(2)]
    write(tmp_path / f"a{suffix}", images, Timing((Fraction(1, 10),) * 2, plays))
    timing = opened(tmp_path / f"a{suffix}").timing()
    assert timing is not None
    assert timing.plays == plays


STILL = {suffix: encode_image(Image(noise(3, 0, 2, 2)), suffix) for suffix in (".png", ".gif")}


@given(st.fractions(0, 65535, max_denominator=65535))
@settings(max_examples=60, deadline=None)
def test_times_of_frames_come_back(delay: Fraction) -> None:
    for suffix, unit in ((".png", Fraction(1, 65535)), (".gif", Fraction(1, 100))):
        format_, file = FORMAT_BY_SUFFIX[suffix], io.BytesIO()
        assert format_.join is not None
        format_.join(file, iter([STILL[suffix]] * 2), Timing((delay, Fraction(0))))
        album = format_.album(file.getvalue())
        assert album is not None
        found = next(album.parts()).delay
        assert found is not None
        if suffix == ".gif" and delay > 655:
            assert found == Fraction(65535, 100)
        else:
            assert abs(found - delay) <= unit * max(1, delay)


def test_pages_of_a_tiff_are_each_as_they_are(tmp_path: Path) -> None:
    pictures = [
        noise(3, 0, 7, 9),
        noise(1, 1, 12, 5)[..., 0],
        noise(3, 2, 4, 4).astype(np.uint16) * 257,
    ]
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, byteorder=">") as file:
        for number, picture in enumerate(pictures):
            kind = "minisblack" if picture.ndim == 2 else "rgb"
            file.write(picture, photometric=kind, resolution=(100 + number, 100), resolutionunit=2)
    pages = opened(path)
    assert pages.timing() is None
    assert [(one.height, one.width) for one in pages.headers()] == [(7, 9), (12, 5), (4, 4)]
    assert write(tmp_path / "b.tif", list(pages), None) == ()
    for name in ("a.tif", "b.tif"):
        images = list(opened(tmp_path / name))
        assert [image.grey for image in images] == [False, True, False]
        assert [image.dpi for image in images] == [(100.0 + n, 100.0) for n in range(3)]
        for number, (image, wanted) in enumerate(zip(images, pictures, strict=True)):
            np.testing.assert_array_equal(
                image.pixels, wanted if wanted.ndim == 3 else wanted[..., None].repeat(3, 2)
            )
            np.testing.assert_array_equal(tifffile.imread(tmp_path / name, key=number), wanted)


def test_reduced_copies_are_no_pages(tmp_path: Path) -> None:
    parts = [page(noise(3, n), 2, {254: [n % 2]}) for n in range(4)]
    (tmp_path / "a.tif").write_bytes(tiff(*parts))
    images = list(opened(tmp_path / "a.tif"))
    for image, seed in zip(images, (0, 2), strict=True):
        np.testing.assert_array_equal(image.pixels, noise(3, seed))


def test_what_is_beside_pages_is_kept(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for number in range(2):
            file.write(noise(3), description=f"page {number}", metadata=None)
    write(tmp_path / "b.tif", list(opened(tmp_path / "a.tif")), None)
    with tifffile.TiffFile(tmp_path / "b.tif") as file:
        assert [one.description for one in file.pages] == ["page 0", "page 1"]  # type: ignore[union-attr]


def test_a_file_of_one_picture_has_no_pages(tmp_path: Path) -> None:
    for kind in ("PNG", "WEBP", "TIFF", "GIF", "JPEG"):
        PIL.Image.fromarray(noise(3)).save(tmp_path / "a", kind)
        assert open_pages(tmp_path / "a") is None


@pytest.mark.parametrize("kind", [*ANIMATIONS, "TIFF"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.8, 0.97])
def test_frames_that_are_cut_short_are_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = animation(tmp_path / "a", kind, frames(kind))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ImageError, match=ONE_LINE):
        pages = open_pages(path)
        list(pages) if pages is not None else read_image(path)


@pytest.mark.parametrize("kind", [*ANIMATIONS, "TIFF"])
def test_damaged_frames_are_refused_or_read(tmp_path: Path, kind: str) -> None:
    path = animation(tmp_path / "a", kind, frames(kind))
    whole = path.read_bytes()
    chance = np.random.default_rng(3)
    for _ in range(25):
        data = bytearray(whole)
        for place in chance.integers(0, len(data), 3):
            data[place] ^= 1 << int(chance.integers(8))
        path.write_bytes(data)
        try:
            pages = open_pages(path, max_pixels=10_000)
            list(pages) if pages is not None else read_image(path, max_pixels=10_000)
        except ImageError as error:
            assert "\n" not in str(error)


def test_a_frame_outside_of_the_picture_is_refused(tmp_path: Path) -> None:
    data = apng([noise(4, seed) for seed in range(2)], blend=0)
    place = data.rindex(b"fcTL")
    content = bytearray(data[place + 4 : place + 30])
    content[12:16] = struct.pack(">I", 5)
    moved = data[: place - 4] + chunk(b"fcTL", bytes(content)) + data[place + 34 :]
    (tmp_path / "a.png").write_bytes(moved)
    with pytest.raises(ImageError, match="its frames are damaged"):
        open_pages(tmp_path / "a.png")


def test_a_bomb_of_frames_is_not_decoded(tmp_path: Path) -> None:
    path = animation(tmp_path / "a", "WEBP", frames("WEBP"))
    with pytest.raises(ImageError, match="says it is 24x16; expected"):
        open_pages(path, max_pixels=100)


# The command


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", [*ANIMATIONS, "TIFF"])
def test_all_frames_are_upscaled_as_each_alone(model: str, folder: Path, kind: str) -> None:
    suffix = kind.lower()
    animation(Path(f"a.{suffix}"), kind, frames(kind))
    assert main(["upscale", f"a.{suffix}", "-n", model, "--pages", "all", "-o", "a_x4.tif"]) == 0
    for number, picture in enumerate(frames(kind)):
        picture.convert("RGB").save("one.png")
        assert main(["upscale", "one.png", "-n", model, "-o", "x.png", "--overwrite"]) == 0
        expected = np.asarray(PIL.Image.open("x.png"))
        np.testing.assert_array_equal(tifffile.imread("a_x4.tif", key=number), expected)


def test_samples_of_frames_are_files_of_frames(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    animation(Path("a.gif"), "GIF", frames("GIF"))
    command = ["upscale", "a.gif", "-n", model, "--pages", "all", "--samples", "2"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"a.gif -> a_x4_{n}.gif" for n in (1, 2)]
    for number in (1, 2):
        with PIL.Image.open(f"a_x4_{number}.gif") as made:
            assert (made.size, made.n_frames) == ((96, 64), 3)  # type: ignore[attr-defined]
            assert (made.info["loop"], made.info["duration"]) == (2, 50)
    assert list(folder.glob(".*")) == []


def test_a_result_that_another_run_makes_meanwhile_is_already_there(
    model: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Joined.write

    def beside_another(self: Joined, *arguments: Any, **options: Any) -> Any:
        Path("in/a_x4.gif").write_bytes(b"of the other")
        return write(self, *arguments, **options)

    Path("in").mkdir()
    for name in ("in/a.gif", "in/b.gif"):
        animation(Path(name), "GIF", frames("GIF"))
    monkeypatch.setattr(Joined, "write", beside_another)
    assert main(["upscale", "in", "-n", model, "--pages", "all"]) == 0
    assert capsys.readouterr().err.splitlines()[-1] == "bidiffsr: 1 done, 1 already there"
    assert Path("in/a_x4.gif").read_bytes() == b"of the other"
    names = ["a.gif", "a_x4.gif", "b.gif", "b_x4.gif"]
    assert sorted(path.name for path in Path("in").iterdir()) == names


def test_what_cannot_hold_frames_is_refused_before_the_work(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    animation(Path("a.gif"), "GIF", frames("GIF"))
    plain = ["upscale", "a.gif", "-n", model]
    for extra in (["--format", "jpeg"], ["--format", "jpeg", "--dry-run"]):
        assert main([*plain, "--pages", "all", *extra]) == 1
        error = capsys.readouterr().err
        assert "a_x4.jpg: JPEG holds one picture, and there are 3; write one of .png" in error
    assert main(plain) == 1
    assert "a.gif: holds 3 pages or frames; expected one; ask for all" in capsys.readouterr().err
    for wrong in (["--mean", "--samples", "2"], ["--uncertainty", "--samples", "2"]):
        assert main([*plain, "--pages", "all", *wrong]) == 2
        assert "--pages: got it beside --" in capsys.readouterr().err
    with tifffile.TiffWriter("b.tif") as file:
        for side in (4, 5):
            file.write(noise(3, 0, side, 8), photometric="rgb")
    assert main(["upscale", "b.tif", "-n", model, "--pages", "all", "--format", "png"]) == 1
    assert "holds frames of one size, and the pages are of 2; write .tif" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["a.gif", "b.tif"]
    assert main(["upscale", "b.tif", "-n", model, "--pages", "all", "--dry-run"]) == 0
    assert "b.tif -> b_x4.tif (32x16)" in capsys.readouterr().out


def test_frames_of_several_kinds_are_refused(tmp_path: Path) -> None:
    with Joined(tmp_path / "a.png", Compression()) as joined:
        joined.add(Image(noise(3)))
        with pytest.raises(OutputError, match="page 2 has another depth"):
            joined.add(Image(noise(3), grey=True))


def test_a_damaged_page_leaves_no_result(
    model: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = animation(Path("a.tif"), "TIFF", frames("TIFF"), compression="tiff_adobe_deflate")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        start = file.pages[2].dataoffsets[0]  # type: ignore[union-attr]
    data[start : start + 40] = bytes(40)
    path.write_bytes(data)
    assert main(["upscale", "a.tif", "-n", model, "--pages", "all"]) == 1
    assert "a.tif: page 3: damaged or cut short" in capsys.readouterr().err
    assert [entry.name for entry in folder.iterdir()] == ["a.tif"]


def test_the_option_takes_nothing_else() -> None:
    with pytest.raises(OptionError, match="pages"):
        FileOptions(pages="some")  # type: ignore[arg-type]

"""OpenEXR: files of its own library both ways; what is refused by name; damaged and hostile."""

from __future__ import annotations

import importlib
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images import Image, decode_image, encode_image, exr, read_image, write_image
from bidiffsr.images.decode import image_header
from image_files import check_damage, smooth

OpenEXR: Any = None
with suppress(ImportError):
    OpenEXR = importlib.import_module("OpenEXR")
OpenImageIO: Any = None
with suppress(ImportError):
    OpenImageIO = importlib.import_module("OpenImageIO")

pytestmark = [
    pytest.mark.skipif(OpenEXR is None, reason="OpenEXR is not installed"),
    pytest.mark.skipif(OpenImageIO is None, reason="OpenImageIO is not installed ([exr])"),
]

LOSSLESS = ["NO", "RLE", "ZIPS", "ZIP", "PIZ"]
LOSSY = ["B44", "B44A", "DWAA", "DWAB"]
HEIGHT, WIDTH = 37, 53


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "a.exr"


def light(channels: str, dtype: Any = np.float32, seed: int = 0) -> NDArray[Any]:
    """(H, W, C) of [0, 1], associated with alpha, which is 0 somewhere, where it is the last."""
    found = np.random.default_rng(seed).random((HEIGHT, WIDTH, len(channels)))
    found[0, :2] = [[0], [1]]
    if channels[-1] == "A":
        found[1, :9, -1] = 0
        found[..., :-1] *= found[..., -1:]
    return found.astype(dtype)


def written(path: Path, samples: NDArray[Any], channels: str, **header: Any) -> bytes:
    """A file by OpenEXR's own bindings; `compression` without its ending, `tile` as (y, x)."""
    named = header.pop("compression", "ZIP")
    header["compression"] = getattr(OpenEXR, f"{named}_COMPRESSION")
    header["type"] = OpenEXR.scanlineimage
    if tile := header.pop("tile", None):
        header["type"], header["tiles"] = OpenEXR.tiledimage, OpenEXR.TileDescription()
        header["tiles"].ySize, header["tiles"].xSize = tile
    planes = {name: samples[..., index].copy() for index, name in enumerate(channels)}
    OpenEXR.File(header, planes).write(str(path))
    return path.read_bytes()


def by_hand(samples: NDArray[Any], channels: str) -> NDArray[np.float64]:
    """What they should be read as: IEC 61966-2-1 by numpy, after the division by alpha."""
    values = samples.astype(np.float64)
    if channels[-1] == "A":
        alpha = values[..., -1:]
        values = np.where(alpha > 0, values[..., :-1] / np.where(alpha > 0, alpha, 1), 0)
    values = np.clip(values, 0, 1)
    return 65535 * np.where(
        values <= 0.0031308, 12.92 * values, 1.055 * np.maximum(values, 1e-9) ** (1 / 2.4) - 0.055
    )


def says(data: bytes, why: str) -> None:
    with pytest.raises(ImageError, match=rf"^a\.exr: [^\n]*{why}[^\n]*$"):
        decode_image(data, name="a.exr")


# What others write


@pytest.mark.parametrize("channels", ["RGB", "RGBA", "Y", "YA"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("tile", [None, (16, 9), (64, 64)])
@pytest.mark.parametrize("compression", LOSSLESS)
def test_what_its_own_library_writes_is_read(
    compression: str, tile: Any, dtype: Any, channels: str, place: Path
) -> None:
    samples = light(channels, dtype)
    data = written(place, samples, channels, compression=compression, tile=tile)
    header, read = image_header(data), read_image(place)
    assert (header.height, header.width, header.sample_bytes) == (HEIGHT, WIDTH, 2)
    assert header.has_alpha == (read.alpha is not None) == (channels[-1] == "A")
    assert (read.pixels.dtype, read.icc, read.dpi) == (np.uint16, None, None)
    assert read.grey == (channels[0] == "Y")
    wanted = by_hand(samples, channels)
    assert np.abs(read.pixels - wanted).max() <= 1
    if read.alpha is not None:
        assert np.abs(read.alpha - 65535 * samples[..., -1].astype(float)).max() <= 0.51


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_24_bits_of_floats_are_as_good(dtype: Any, place: Path) -> None:
    samples = light("RGBA", dtype)
    read = decode_image(written(place, samples, "RGBA", compression="PXR24"))
    assert np.abs(read.pixels - by_hand(samples, "RGBA")).max() <= 8


@pytest.mark.parametrize("compression", LOSSY)
def test_what_goes_beyond_white_beside_an_edge_is_clipped(compression: str, place: Path) -> None:
    y, x = np.mgrid[:64, :64]
    disc = np.clip((24 - np.hypot(x - 32, y - 32)) / 6, 0, 1)
    samples = np.stack([disc, 0.7 * disc, disc * x / 64, disc], axis=2).astype(np.float16)
    data = written(place, samples, "RGBA", compression=compression)
    stored = OpenEXR.File(str(place), separate_channels=True).channels()
    assert (stored["G"].pixels > stored["A"].pixels).any() or stored["R"].pixels.max() > 1
    seen = samples[..., 3] > 0.5
    read = decode_image(data)
    assert np.abs(read.pixels - by_hand(samples, "RGBA"))[seen].mean() < 700
    assert read.pixels[seen][:, 0].mean() > 64500


@pytest.mark.parametrize("order", ["INCREASING_Y", "DECREASING_Y"])
@pytest.mark.parametrize("compression", ["NO", "ZIP"])
def test_order_of_rows_and_where_they_begin(order: str, compression: str, place: Path) -> None:
    samples = light("RGB")
    first, last = (-7, 11), (-7 + WIDTH - 1, 11 + HEIGHT - 1)
    window = {"dataWindow": (first, last), "displayWindow": (first, last)}
    order = getattr(OpenEXR, order)
    data = written(place, samples, "RGB", compression=compression, lineOrder=order, **window)
    assert np.abs(decode_image(data).pixels - by_hand(samples, "RGB")).max() <= 1


def test_channels_may_differ_in_precision(place: Path) -> None:
    samples = light("RGBA")
    planes = {name: samples[..., index].copy() for index, name in enumerate("RGBA")}
    planes["A"] = np.ones((HEIGHT, WIDTH), np.float16)
    OpenEXR.File({}, planes).write(str(place))
    assert np.abs(read_image(place).pixels - by_hand(samples[..., :3], "RGB")).max() <= 1


def test_of_several_levels_of_resolution_the_first_is_the_picture(place: Path) -> None:
    samples = light("RGB")
    texture = OpenImageIO.ImageSpec()
    texture.attribute("maketx:resize", 0)
    texture.attribute("maketx:forcefloat", 1)
    texture.tile_width = texture.tile_height = 16
    buffer = OpenImageIO.ImageBuf(np.ascontiguousarray(samples))
    kind = OpenImageIO.MakeTxTexture
    assert OpenImageIO.ImageBufAlgo.make_texture(kind, buffer, str(place), texture)
    assert OpenImageIO.ImageBuf(str(place)).nmiplevels > 3
    read = read_image(place)
    assert np.abs(read.pixels - by_hand(samples, "RGB")).max() <= 1


def test_a_picture_of_one_pixel(place: Path) -> None:
    OpenEXR.File({}, {"Y": np.full((1, 1), 0.2140411, np.float32)}).write(str(place))
    np.testing.assert_allclose(read_image(place).pixels, 32768, atol=1)


def test_density_and_shape_of_pixels_are_the_resolution(place: Path) -> None:
    samples = light("Y")
    assert decode_image(written(place, samples, "Y", xDensity=300.0)).dpi == (300.0, 300.0)
    ratio = {"xDensity": 300.0, "pixelAspectRatio": 0.5}
    assert decode_image(written(place, samples, "Y", **ratio)).dpi == (300.0, 150.0)
    assert decode_image(written(place, samples, "Y", pixelAspectRatio=2.0)).dpi == (72.0, 144.0)


# Colours


P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.3127, 0.3290)
# P3's primaries to Rec. 709's under D65, as published with ten decimals.
P3_TO_709 = [
    [1.2249401763, -0.2249401763, 0],
    [-0.0420569547, 1.0420569547, 0],
    [-0.0196375546, -0.0786360456, 1.0982736001],
]
REC_709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.3290)


def test_other_primaries_become_those_of_rec_709_and_are_clipped_to_them(place: Path) -> None:
    samples = light("RGB")
    data = written(place, samples, "RGB", chromaticities=P3)
    wanted = by_hand(samples.astype(np.float64) @ np.array(P3_TO_709).T, "RGB")
    read = decode_image(data).pixels
    assert np.abs(read - wanted).max() <= 1
    assert (read[samples @ np.array(P3_TO_709[0]) > 1.001, 0] == 65535).all()
    plain = decode_image(written(place, samples, "RGB", chromaticities=REC_709)).pixels
    assert np.abs(plain - by_hand(samples, "RGB")).max() <= 1
    grey = decode_image(written(place, light("Y"), "Y", chromaticities=P3)).pixels
    assert np.abs(grey - by_hand(light("Y"), "Y")).max() <= 1


@pytest.mark.parametrize(
    ("space", "refused"),
    [("lin_rec709_scene", False), ("unknown", False), ("lin_ap1_scene", True), ("srgb", True)],
)
def test_a_space_that_has_a_name_alone(space: str, refused: bool, place: Path) -> None:
    data = written(place, light("RGB"), "RGB", colorInteropID=space)
    if refused:
        says(data, f"holds colours of {space}")
    else:
        decode_image(data)


@pytest.mark.parametrize("value", [1.5, -0.25, float("nan"), float("inf")])
def test_light_that_is_none_of_a_picture_is_refused(value: float, place: Path) -> None:
    samples = light("RGB")
    samples[3, 4, 1] = value
    says(written(place, samples, "RGB"), "holds light from .*, where white is 1")


@pytest.mark.parametrize("value", [1.01, -0.25, float("nan")])
def test_alpha_that_is_none_is_refused(value: float, place: Path) -> None:
    samples = light("RGBA") * 0
    samples[3, 4, 3] = value
    says(written(place, samples, "RGBA"), "holds alpha below 0 or above 1")


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_light_of_more_than_its_alpha_is_refused(alpha: float, place: Path) -> None:
    samples = light("RGBA") * 0
    samples[3, 4] = (0, 0.6, 0, alpha)
    says(written(place, samples, "RGBA"), "light of more than its alpha")


# Other kinds, each by its name


@pytest.mark.parametrize(
    "names",
    ["Z", "RG", "A", "RGBZ", "Y R", "Y RY BY", "a.R a.G a.B", "R G B a.A", "r g b", "RGBAY"],
)
def test_other_channels_are_named(names: str, place: Path) -> None:
    known = names.split() if " " in names else list(names)
    OpenEXR.File({}, {name: np.zeros((4, 4), np.float16) for name in known}).write(str(place))
    listed = ", ".join(sorted(known)).replace(".", r"\.")
    says(place.read_bytes(), rf"holds other channels than R, G, B or Y, and A \({listed}\)")


def test_names_of_channels_cannot_forge_output(place: Path) -> None:
    OpenEXR.File({}, {"\x1b[1m\n": np.zeros((4, 4), np.float16)}).write(str(place))
    says(place.read_bytes(), r"\(\\x1b\[1m\\n\)")


def test_whole_numbers_are_refused(place: Path) -> None:
    OpenEXR.File({}, {"Y": np.zeros((4, 4), np.uint32)}).write(str(place))
    says(place.read_bytes(), "holds whole numbers")


def test_channels_of_less_resolution_are_refused(place: Path) -> None:
    data = bytearray(written(place, light("RGB"), "RGB"))
    at = data.index(b"B\0" + struct.pack("<iB3x2i", 2, 0, 1, 1)) + 2 + 8
    data[at : at + 8] = struct.pack("<2i", 2, 2)
    says(bytes(data), "channels of less resolution")


def test_windows_that_differ_are_refused(place: Path) -> None:
    data = written(place, light("Y"), "Y", displayWindow=((0, 0), (99, 99)))
    says(data, r"samples of the window \(0, 0, 52, 36\), of which \(0, 0, 99, 99\) is to be")


def test_several_parts_and_deep_samples_are_refused(place: Path) -> None:
    planes = {"Y": np.zeros((4, 4), np.float16)}
    OpenEXR.File([OpenEXR.Part({}, planes, name) for name in "ab"]).write(str(place))
    says(place.read_bytes(), "holds several parts")
    data = bytearray(written(place, light("Y"), "Y"))
    data[5] |= 8
    says(bytes(data), "holds deep samples")
    data[4], data[5] = 3, 0
    says(bytes(data), r"of an unknown version \(0x3\)")


@pytest.mark.parametrize(("name", "number"), [("HTJ2K256", 10), ("HTJ2K32", 11), ("ZSTD", 13)])
def test_a_compression_that_is_not_read_is_named(name: str, number: int, place: Path) -> None:
    if not hasattr(OpenEXR, f"{name}_COMPRESSION"):
        pytest.skip("this OpenEXR does not write it")
    data = written(place, light("Y"), "Y", compression=name)
    says(data, rf"not read \(number {number}\); expected one that OpenEXR 3\.3 knows, such as")


def test_a_compression_that_is_not_known_is_named(place: Path) -> None:
    data = written(place, light("Y"), "Y")
    place_of = data.index(b"compression\0compression\0\1\0\0\0") + 28
    says(data[:place_of] + b"\x0d" + data[place_of + 1 :], r"not read \(number 13\)")


# Damaged and hostile


def files(folder: Path) -> list[bytes]:
    kinds = [("NO", None), ("ZIP", None), ("PIZ", (16, 9)), ("DWAA", None), ("RLE", (64, 64))]
    kinds += [("ZIPS", (16, 9)), ("PXR24", None), ("B44", None), ("B44A", (16, 9)), ("DWAB", None)]
    return [
        written(folder / "b.exr", light("RGBA", np.float16), "RGBA", compression=name, tile=tile)
        for name, tile in kinds
    ]


@given(st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_file_that_is_cut_short_is_refused(place: Path, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from(files(place.parent)))
    kept = data.draw(st.integers(4, len(whole) - 1))
    says(whole[:kept], "damaged or cut short")


@pytest.mark.parametrize("number", range(10))
def test_damaged_files_are_refused_or_read(
    number: int, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = files(place.parent)[number]
    check_damage(whole, tries=60)
    check_damage(whole, tries=60, end=500)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("tile", [None, (16, 9)])
@pytest.mark.parametrize("value", [0, 1, 1 << 40, (1 << 64) - 1])
def test_a_block_that_is_missing_is_no_black_one(tile: Any, value: int, place: Path) -> None:
    """As a renderer leaves a file that is stopped, or whose disk is full."""
    data = bytearray(written(place, light("RGB"), "RGB", tile=tile))
    table = len(exr._head_of(bytes(data)).whole)
    assert 0 < struct.unpack_from("<Q", data, table)[0] < len(data)
    data[table + 8 : table + 16] = struct.pack("<Q", value)
    says(bytes(data), "damaged or cut short")
    # Twice the same block, each of them whole.
    data[table + 8 : table + 16] = data[table : table + 8]
    says(bytes(data), "its table of offsets leads elsewhere")


def with_value(data: bytes, name: bytes, kind: bytes, value: bytes) -> bytes:
    start = data.index(name + b"\0" + kind + b"\0") + len(name) + len(kind) + 6
    return data[:start] + value + data[start + len(value) :]


def test_a_bomb_is_not_unpacked(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(place, light("Y"), "Y")
    monkeypatch.setattr(OpenImageIO, "ImageInput", None)
    with pytest.raises(ImageError, match=r"says it is 53x37; expected at most 1960 pixels"):
        decode_image(data, max_pixels=1960)
    assert image_header(data).width == WIDTH
    for size in ((1 << 30, 1 << 30), (9_999_999, 9_999_999), (9, 9_999_999), (-2, 4)):
        window = struct.pack("<4i", 0, 0, size[0], size[1])
        for name in (b"dataWindow", b"displayWindow"):
            data = with_value(data, name, b"box2i", window)
        says(data, "damaged or cut short")


@pytest.mark.parametrize("side", [0, 1 << 20, (1 << 32) - 1])
def test_tiles_that_are_none_are_refused(side: int, place: Path) -> None:
    data = written(place, light("Y"), "Y", tile=(16, 16))
    says(with_value(data, b"tiles", b"tiledesc", struct.pack("<2I", side, side)), "its tiles are")


def test_headers_that_are_none(place: Path) -> None:
    data = written(place, light("Y"), "Y", chromaticities=P3)
    start = data[:8]
    for header, why in {
        b"\0": "its channels is missing",
        b"a\0b\0" + struct.pack("<i", -1): "cut short",
        b"a\0b\0" + struct.pack("<i", 1 << 30): "cut short",
        b"a\0b\0\0\0\0\0" * 2: "says a thing twice",
        b"a" * 300: "cut short or none",
        b"\1": "cut short or none",
    }.items():
        says(start + header, why)
    many = b"".join(b"%d\0b\0\0\0\0\0" % number for number in range(20_000))
    says(start + many + data[8:], "its header has no end")
    nan = struct.pack("<f", float("nan"))
    says(with_value(data, b"chromaticities", b"chromaticities", nan), "chromaticities are none")
    for value in (nan, bytes(4)):
        says(with_value(data, b"pixelAspectRatio", b"float", value), "shape of its pixels")
    plain = encode_image(Image(smooth()), ".exr")
    deep = b"type\0string\0" + struct.pack("<i", 12) + b"deepscanline"
    says(plain[:8] + deep + plain[8:], "holds samples that are no picture's")


def test_what_else_a_header_says_is_not_handed_on(place: Path) -> None:
    """So that a decoder meets nothing in it that has not been looked at."""
    data = written(place, light("Y"), "Y", owner="somebody", comments="x" * 5000)
    assert b"somebody" in data
    head = exr._head_of(data)
    assert b"somebody" not in head.whole
    assert data[len(head.whole) - 1] == head.whole[-1] == 0
    assert np.abs(decode_image(data).pixels - by_hand(light("Y"), "Y")).max() <= 1


def test_without_the_extra_one_line_names_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "OpenImageIO", None)
    write_image(place, Image(smooth()))
    with pytest.raises(ImageError, match=r"a\.exr: is OpenEXR, which .* 'bidiffsr\[exr\]'") as said:
        read_image(place)
    assert "\n" not in str(said.value)


# What is written


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", ["Y", "YA", "RGB", "RGBA"])
@pytest.mark.parametrize("shape", [(1, 1), (16, 7), (17, 5), (33, 300)])
def test_its_own_library_reads_what_is_written(
    shape: tuple[int, int], channels: str, dtype: Any, place: Path
) -> None:
    most = int(np.iinfo(dtype).max)
    noise = np.random.default_rng(0).integers(0, most + 1, (*shape, 4)).astype(dtype)
    grey = channels[0] == "Y"
    colours = np.repeat(noise[..., :1], 3, axis=2) if grey else noise[..., :3]
    alpha = noise[..., 3] if channels[-1] == "A" else None
    write_image(place, Image(colours, alpha, grey, dpi=(300.0, 150.0)))
    file = OpenEXR.File(str(place), separate_channels=True)
    planes = {name: channel.pixels for name, channel in file.channels().items()}
    assert set(planes) == set(channels)
    assert {plane.dtype for plane in planes.values()} == {np.dtype(np.float16)}
    header = file.header()
    assert (header["xDensity"], header["pixelAspectRatio"]) == (300.0, 0.5)
    opacity = np.ones(shape) if alpha is None else alpha / most
    values = noise / most
    bright = ((values + 0.055) / 1.055) ** 2.4
    wanted = np.where(values <= 0.04045, values / 12.92, bright) * opacity[..., None]
    for index, name in enumerate("Y" if grey else "RGB"):
        np.testing.assert_allclose(planes[name], wanted[..., index], rtol=2**-11, atol=2**-25)
    if alpha is not None:
        np.testing.assert_allclose(planes["A"], opacity, rtol=2**-11)
    back = read_image(place)
    assert (back.grey, back.dpi) == (grey, (300.0, 150.0))
    seen = opacity > 0.1
    assert np.abs(back.pixels / 65535 - colours / most)[seen].max() < 1 / 2000
    if dtype == np.uint8:
        assert np.abs(np.rint(back.pixels / 257) - colours)[opacity == 1].max(initial=0) == 0


def test_every_shade_of_8_bits_comes_back() -> None:
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image(np.repeat(shades[..., None], 3, axis=2), shades.T.copy())
    opaque = decode_image(encode_image(Image(image.pixels), ".exr"))
    np.testing.assert_array_equal(np.rint(opaque.pixels / 257), image.pixels)
    back = decode_image(encode_image(image, ".exr"))
    np.testing.assert_array_equal(np.rint(back.alpha / 257), image.alpha)  # type: ignore[operator]


def test_files_are_small_and_the_same_each_time() -> None:
    flat = Image(np.full((200, 300, 3), 77, np.uint8))
    data = encode_image(flat, ".exr")
    assert data == encode_image(flat, ".exr")
    assert len(data) < 4000


def test_rows_that_come_a_few_at_a_time_make_the_same_file(place: Path) -> None:
    samples = np.random.default_rng(0).integers(0, 256, (50, 7, 3)).astype(np.uint8)
    made = set[bytes]()
    for rows in (1, 7, 16, 33, 50):
        with place.open("w+b") as file:
            strips = (samples[top : top + rows] for top in range(0, 50, rows))
            exr.write(file, strips, 50, 7)
        made.add(place.read_bytes())
    assert len(made) == 1

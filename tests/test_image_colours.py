"""Every mode, depth, colour description and kind of alpha is read right, or refused by name."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import ImageCms

from bidiffsr.errors import ImageError
from bidiffsr.images import Image, decode_image
from image_files import (
    BITS,
    COMPRESSION,
    EXTRA,
    INK_SET,
    PALETTE,
    PRIMARIES,
    PROFILE,
    SAMPLE_FORMAT,
    WHITE_POINT,
    chunk,
    page,
    png,
    tiff,
)

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, INDEXED, MASK, INKS, YCC = range(7)
LAB, ICC_LAB, ITU_LAB = 8, 9, 10
ASSOCIATED, UNASSOCIATED = 1, 2

BT709 = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
ADOBE = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(*shape: int, dtype: Any = np.uint8, below: int = 0) -> NDArray[Any]:
    top = below or int(np.iinfo(dtype).max) + 1
    return np.random.default_rng(len(shape)).integers(0, top, shape).astype(dtype)


def check(read: Image, colours: NDArray[Any], alpha: NDArray[Any] | None, atol: int = 0) -> None:
    assert read.pixels.dtype == colours.dtype
    expected = np.broadcast_to(colours.reshape(*colours.shape[:2], -1), read.pixels.shape)
    np.testing.assert_allclose(read.pixels.astype(int), expected.astype(int), atol=atol)
    assert (read.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_array_equal(read.alpha, alpha)  # type: ignore[arg-type]


def gama(value: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chrm(points: tuple[float, ...]) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in points)))


def srgb_curve(light: NDArray[Any]) -> NDArray[Any]:
    """The published formula, one value at a time."""
    curve = [12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in light.flat]
    return np.reshape(curve, light.shape)


# TIFF: what its specification says of the samples, against what is read


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [None, ASSOCIATED, UNASSOCIATED])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO, RGB])
def test_grey_and_rgb_tiffs(dtype: Any, extra: int | None, photometric: int) -> None:
    top = int(np.iinfo(dtype).max)
    colours = noise(6, 7, 3 if photometric == RGB else 1, dtype=dtype)
    stored, alpha = colours, None
    if photometric == WHITE_IS_ZERO:
        colours = top - colours
    if extra is not None:
        alpha = noise(6, 7, dtype=dtype)
        if extra == ASSOCIATED:
            weighted = np.round(colours * (alpha[..., None] / top))
            stored = weighted.astype(dtype)
            back = weighted * top / np.maximum(alpha[..., None], 1)
            colours = np.where(alpha[..., None] > 0, np.clip(back, 0, top), 0).astype(dtype)
        stored = np.concatenate([stored, alpha[..., None]], axis=2)
    data = tiff(page(stored, photometric, {EXTRA: [extra]} if extra else {}))
    if photometric == WHITE_IS_ZERO and extra == ASSOCIATED:  # whether white is weighted or black
        with pytest.raises(ImageError, match="not stated to be alpha"):
            decode_image(data)
        return
    read = decode_image(data)
    check(read, colours, alpha, atol=extra == ASSOCIATED)
    assert read.grey == (photometric != RGB)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", [WHITE_IS_ZERO, BLACK_IS_ZERO])
def test_few_bits_are_spread_over_eight(bits: int, photometric: int) -> None:
    top = (1 << bits) - 1
    samples = noise(6, 8, below=top + 1)
    grey = (samples.astype(int) if photometric else top - samples.astype(int)) * 255 // top
    read = decode_image(tiff(page(samples, photometric, {BITS: [bits]})))
    check(read, grey.astype(np.uint8), None)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_palettes(bits: int, with_alpha: bool) -> None:
    palette = noise(3, 1 << bits)
    samples = noise(6, 8, below=1 << bits)
    tags: dict[int, Any] = {BITS: [bits], PALETTE: [*(palette.astype(int) * 257).flat]}
    colours, alpha = palette.T[samples], None
    if with_alpha:
        alpha = noise(6, 8)
        samples = np.stack([samples, alpha], axis=2)
        tags |= {BITS: [bits, bits], EXTRA: [UNASSOCIATED]}
        if bits < 8:
            with pytest.raises(ImageError, match=f"palette samples of {bits} bits"):
                decode_image(tiff(page(samples, INDEXED, tags)))
            return
    check(decode_image(tiff(page(samples, INDEXED, tags))), colours, alpha)


def lab_of_srgb(pixels: NDArray[Any]) -> NDArray[Any]:
    """L*, a* and b* in 8 bits, a* and b* in two's complement, by another colour engine."""
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    transform = ImageCms.buildTransform(srgb, lab, "RGB", "LAB")
    converted = ImageCms.applyTransform(PIL.Image.fromarray(pixels), transform)
    assert converted is not None
    return np.asarray(converted)


@pytest.mark.parametrize("extra", [None, UNASSOCIATED])
@pytest.mark.parametrize("photometric", [LAB, ICC_LAB])
@pytest.mark.parametrize("wide", [False, True])
def test_lab_becomes_srgb(extra: int | None, photometric: int, wide: bool) -> None:
    pixels = noise(40, 30, 3)
    lab = lab_of_srgb(pixels).astype(int)
    lightness, opponents = lab[..., :1], (lab[..., 1:] + 128) % 256 - 128
    if wide:
        lightness = lightness * (0xFF00 if photometric == ICC_LAB else 0xFFFF) // 255
        opponents = opponents * 256
    if photometric == ICC_LAB:
        opponents = opponents + (32768 if wide else 128)
    dtype = np.uint16 if wide else np.uint8
    samples = np.concatenate([lightness, opponents], axis=2).astype(dtype)
    alpha, tags = None, {}
    if extra:
        alpha, tags = noise(40, 30, dtype=dtype), {EXTRA: [extra]}
        samples = np.concatenate([samples, alpha[..., None]], axis=2)
    read = decode_image(tiff(page(samples, photometric, {**tags, PROFILE: SRGB_PROFILE})))
    eight = np.round(read.pixels / (257 if wide else 1))
    difference = np.abs(eight - pixels)
    assert difference.mean() < 1, "the 8 bits of L*a*b* alone make half a step"
    assert difference.max() < 16
    np.testing.assert_array_equal(read.alpha, alpha)  # type: ignore[arg-type]
    assert read.icc != SRGB_PROFILE, "which does not explain L*a*b*"


@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_cmyk_and_its_alpha(with_alpha: bool, dtype: Any) -> None:
    top = np.iinfo(dtype).max
    inks = np.zeros((4, 5, 4), dtype)
    inks[:, 2:, 3] = top  # white paper, then black
    alpha, tags = None, {}
    if with_alpha:
        alpha, tags = noise(4, 5, dtype=dtype), {EXTRA: [UNASSOCIATED]}
        inks = np.concatenate([inks, alpha[..., None]], axis=2)
    read = decode_image(tiff(page(inks, INKS, tags)))
    assert read.pixels.dtype == dtype
    assert read.pixels[:, :2].min() > 0.9 * top
    assert read.pixels[:, 2:].max() < 0.3 * top
    np.testing.assert_array_equal(read.alpha, alpha)  # type: ignore[arg-type]


REFUSED: list[tuple[str, NDArray[Any], int, dict[int, Any], str]] = [
    ("RGB and a band of no meaning", noise(4, 5, 4), RGB, {EXTRA: [0]}, "not stated to be alpha"),
    ("RGB and an unstated band", noise(4, 5, 4), RGB, {}, "not stated to be alpha"),
    ("RGB, alpha and a band", noise(4, 5, 5), RGB, {EXTRA: [2, 0]}, "5 samples"),
    ("grey and a band of no meaning", noise(4, 5, 2), 1, {EXTRA: [0]}, "not stated to be alpha"),
    ("grey and two bands", noise(4, 5, 3), 1, {EXTRA: [0, 0]}, "not stated to be alpha"),
    ("two of three colours", noise(4, 5, 2), RGB, {}, "2 samples"),
    ("RGB of 4 bits", noise(4, 5, 3, below=16), RGB, {BITS: [4, 4, 4]}, "4 bits"),
    ("RGB of 1 bit", noise(4, 5, 3, below=2), RGB, {BITS: [1, 1, 1]}, "1 bits"),
    ("RGB of mixed depth", noise(4, 5, 3), RGB, {BITS: [8, 8, 4]}, "4 and 8 bits"),
    ("grey of 10 bits", noise(4, 5, dtype=np.uint16), 1, {BITS: [10]}, "10 bits"),
    ("32 bits", noise(4, 5, dtype=np.uint16).astype(np.uint32), 1, {}, "32 bits"),
    ("signed", noise(4, 5).astype(np.int8), 1, {}, "no whole numbers from 0"),
    ("halves", noise(4, 5, 3).astype(np.float16), RGB, {}, "16 bits in floating point"),
    ("doubles", noise(4, 5, 3).astype(np.float64), RGB, {}, "64 bits in floating point"),
    ("light beyond white", np.full((4, 5, 3), 1.5, np.float32), RGB, {}, "light from 1.5 to 1.5"),
    ("no light", np.full((4, 5), np.nan, np.float32), 1, {}, "light from nan"),
    ("white as no light", np.zeros((4, 5), np.float32), WHITE_IS_ZERO, {}, "told to be colours"),
    ("weighted light", np.zeros((4, 5, 4), np.float32), RGB, {EXTRA: [ASSOCIATED]}, "not stated"),
    ("much alpha", np.full((4, 5, 2), 2, np.float32), 1, {EXTRA: [UNASSOCIATED]}, "alpha below"),
    ("light and a profile", np.zeros((4, 5, 3), np.float32), RGB, {PROFILE: SRGB_PROFILE}, "prof"),
    ("an unknown sample format", noise(4, 5), 1, {SAMPLE_FORMAT: [9]}, "no whole numbers from 0"),
    ("a palette without colours", noise(4, 5), INDEXED, {}, "palette"),
    ("a palette too short", noise(4, 5), INDEXED, {PALETTE: [0] * 48}, "palette"),
    ("a mask", noise(4, 5), MASK, {}, "mask"),
    ("other inks", noise(4, 5, 4), INKS, {INK_SET: [2]}, "other inks"),
    ("three inks", noise(4, 5, 3), INKS, {}, "3 samples"),
    ("weighted CMYK", noise(4, 5, 5), INKS, {EXTRA: [ASSOCIATED]}, "not stated to be alpha"),
    ("YCbCr without JPEG", noise(4, 5, 3), YCC, {530: [1, 1]}, "YCbCr"),
    ("ITULAB", noise(4, 5, 3), ITU_LAB, {}, "ITULAB"),
    ("grey Lab", noise(4, 5), LAB, {}, "1 samples"),
    ("weighted Lab", noise(4, 5, 4), LAB, {EXTRA: [ASSOCIATED]}, "not stated to be alpha"),
    ("a raw camera picture", noise(4, 5), 32803, {}, "raw camera"),
    ("linear raw", noise(4, 5, 3), 34892, {}, "raw camera"),
    ("an unknown interpretation", noise(4, 5, 3), 77, {}, "77"),
]


@pytest.mark.parametrize(
    ("samples", "photometric", "tags", "message"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_tiffs_of_other_kinds_are_refused_by_name(
    samples: NDArray[Any], photometric: int, tags: dict[int, Any], message: str
) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        decode_image(tiff(page(samples, photometric, tags)), name="scan.tif")
    assert str(caught.value).startswith("scan.tif: holds ")
    assert "damaged" not in str(caught.value)


@pytest.mark.parametrize("turned", [1, 6, 9])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_floats_of_a_tiff_are_linear_light(channels: int, order: Any, turned: int) -> None:
    light = np.random.default_rng(0).random((5, 7, channels), np.float32)
    light[0, :2] = [[0.0], [1.0]]
    file = io.BytesIO()
    tifffile.imwrite(
        *(file, light.squeeze()),
        byteorder=order,
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig",
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        resolution=(118.11, 59.055),
        resolutionunit="CENTIMETER",
        extratags=[(274, 3, 1, turned, True)],
        metadata=None,
    )
    read = decode_image(file.getvalue())
    upright = np.rot90(light, -1) if turned == 6 else light
    colours, alpha = np.split(upright.astype(float), [channels - 1 + channels % 2], axis=2)
    curve = np.where(colours <= 0.0031308, 12.92 * colours, 1.055 * colours ** (1 / 2.4) - 0.055)
    expected_alpha = np.round(alpha[..., 0] * 65535).astype(np.uint16) if alpha.size else None
    check(read, np.round(curve * 65535).astype(np.uint16), expected_alpha, atol=1)
    assert read.grey == (channels < 3)
    assert read.icc is None
    assert read.dpi == pytest.approx((150, 300) if turned == 6 else (300, 150), rel=1e-3)


@pytest.mark.parametrize("kind", ["u1", "u2", "f4"])
@pytest.mark.parametrize("rows", [1, 4, None], ids=["rows of one", "rows of four", "one strip"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("photometric", "channels"),
    [
        *(("minisblack", 1), ("minisblack", 2), ("miniswhite", 2), ("rgb", 3), ("rgb", 4)),
        *(("separated", 4), ("separated", 5), ("cielab", 3)),
    ],
)
def test_however_samples_of_a_tiff_are_laid_out(
    photometric: str, channels: int, compression: str | None, rows: int | None, kind: str
) -> None:
    """In planes, in strips, in tiles: read alike, or refused, and nothing in between."""
    random = np.random.default_rng(0)
    light = random.random((17, 18, channels), np.float32)
    samples = light if kind == "f4" else (light * np.iinfo(kind).max).astype(kind)
    extra = ["unassalpha"] if channels in (2, 5) or (photometric, channels) == ("rgb", 4) else None

    def read(planar: str, rows: int | None, tile: Any, compression: str | None) -> Any:
        file = io.BytesIO()
        tifffile.imwrite(
            *(file, samples.transpose(2, 0, 1) if planar == "separate" else samples),
            photometric=photometric,
            planarconfig=planar if channels > 1 else None,
            extrasamples=extra,
            rowsperstrip=rows,
            tile=tile,
            compression=compression,
            predictor=compression is not None and kind != "f4",
            metadata=None,
        )
        try:
            return decode_image(file.getvalue())
        except ImageError as error:
            return str(error)

    plain = read("contig", None, None, None)
    for planar in ("contig", "separate") if channels > 1 else ("contig",):
        for tile in ((16, 16), None):
            found = read(planar, rows, tile, compression)
            if isinstance(plain, str):
                assert found == plain
            elif planar == "separate" and (tile or (channels == 2 and rows != 1)):
                assert "each in a plane of its own" in found
            else:
                check(found, plain.pixels, plain.alpha)


def test_light_in_damaged_tiffs_is_refused_or_read() -> None:
    light = np.random.default_rng(0).random((6, 5, 3), np.float32)
    data = tiff(page(light, RGB, {274: [6]}))
    random = np.random.default_rng(1)
    refused = 0
    for _ in range(400):
        changed = bytearray(data[: random.integers(len(data) // 2, len(data) + 1)])
        for _ in range(random.integers(1, 4)):
            changed[random.integers(len(changed))] ^= 1 << random.integers(8)
        try:
            decode_image(bytes(changed))
        except ImageError:
            refused += 1
    assert 100 < refused < 400


@pytest.mark.parametrize("compression", [34661, 999, 34892])
def test_an_unknown_compression_is_not_called_damage(compression: int) -> None:
    with pytest.raises(ImageError, match=r"unsupported kind.*convert it"):
        decode_image(tiff(page(noise(4, 5, 3), RGB, {COMPRESSION: [compression]})))


def test_chromaticities_of_a_tiff() -> None:
    samples = noise(6, 7, 3)
    same = page(samples, RGB, {WHITE_POINT: BT709[:2], PRIMARIES: BT709[2:]})
    check(decode_image(tiff(same)), samples, None)
    wide = {WHITE_POINT: ADOBE[:2], PRIMARIES: ADOBE[2:]}
    read = decode_image(tiff(page(samples, RGB, wide)))
    check(read, decode_image(png(samples, chrm(ADOBE))).pixels, None)
    assert (read.pixels != samples).any()
    explained = decode_image(tiff(page(samples, RGB, {**wide, PROFILE: SRGB_PROFILE})))
    check(explained, samples, None)
    assert explained.icc == SRGB_PROFILE


# PNG: colour types against another reader; descriptions against their formulas


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_colour_types(dtype: Any, channels: int) -> None:
    samples = noise(6, 7, channels, dtype=dtype)
    has_alpha = channels in (2, 4)
    alpha = samples[..., -1] if has_alpha else None
    check(decode_image(png(samples)), samples[..., : channels - has_alpha], alpha)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_a_png(dtype: Any, channels: int) -> None:
    samples = noise(6, 7, channels, dtype=dtype)
    key = samples[2, 3]
    read = decode_image(png(samples, chunk(b"tRNS", struct.pack(f">{channels}H", *key))))
    opaque = (samples != key).any(axis=2)
    assert read.alpha is not None
    np.testing.assert_array_equal(read.alpha > 0, opaque)
    np.testing.assert_array_equal(read.pixels[opaque], np.repeat(samples, 3 // channels, 2)[opaque])


@pytest.mark.parametrize("gamma", [1.0, 0.55556, 0.8, 0.3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_gamma_of_a_png(gamma: float, dtype: Any, channels: int) -> None:
    top = int(np.iinfo(dtype).max)
    samples = noise(6, 7, channels, dtype=dtype)
    has_alpha = channels in (2, 4)
    colours = samples[..., : channels - has_alpha]
    light = (colours / top) ** (1 / (round(gamma * 100_000) / 100_000))
    expected = np.floor(srgb_curve(light) * top + 0.5).astype(dtype)
    read = decode_image(png(samples, gama(gamma)))
    check(read, expected, samples[..., -1] if has_alpha else None)
    assert (read.pixels[..., : colours.shape[2]] != colours).any()


@pytest.mark.parametrize("gamma", [1 / 2.2, 0.45455, 0.45, 0.46, 0.0, 1000.0])
def test_a_gamma_that_is_srgbs_or_nonsense_changes_nothing(gamma: float) -> None:
    samples = noise(6, 7, 3)
    read = decode_image(png(samples, gama(gamma), chrm(BT709)))
    check(read, samples, None)
    assert read.icc is None


def test_primaries_of_a_png() -> None:
    """Adobe RGB's, against the matrices that its specification and sRGB's print."""
    adobe_to_xyz = np.array(
        [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    )
    xyz_to_srgb = np.array(
        [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    )
    samples = noise(60, 70, 3)
    values = samples / 255  # a gamma of 1/2.2 is taken for sRGB's curve
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    light = light @ adobe_to_xyz.T @ xyz_to_srgb.T
    expected = np.clip(np.floor(srgb_curve(np.clip(light, 0, 1)) * 255 + 0.5), 0, 255)
    read = decode_image(png(samples, gama(0.45455), chrm(ADOBE)))
    check(read, expected.astype(np.uint8), None, atol=1)
    assert read.icc is not None
    assert read.icc[16:20] == b"RGB "


def test_white_and_grey_stay_neutral_under_another_white() -> None:
    levels = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    d50 = (0.3457, 0.3585, *ADOBE[2:])
    check(decode_image(png(levels, chrm(d50))), levels, None)


@pytest.mark.parametrize(
    "points", [(0.0,) * 8, (0.3, 0.3) * 4, (0.3127, 0.329, 0.64, 0.33, 0.64, 0.33, 0.15, 0.06)]
)
def test_primaries_that_describe_nothing_are_ignored(points: tuple[float, ...]) -> None:
    samples = noise(6, 7, 3)
    check(decode_image(png(samples, chrm(points))), samples, None)


def iccp(profile: bytes) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(stream, "PNG", icc_profile=profile)
    data = stream.getvalue()
    start = data.index(b"iCCP") - 4
    return data[start : start + 12 + int.from_bytes(data[start : start + 4], "big")]


def test_what_overrules_what_in_a_png() -> None:
    samples = noise(6, 7, 3)
    linear = decode_image(png(samples, gama(1))).pixels
    srgb, coded = chunk(b"sRGB", b"\0"), chunk(b"cICP", bytes([1, 13, 0, 1]))
    coded_linear = chunk(b"cICP", bytes([1, 8, 0, 1]))
    assert (linear != samples).any()
    profile = iccp(SRGB_PROFILE)
    for overruling in (srgb, coded, profile):
        check(decode_image(png(samples, gama(1), chrm(ADOBE), overruling)), samples, None)
    assert decode_image(png(samples, gama(1), profile)).icc == SRGB_PROFILE
    for overruled in (b"", srgb, gama(0.3), profile):
        check(decode_image(png(samples, coded_linear, overruled)), linear, None)
    misplaced = png(samples, after=gama(1) + chunk(b"cICP", bytes([12, 13, 0, 1])))
    check(decode_image(misplaced), samples, None)


@pytest.mark.parametrize("codes", [(12, 13, 0, 1), (9, 16, 0, 1), (1, 13, 1, 1), (1, 13, 0, 0)])
def test_other_coded_colours_are_refused(codes: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="/".join(map(str, codes)) + ".*convert it to sRGB"):
        decode_image(png(noise(6, 7, 3), chunk(b"cICP", bytes(codes))))

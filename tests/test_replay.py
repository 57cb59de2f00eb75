"""Results say how they were made, in every format, and are made again from it, or not believed."""

from __future__ import annotations

import hashlib
import io
import json
import xml.etree.ElementTree as ET
import xml.parsers.expat as expat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidiffsr import Image, __version__, read_image, write_image
from bidiffsr.cli import main
from bidiffsr.errors import BidiffsrError
from bidiffsr.images.decode import decode_image
from bidiffsr.images.encode import encode_image
from bidiffsr.images.metadata import Metadata
from bidiffsr.images.xmp import with_record
from bidiffsr.models.catalog import list_models
from bidiffsr.upscaling.record import Recipe, recipe_of, source_digest
from bidiffsr.upscaling.replaying import difference
from bidiffsr.upscaling.upscaler import Upscaler
from image_files import xmp_of_gif
from served import client, wait_for
from tiny_model import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

Capture = pytest.CaptureFixture[str]

NAMESPACE = "urn:bidiffsr:record#"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
OTHERS = (
    f"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'>"
    f"<r:RDF xmlns:r='{RDF}'><r:Description r:about='uuid:1' xmlns:dc='http://purl.org/dc/' "
    "dc:title='a &gt; b'><dc:rights>me</dc:rights></r:Description></r:RDF></x:xmpmeta>"
    "<?xpacket end='w'?>"
).encode()
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".gif", ".avif")
DIGEST = "0" * 64
RECORD: dict[str, Any] = {
    "format": 1,
    "bidiffsr": "0.1.0",
    "model": DIGEST,
    "computation": {"name": "engine", "precision": "fast", "kernel": "portable"},
    "settings": {"scale": 4.0, "seed": 0},
    "tiles": [64],
    "sample": 0,
    "source": DIGEST,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("replay")


@pytest.fixture(scope="module")
def model(folder: Path) -> str:
    return str(save_tiny_model(folder / "model.safetensors", tail=1.0))


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    y, x = np.mgrid[:20, :28]
    picture = np.stack([9 * y + x, 5 * x + 40 * (x % 7 < 3), 99 + y], axis=2).astype(np.uint8)
    path = folder / "source.png"
    PIL.Image.fromarray(picture).save(path)
    return path


def upscale(source: Path, output: Path, model: str, *options: str) -> None:
    assert main(["upscale", str(source), "-o", str(output), "-n", model, *options]) == 0


def replay(result: Path, source: Path, model: str, *options: str) -> int:
    return main(["replay", str(result), "--source", str(source), "-n", model, *options])


def one_error(capsys: Capture) -> str:
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("bidiffsr: error: ")
    return captured.err


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of a result whose record says something else."""
    image = read_image(path)
    record = json.loads(json.dumps(image.metadata.record))
    change(record)
    target = path.with_name(f"changed{path.suffix}")
    write_image(target, Image(image.pixels, metadata=Metadata(record=record)), overwrite=True)
    return target


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        *((suffix, "") for suffix in SUFFIXES),
        (".jpg", "--seed 7 --quality best --file-quality 60 --subsampling 4:2:0"),
        (".webp", "--quality fast --ensemble --file-quality 30"),
        (".tif", "--size 100x90"),
        (".png", "--width 200 --steps 1"),
        (".png", "--tile 64"),
        (".tif", "-s 1.5 --precision exact"),
    ],
)
def test_what_is_made_again_is_the_same_file(
    suffix: str, options: str, model: str, source: Path, tmp_path: Path, capsys: Capture
) -> None:
    result, again = tmp_path / f"result{suffix}", tmp_path / f"again{suffix}"
    upscale(source, result, model, *options.split())
    capsys.readouterr()
    assert replay(result, source, model, "-o", str(again)) == 0
    assert capsys.readouterr().out == f"{result}: the same pixels again -> {again}\n"
    assert again.read_bytes() == result.read_bytes()


def test_every_sample_and_their_mean(source: Path, tmp_path: Path) -> None:
    made, again = tmp_path / "made", tmp_path / "again"
    again.mkdir()
    upscale(source, made, "x2-small", "--quality", "best", "--samples", "3", "--mean")
    paths = sorted(made.iterdir())
    assert len({read_image(path).pixels.tobytes() for path in paths}) == len(paths) == 4
    for path in paths:
        copy = again / path.name
        assert main(["replay", str(path), "--source", str(source), "-o", str(copy)]) == 0
        assert copy.read_bytes() == path.read_bytes()


def test_two_passes_whose_tiles_differ(model: str, source: Path, tmp_path: Path) -> None:
    upscaler = Upscaler.from_pretrained(model)
    image = read_image(source)
    *_, last = upscaler.stream(image, tiles=[64, 96], width=120)
    assert last.result is not None
    assert last.result.metadata.record["tiles"] == [64, 96]
    *_, whole = upscaler.stream(image, width=120)
    assert whole.result is not None
    assert (whole.result.pixels != last.result.pixels).any()
    write_image(tmp_path / "a.png", last.result)
    assert replay(tmp_path / "a.png", source, model) == 0


def test_what_the_python_api_writes_is_made_again(model: str, source: Path, tmp_path: Path) -> None:
    upscaler = Upscaler.from_pretrained(model, threads=1)
    results = [at.result for at in upscaler.stream(read_image(source), samples=2) if at.result]
    write_image(tmp_path / "a.webp", results[1], quality=40)
    recipe = recipe_of(read_image(tmp_path / "a.webp"))
    assert (recipe.sample, recipe.bidiffsr) == (1, __version__)
    assert recipe.file is not None and recipe.file.quality == 40
    assert replay(tmp_path / "a.webp", source, model) == 0


def test_of_many_bits_alpha_grey_and_profile(model: str, tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 24 * 20).reshape(20, 24).astype(np.uint16)
    pixels = np.repeat(ramp[..., None], 3, axis=2)
    write_image(tmp_path / "s.tif", Image(pixels, alpha=ramp[::-1].copy(), grey=True))
    for suffix in SUFFIXES:
        result = tmp_path / f"r{suffix}"
        upscale(tmp_path / "s.tif", result, model)
        assert replay(result, tmp_path / "s.tif", model) == 0


def packet_of(opened: Any, data: bytes, suffix: str) -> bytes:
    if suffix == ".gif":  # Pillow does not look for it
        return xmp_of_gif(data)
    return opened.tag_v2[700] if suffix == ".tif" else opened.info["xmp"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_reader_finds_the_record(suffix: str, model: str, source: Path, tmp_path: Path) -> None:
    result = tmp_path / f"a{suffix}"
    upscale(source, result, model, "--seed", "3")
    opened: Any = PIL.Image.open(result)
    with opened:
        opened.load()
        packet = packet_of(opened, result.read_bytes(), suffix)
    text = ET.fromstring(packet).findtext(f".//{{{NAMESPACE}}}record")
    record = json.loads(text or "")
    assert (record["format"], record["bidiffsr"]) == (1, __version__)
    assert record["settings"] == {"scale": 4.0, "seed": 3, "ensemble": False}
    assert ("file" in record) == (suffix in (".jpg", ".webp", ".avif"))


def test_the_source_is_known_by_its_samples(model: str, source: Path, tmp_path: Path) -> None:
    """By docs/replay.md."""
    upscale(source, tmp_path / "a.png", model)
    samples = np.asarray(PIL.Image.open(source))
    told = hashlib.sha256(b"uint8 20 28 False False 0" + samples.tobytes()).hexdigest()
    assert read_image(tmp_path / "a.png").metadata.record["source"] == told

    deep = np.arange(12, dtype=np.uint16).reshape(4, 3) * 5000
    image = Image(np.repeat(deep[..., None], 3, axis=2), alpha=deep, grey=True, icc=b"profile")
    rgb = b"".join(3 * int(value).to_bytes(2, "little") for value in deep.flat)
    alpha = b"".join(int(value).to_bytes(2, "little") for value in deep.flat)
    told = hashlib.sha256(b"uint16 4 3 True True 7profile" + rgb + alpha).hexdigest()
    assert source_digest(image) == told


def test_how_far_pictures_are_apart() -> None:
    first = Image(np.zeros((3000, 50, 3), np.uint16), alpha=np.zeros((3000, 50), np.uint16))
    assert difference(first, first) is None
    assert first.alpha is not None
    pixels, alpha = first.pixels.copy(), first.alpha.copy()
    pixels[2999, 49, 2], alpha[0, 0], alpha[2999, 49] = 65535, 3, 7
    second = Image(pixels, alpha=alpha)
    told = "2 of 150000 pixels differ, by up to 65535 of 65535"
    assert difference(first, second) == difference(second, first) == told
    assert difference(first, Image(pixels)) == "alpha or grey are there in only one of them"
    small = Image(np.zeros((2, 3, 3), np.uint8))
    assert difference(small, first) == "it is 3x2 uint8 and was 50x3000 uint16"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_strip_leaves_it_out_and_no_date_is_in_it(
    suffix: str, model: str, source: Path, tmp_path: Path, capsys: Capture
) -> None:
    bare, first, second = (tmp_path / f"{name}{suffix}" for name in "abc")
    upscale(source, bare, model, "--strip")
    upscale(source, first, model)
    upscale(source, second, model, "--threads", "1")
    assert b"bidiffsr" not in bare.read_bytes()
    assert first.read_bytes() == second.read_bytes()
    capsys.readouterr()
    assert replay(bare, source, model) == 1
    assert "does not say how it was made" in one_error(capsys)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_the_picture_said_before_stays_as_it_was(suffix: str) -> None:
    plain = Image(np.zeros((4, 4, 3), np.uint8), metadata=Metadata(xmp=OTHERS))
    stated = Image(plain.pixels, metadata=Metadata(xmp=OTHERS, record=RECORD))
    data = encode_image(stated, suffix)
    found = decode_image(data).metadata
    assert found.xmp == OTHERS
    assert {**found.record, "file": None} == {**RECORD, "file": None}
    opened: Any = PIL.Image.open(io.BytesIO(data))
    opened.load()
    packet = ET.fromstring(packet_of(opened, data, suffix))
    assert packet.findtext(".//{http://purl.org/dc/}rights") == "me"
    bare = Image(plain.pixels, metadata=found)
    assert decode_image(encode_image(bare, suffix)).metadata == found


def test_a_result_made_larger_again_tells_of_that_alone(
    model: str, source: Path, tmp_path: Path
) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    upscale(source, first, model, "--seed", "1", "-s", "1")
    upscale(first, second, model, "--seed", "2", "-s", "1")
    assert second.read_bytes().count(b"<bidiffsr:record>") == 1
    assert recipe_of(read_image(second)).settings.seed == 2
    assert replay(second, first, model) == 0
    assert replay(second, source, model) == 1


# As other programs write it anew: as an attribute, with other prefixes, in an empty group.
REWRITTEN = {
    "attribute": "<R:RDF xmlns:R='{rdf}'><R:Description R:about='' xmlns:b='{ns}' b:record={quoted}"
    " xmlns:d='urn:d' d:e='f>'/></R:RDF>",
    "element": "<R:RDF xmlns:R='{rdf}'><R:Description R:about=''><q:record xmlns:q='{ns}'>"
    "<![CDATA[{text}]]></q:record ></R:Description></R:RDF>",
    "twice": "<R:RDF xmlns:R='{rdf}'><R:Description xmlns:b='{ns}' b:record={quoted}><b:record>"
    "{{}}</b:record><b:record/></R:Description></R:RDF>",
}


@pytest.mark.parametrize("form", REWRITTEN)
def test_other_programs_may_write_it_otherwise(form: str) -> None:
    text = json.dumps(RECORD)
    packet = REWRITTEN[form].format(rdf=RDF, ns=NAMESPACE, text=text, quoted=quoteattr(text))
    ET.fromstring(packet)
    stated = Image(np.zeros((4, 4, 3), np.uint8), metadata=Metadata(xmp=packet.encode()))
    found = decode_image(encode_image(stated, ".png")).metadata
    assert found.record == RECORD
    assert b"sha" not in found.xmp and b"record" not in found.xmp.replace(NAMESPACE.encode(), b"")
    ET.fromstring(found.xmp)
    assert (b"d:e='f>'" in found.xmp) == (form == "attribute")


@pytest.mark.parametrize("group", ["<R:RDF xmlns:R='{}'/>", "<R:RDF xmlns:R='{}'></R:RDF>"])
def test_a_packet_with_nothing_in_it_takes_the_record(group: str) -> None:
    metadata = Metadata(xmp=group.format(RDF).encode(), record=RECORD)
    data = encode_image(Image(np.zeros((4, 4, 3), np.uint8), metadata=metadata), ".png")
    assert decode_image(data).metadata.record == RECORD


@pytest.mark.parametrize(("xmp", "suffix"), [(b"<a/>", ".png"), (OTHERS, ".jpg")])
def test_where_there_is_no_place_the_rest_is_kept(xmp: bytes, suffix: str, tmp_path: Path) -> None:
    if suffix == ".jpg":  # which has 64 kB for the packet
        xmp = xmp.replace(b">me<", b">" + b"m" * (65533 - 27 - len(xmp)) + b"<")
    image = Image(np.zeros((4, 4, 3), np.uint8), metadata=Metadata(xmp=xmp, record=RECORD))
    (line,) = write_image(tmp_path / f"a{suffix}", image)
    assert line.startswith("the record of bidiffsr is left out")
    found = read_image(tmp_path / f"a{suffix}").metadata
    assert (found.xmp, found.record) == (xmp, {})


def test_it_says_in_a_line_what_differs(
    model: str, source: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, out = tmp_path / "a.png", tmp_path / "out.png"
    upscale(source, result, model)
    wanted = read_image(result).metadata.record["model"]
    capsys.readouterr()

    assert main(["replay", str(result), "--source", str(source)]) == 1
    assert f"the file whose SHA-256 is {wanted}" in one_error(capsys)
    assert replay(result, source, list_models()[0]) == 1
    assert f"the file whose SHA-256 is {wanted}" in one_error(capsys)
    assert replay(result, result, model) == 1
    assert "is not the picture that was enlarged" in one_error(capsys)
    assert replay(result, tmp_path / "none.png", model) == 1
    assert "no such file" in one_error(capsys)
    for place in (source, result):
        assert replay(result, source, model, "-o", str(place), "--overwrite") == 1
        assert "itself; choose another output" in one_error(capsys)

    other = changed(result, lambda record: record["settings"].update(quality="fast", scale=4.5))
    assert replay(other, source, model) == 1
    assert "would be 126x90" in one_error(capsys)

    cases: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
        (lambda record: record.update(bidiffsr="9.9"), "made by bidiffsr 9.9, this is"),
        (lambda record: record["computation"].update(kernel="z80"), "BIDIFFSR_KERNEL=z80 asks"),
        (lambda record: None, "so the file was changed since"),
    ]
    for change, why in cases:
        other = changed(result, change)
        pixels = read_image(other).pixels.copy()
        pixels[3, 5] ^= 4
        write_image(other, Image(pixels, metadata=read_image(other).metadata), overwrite=True)
        assert replay(other, source, model, "-o", str(out)) == 1
        error = one_error(capsys)
        assert "1 of 8960 pixels differ, by up to 4 of 255" in error
        assert why in error
        assert not out.exists()

    monkeypatch.setenv("BIDIFFSR_KERNEL", "portable")
    upscale(source, tmp_path / "b.png", model)
    recipe = recipe_of(read_image(tmp_path / "b.png"))
    assert recipe.computation.kernel == "portable"


@pytest.mark.parametrize("option", ["--threads -1", "--max-pixels 0", "--seed 3"])
def test_a_mistyped_option(option: str, capsys: Capture) -> None:
    assert main(["replay", "a.png", "--source", "b.png", *option.split()]) == 2
    assert one_error(capsys).endswith("(see bidiffsr --help)\n")


def test_a_result_of_the_server(model: str, source: Path, tmp_path: Path) -> None:
    with client(Upscaler.from_pretrained(model)) as server:
        sent = server.post(
            "/api/jobs",
            params={"seed": 5},
            content=source.read_bytes(),
            headers={"Content-Type": "image/png"},
        )
        url = sent.json()["url"]
        assert wait_for(server, url)["state"] == "done"
        (tmp_path / "a.png").write_bytes(server.get(f"{url}/results/0").content)
    assert recipe_of(read_image(tmp_path / "a.png")).settings.seed == 5
    assert replay(tmp_path / "a.png", source, model) == 0


def test_a_result_that_pytorch_computed(model: str, source: Path, tmp_path: Path) -> None:
    result = tmp_path / "a.png"
    upscale(source, result, model, "--backend", "torch", "--device", "cpu")
    assert recipe_of(read_image(result)).computation.name == "torch"
    assert replay(result, source, model) == 0


WRONG: Mapping[str, Any] = {
    "format": [0, 2, "1", True, None, {}],
    "model": ["abc", None, "G" * 64, DIGEST + "\n", 7],
    "computation": [{}, {"name": "gpu"}, {"name": "engine", "kernel": "a\nb"}, None],
    "settings": [
        {"scale": -1},
        {"scale": 4, "width": 7},
        {"steps": 0},
        {"seed": -1},
        {"samples": 9},
        {"max_memory": 0},
        {"size": "1x"},
        {"quality": "x" * 5000},
        [],
    ],
    "tiles": [[], [0], [-64], [2**40], [64, 64, 64], 64, None],
    "sample": [-1, 2**40, None, "x"],
    "mean_of": [1, 2, "all"],
    "source": ["", None],
    "bidiffsr": ["", "a b", "\n", 1.0],
    "file": [{}, {"quality": 0, "subsampling": "4:4:4"}, {"quality": 5, "subsampling": "no"}],
    "more": [1],
}


@pytest.mark.parametrize(
    ("key", "value"), [(key, value) for key, values in WRONG.items() for value in values]
)
def test_a_record_that_cannot_be_meant_is_refused(key: str, value: Any) -> None:
    picture = np.zeros((4, 4, 3), np.uint8)
    recipe_of(Image(picture, metadata=Metadata(record=RECORD)))
    with pytest.raises(BidiffsrError) as error:
        recipe_of(Image(picture, metadata=Metadata(record={**RECORD, key: value})))
    assert "record" in str(error.value)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


@pytest.mark.parametrize("tiles", [[1], [63], [64, 64]])
def test_tiles_that_no_picture_has_are_refused(
    tiles: list[int], model: str, source: Path, tmp_path: Path, capsys: Capture
) -> None:
    upscale(source, tmp_path / "a.png", model)
    other = changed(tmp_path / "a.png", lambda record: record.update(tiles=tiles))
    capsys.readouterr()
    assert replay(other, source, model) == 1
    assert "tile" in one_error(capsys)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(record=st.dictionaries(st.sampled_from([*RECORD, "mean_of", "file"]) | st.text(), JSON))
@settings(max_examples=60, deadline=None)
def test_whatever_a_record_holds_it_is_one_line_or_a_recipe(record: dict[str, Any]) -> None:
    for given_record in (record, {**RECORD, **record}):
        image = Image(np.zeros((1, 1, 3), np.uint8), metadata=Metadata(record=given_record))
        again = decode_image(encode_image(image, ".png"))
        written = {key: value for key, value in given_record.items() if key != "file"}
        assert again.metadata.record == written
        try:
            assert isinstance(recipe_of(image), Recipe)
        except BidiffsrError as error:
            assert str(error).isprintable()


@given(text=st.text() | st.sampled_from(["[" * 9999, "9" * 9999, "NaN", '{"a":NaN}', "{}", "[]"]))
@settings(max_examples=60, deadline=None)
def test_whatever_stands_in_its_place_the_picture_is_read(text: str) -> None:
    allowed = "".join(char for char in text if char.isprintable())
    packet = (
        f"<R:RDF xmlns:R='{RDF}'><R:Description xmlns:b={quoteattr(NAMESPACE)} "
        f"b:record={quoteattr(allowed)}/></R:RDF>"
    )
    image = Image(np.zeros((1, 1, 3), np.uint8), metadata=Metadata(xmp=packet.encode()))
    found = decode_image(encode_image(image, ".png"))
    assert isinstance(found.metadata.record, dict)
    assert b"b:record" not in found.metadata.xmp
    with pytest.raises(BidiffsrError):
        recipe_of(found)


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_no_damage_to_the_packet_harms_a_picture(data: Any) -> None:
    image = Image(np.zeros((1, 1, 3), np.uint8), metadata=Metadata(xmp=OTHERS, record=RECORD))
    whole = decode_image(encode_image(image, ".png")).metadata
    packet = bytearray(with_record(whole.xmp, whole.record) or b"")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(packet) - 1))
        packet[place : place + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from([b"", b"<", b">", b"/>", b'"', b"&", b" ", b"\0", b"\xff", b"a"])
        )
    damaged = Image(image.pixels, metadata=Metadata(xmp=bytes(packet)))
    try:
        encoded = encode_image(damaged, ".webp")
    except UnicodeDecodeError:
        return
    found = decode_image(encoded).metadata
    if found.xmp:
        expat.ParserCreate().Parse(found.xmp, True)

"""Pictures from outside: every mode, format and orientation has the right pixels or one line."""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
import pytest
from PIL import Image, features

from corl_jax.core.errors import UserError
from corl_jax.data.image_files import MAX_PIXELS, load_image
from corl_jax.data.scored_rows import read_scored_rows
from corl_jax.data.sources.addresses import open_source

hypothesis = pytest.importorskip("hypothesis", reason="pip install -e '.[test]'")
st = hypothesis.strategies

# A scene that no rotation or mirroring leaves as it is: red, green and blue in three corners.
SCENE = np.full((16, 24, 3), 255, np.uint8)
SCENE[:8, :8] = (200, 0, 0)
SCENE[:8, 16:] = (0, 150, 0)
SCENE[8:, :8] = (0, 0, 100)
GREY = np.array(Image.fromarray(SCENE).convert("L"))
INK = np.zeros((16, 24), bool)
INK[4:12, 6:12] = True

# What a camera stores of an upright scene, by EXIF orientation: the inverse of what viewers do.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.transpose(a, (1, 0, 2)),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.transpose(np.rot90(a, 2), (1, 0, 2)),
    8: lambda a: np.rot90(a, -1),
}


def encode(image, file_format, **options):
    """The content of a file."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.ascontiguousarray(image))
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def grey_rgb(levels):
    return np.repeat(np.asarray(levels, np.uint8)[..., None], 3, -1)


def with_alpha(mode):
    """The scene, of which only ``INK`` is opaque."""
    image = Image.fromarray(SCENE).convert(mode.removesuffix("A"))
    image.putalpha(Image.fromarray(np.where(INK, 255, 0).astype(np.uint8)))
    return image


ON_WHITE = np.where(INK[..., None], SCENE, 255).astype(np.uint8)
GREY_ON_WHITE = grey_rgb(np.where(INK, GREY, 255))


def png(width, depth, colour_type, row, transparent=()):
    """A PNG of one row, by hand: Pillow writes few depths."""

    def chunk(name, content):
        checksum = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checksum

    key = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + key + data + chunk(b"IEND", b"")


def tiff(width, bits, content):
    """A grey TIFF of one row, by hand."""
    short, long = 3, 4
    tags = [
        (256, short, width), (257, short, 1), (258, short, bits), (259, short, 1), (262, short, 1),
        (273, long, 8), (277, short, 1), (278, short, 1), (279, long, len(content)),
    ]  # fmt: skip
    content += b"\0" * (len(content) % 2)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory


def orientations():
    """Every orientation in every format that stores one."""
    for file_format, options in {
        "JPEG": {"quality": 100, "subsampling": 0},
        "PNG": {},
        "WEBP": {"lossless": True},
        "TIFF": {},
    }.items():
        for orientation, store in STORED.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            content = encode(store(SCENE), file_format, exif=exif, **options)
            yield f"{file_format}-orientation-{orientation}", content, SCENE


def transparencies():
    """Transparent grounds, which are laid on white."""
    for file_format, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True}}.items():
        yield f"{file_format}-RGBA", encode(with_alpha("RGBA"), file_format, **options), ON_WHITE
    for file_format in ("PNG", "TIFF"):
        yield f"{file_format}-LA", encode(with_alpha("LA"), file_format), GREY_ON_WHITE

    # Half transparent black is grey.
    half = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    yield "PNG-RGBA-half", encode(half, "PNG"), np.full((2, 2, 3), 127, np.uint8)

    # A palette with one transparent colour, and one with an alpha per colour.
    palette = Image.fromarray(np.where(INK, 1, 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 200, 10, 20])
    expected = np.where(INK[..., None], (200, 10, 20), 255).astype(np.uint8)
    yield "GIF-P-transparent", encode(palette, "GIF", transparency=0), expected
    yield "PNG-P-transparent", encode(palette, "PNG", transparency=0), expected
    yield "PNG-P-alphas", encode(palette, "PNG", transparency=bytes([0, 255])), expected

    # A PNG names one transparent level or colour in the depth of its pixels.
    for depth, row, levels, key in (
        (1, b"\x40", (0, 255), 1),
        (2, b"\x1b", (0, 85, 170, 255), 2),
        (4, b"\x07\xaf", (0, 119, 170, 255), 7),
        (8, b"\x00\x07\x0a\xff", (0, 7, 10, 255), 7),
        (16, struct.pack(">4H", 0, 257, 256, 65535), (0, 1, 1, 255), 257),
    ):
        expected = [255 if i == min(key, 1 if depth != 2 else 2) else level
                    for i, level in enumerate(levels)]  # fmt: skip
        content = png(len(levels), depth, 0, row, [key])
        yield f"PNG-grey-{depth}-bits-key", content, grey_rgb([expected])
    colours = np.array([[[255, 255, 255], [4, 5, 6]]], np.uint8)
    yield "PNG-RGB-8-bits-key", png(2, 8, 2, bytes([1, 2, 3, 4, 5, 6]), [1, 2, 3]), colours
    wide = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x0411, 0x0522, 0x0633)
    yield "PNG-RGB-16-bits-key", png(2, 16, 2, wide, [0x1234, 0x5678, 0x9ABC]), colours


def depths():
    """Numbers of 1 to 16 bits, and floats."""
    black_and_white = np.where(INK, 255, 0).astype(np.uint8)
    bits = Image.fromarray(black_and_white).convert("1")
    for file_format in ("PNG", "TIFF", "BMP", "PPM"):
        yield f"{file_format}-1", encode(bits, file_format), grey_rgb(black_and_white)

    levels = np.array([[0, 255, 256, 3000, 20000, 32768, 65535]], np.uint16)
    expected = grey_rgb(levels >> 8)
    for file_format in ("PNG", "TIFF", "PPM"):
        yield f"{file_format}-I;16", encode(levels, file_format), expected
    big_endian = Image.frombytes("I;16B", (7, 1), levels.astype(">u2").tobytes())
    yield "TIFF-I;16B", encode(big_endian, "TIFF"), expected
    yield "TIFF-12-bits", tiff(2, 12, b"\xff\xf8\x00"), grey_rgb([[255, 128]])
    wide = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    yield "PNG-RGB-16-bits", png(1, 16, 2, wide), np.array([[[0x12, 0x56, 0x9A]]], np.uint8)
    wide = struct.pack(">4H", 0x1234, 0xFFFF, 0x5678, 0x0000)
    yield "PNG-LA-16-bits", png(2, 16, 4, wide), grey_rgb([[0x12, 255]])

    floats = np.array([[0, 0.25, 0.5, 1]], np.float32)
    yield "TIFF-F", encode(floats, "TIFF"), grey_rgb([[0, 64, 128, 255]])
    yield "PPM-F", encode(floats, "PPM"), grey_rgb([[0, 64, 128, 255]])


def colours():
    """Other colour spaces, palettes and formats, and animations."""
    scene = Image.fromarray(SCENE)
    for file_format in ("PNG", "BMP", "TIFF", "PPM"):
        yield f"{file_format}-RGB", encode(scene, file_format), SCENE
        yield f"{file_format}-L", encode(scene.convert("L"), file_format), grey_rgb(GREY)
    for file_format in ("PNG", "GIF", "TIFF", "BMP"):
        palette = scene.convert("P", palette=Image.Palette.ADAPTIVE)
        yield f"{file_format}-P", encode(palette, file_format), SCENE
    for compression in ("tiff_lzw", "jpeg", "tiff_deflate"):
        yield f"TIFF-{compression}", encode(scene, "TIFF", compression=compression), SCENE

    # Conversions lose a level or two.
    cmyk = scene.convert("CMYK")
    yield "TIFF-CMYK", encode(cmyk, "TIFF"), SCENE
    yield "JPEG-CMYK", encode(cmyk, "JPEG", quality=100, subsampling=0), SCENE
    # Pillow 12 does not read the YCbCr that it writes.
    if int(PIL.__version__.partition(".")[0]) >= 13:
        yield "TIFF-YCbCr", encode(scene.convert("YCbCr"), "TIFF"), SCENE
    yield "JPEG-L", encode(scene.convert("L"), "JPEG", quality=100), grey_rgb(GREY)

    frames = [Image.fromarray(255 - SCENE), Image.fromarray(SCENE)]
    animation = {"save_all": True, "append_images": frames}
    yield "GIF-animated", encode(scene, "GIF", **animation), SCENE
    yield "PNG-animated", encode(scene, "PNG", **animation), SCENE
    yield "WEBP-animated", encode(scene, "WEBP", lossless=True, **animation), SCENE
    yield "TIFF-pages", encode(scene, "TIFF", **animation), SCENE
    photos = {"quality": 100, "subsampling": 0} | animation
    yield "JPEG-several", encode(scene, "MPO", **photos), SCENE


READABLE = [*orientations(), *transparencies(), *depths(), *colours()]


def errors():
    """Pictures that are refused, with a part of the line."""
    scene = Image.fromarray(SCENE)
    yield "empty", b"", "not a picture in a known format"
    yield "text", b"not a picture", "starts with b'not a pictur'"
    yield "AVIF-header", b"\0\0\0 ftypavif" + bytes(200), "starts with .*ftypavif"
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"
    for file_format in ("AVIF", "JPEG2000", "ICO", "TGA", "DDS", "EPS"):
        if file_format not in ("AVIF", "JPEG2000") or features.check(
            {"AVIF": "avif", "JPEG2000": "jpg_2000"}[file_format]
        ):
            yield file_format, encode(scene, file_format), "PNG, JPEG, WEBP"

    # Cut in the middle of the pixels.
    for file_format in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "PPM"):
        content = encode(np.tile(SCENE, (4, 4, 1)), file_format)
        yield f"{file_format}-truncated", content[: len(content) * 6 // 10], "cannot be read"
    yield "WEBP-truncated", encode(scene, "WEBP")[:60], "not a picture|cannot be read"

    # Numbers without a known range.
    floats = np.array([[0, 0.5, 2]], np.float32)
    yield "TIFF-F-high", encode(floats, "TIFF"), "float pixels from 0 to 1; got 0 to 2"
    yield "TIFF-F-negative", encode(-floats, "TIFF"), "float pixels from 0 to 1; got -2"
    yield "TIFF-F-nan", encode(floats * np.nan, "TIFF"), "float pixels .* got nan"
    yield "TIFF-I", encode(np.arange(4, dtype=np.int32)[None], "TIFF"), "got 32-bit integers"

    # Headers that name more pixels than there may be; the larger ones Pillow refuses by itself.
    side = int(MAX_PIXELS**0.5) + 2
    yield "PPM-large", b"P6 %d %d 255\n" % (side, side), f"at most {MAX_PIXELS} pixels"
    yield "PPM-bomb", b"P6 100000 100000 255\n", "DecompressionBombError"
    yield "PPM-no-pixels", b"P6 0 3 255\n", "cannot be read|not a picture"


ERRORS = list(errors())


LOSSY = ("JPEG", "TIFF-jpeg", "TIFF-CMYK", "TIFF-YCbCr")


@pytest.mark.parametrize("name, content, expected", READABLE, ids=[row[0] for row in READABLE])
def test_pictures_have_the_right_pixels(name, content, expected, tmp_path):
    pixels = load_image(content)
    assert pixels.dtype == np.uint8 and pixels.shape == expected.shape
    difference = np.abs(pixels.astype(int) - expected).max()
    assert difference <= (3 if name.startswith(LOSSY) else 0)

    # A file and a picture in memory are the same; the caller's picture stays as it is.
    (tmp_path / "picture").write_bytes(content)
    np.testing.assert_array_equal(load_image(tmp_path / "picture"), pixels)
    with Image.open(io.BytesIO(content)) as image, Image.open(io.BytesIO(content)) as untouched:
        np.testing.assert_array_equal(load_image(image), pixels)
        assert image.tobytes() == untouched.tobytes()
        assert (image.mode, image.size) == (untouched.mode, untouched.size)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name, content, line", ERRORS, ids=[row[0] for row in ERRORS])
def test_other_files_are_refused_in_one_line(name, content, line, tmp_path):
    (tmp_path / "picture.png").write_bytes(content)
    with pytest.raises(UserError, match=line) as error:
        load_image(tmp_path / "picture.png", "line 3 of 'train.jsonl'")
    message = str(error.value)
    assert message.startswith("line 3 of 'train.jsonl': image ") and "\n" not in message
    assert "picture.png'" in message and len(message) < 500


def test_the_tables_are_large():
    assert len(READABLE) >= 60 and len(ERRORS) >= 18


@pytest.mark.parametrize(
    "mode, colour, expected",
    [
        ("PA", (0, 0), 255),
        ("La", (0, 0), None),
        ("RGBa", (0, 0, 0, 0), 255),
        ("RGBX", (7, 7, 7, 0), 7),
        ("HSV", (0, 0, 9), 9),
        ("YCbCr", (9, 128, 128), 9),
        ("I;16L", 65535, 255),
        ("I;16N", 256, 1),
        ("F", 1.0, 255),
        ("I", 255, None),
        ("LAB", (0, 128, 128), 0),
    ],
)
def test_pictures_in_memory_of_every_mode(mode, colour, expected):
    image = Image.new(mode, (3, 2), colour)
    if expected is None:
        with pytest.raises(UserError, match="an image (must have a known|cannot be read)"):
            load_image(image)
        return

    # Conversions between colour spaces round.
    try:
        pixels = load_image(image)
    except UserError as error:
        # Older versions of Pillow do not convert this one.
        assert mode == "LAB" and "cannot be read (ValueError" in str(error)
    else:
        assert np.abs(pixels.astype(int) - expected).max() <= 2 and pixels.shape == (2, 3, 3)


def test_arrays():
    assert load_image(SCENE) is SCENE
    for array in (SCENE.astype(float), SCENE[..., 0], SCENE[:0], [[1, 2, 3]], None):
        with pytest.raises(UserError, match="an image must be uint8 .height, width, 3.*; got"):
            load_image(array)
    with pytest.raises(UserError, match="an image cannot be read .ValueError"):
        load_image([[1, 2], [3]])


@pytest.mark.parametrize("name", ["pipe", "folder", "none.png", "a" * 300, "nul\0.png"])
def test_paths_that_are_no_files(name, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="does not exist; check|cannot be read") as error:
        load_image(tmp_path / name)
    assert "\n" not in str(error.value)


MUTABLE = [content for name, content, _ in READABLE if len(content) < 4000]


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(
    content=st.one_of(st.binary(max_size=200), st.sampled_from(MUTABLE)),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, 4000),
)
@pytest.mark.filterwarnings("ignore::Warning")
def test_any_bytes_are_a_picture_or_one_line(content, flips, cut):
    damaged = bytearray(content[: len(content) - cut % 40])
    for position, value in flips:
        if damaged:
            damaged[position % len(damaged)] = value
    try:
        pixels = load_image(bytes(damaged))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_lossless_files_give_back_any_pixels(height, width, random):
    pixels = np.frombuffer(random.randbytes(height * width * 3), np.uint8)
    pixels = pixels.reshape(height, width, 3)
    for file_format in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(load_image(encode(pixels, file_format)), pixels)


@pytest.fixture
def pictures(test_data):
    """Pictures that were once read wrongly."""
    return test_data("data/cases") / "pictures"


def test_the_photograph_is_upright(pictures):
    with Image.open(pictures / "photo_exif6.jpg") as image:
        stored = np.array(image)
    np.testing.assert_array_equal(load_image(pictures / "photo_exif6.jpg"), np.rot90(stored, -1))


def test_transparent_grounds_are_white(pictures):
    for name in ("rgba_black_ink.png", "shapes_transparent.png"):
        with Image.open(pictures / name) as image:
            stored = np.array(image)
        expected = np.where(stored[..., 3:] == 0, 255, stored[..., :3])
        np.testing.assert_array_equal(load_image(pictures / name), expected)


def test_grey_levels_of_16_bits_are_scaled(pictures):
    levels = np.unique(load_image(pictures / "gray16_scene.png"))
    assert levels.tolist() == [3000 >> 8, 20000 >> 8]


def test_readers_of_records_name_the_row(tmp_path):
    content = encode(np.tile(SCENE, (4, 4, 1)), "PNG")
    (tmp_path / "cut.png").write_bytes(content[: len(content) * 6 // 10])
    row = (
        '{"prompt": "a", "real_image": "cut.png", "qa_problem": "b", "qa_solution": "c", '
        '"qa_type": "OE"}'
    )
    (tmp_path / "train.jsonl").write_text(f"{row}\n{row}\n", "utf-8")
    with pytest.raises(
        UserError, match=r"line 1 of '.*train.jsonl'\): image '.*cut.png' cannot be"
    ):
        read_scored_rows(tmp_path / "train.jsonl")
    with pytest.raises(
        UserError, match=r"line 2 of '.*train.jsonl'\): image '.*cut.png' cannot be"
    ):
        open_source(str(tmp_path), "train")[1]


def test_threads_may_read_one_lazy_image(tmp_path):
    # Pillow reads the file of an opened image when its pixels are first wanted.
    pixels = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for _ in range(10):
        with Image.open(tmp_path / "a.png") as image, ThreadPoolExecutor(8) as pool:
            for read in pool.map(load_image, [image] * 8):
                np.testing.assert_array_equal(read, pixels)

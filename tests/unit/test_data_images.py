"""Decoding, cropping and scaling of images of every kind."""

import io
import json
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from utuning.data import transforms as tf
from utuning.data.decode import decode_rgb, is_plain_jpeg
from utuning.data.preprocessing import Preprocessing
from utuning.errors import DataError

P = Preprocessing(img_size=12, resize=16)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        ("L", "PNG"), ("L", "JPEG"), ("P", "PNG"), ("1", "PNG"), ("LA", "PNG"), ("RGBA", "PNG"),
        ("CMYK", "JPEG"), ("CMYK", "TIFF"), ("RGB", "WEBP"), ("P", "GIF"), ("I;16", "PNG"),
    ],
)  # fmt: skip
def test_every_mode_becomes_a_uint8_rgb_input(mode: str, kind: str) -> None:
    image = Image.new("I;16", (20, 30), 40000) if mode == "I;16" else noise(20, 30, mode)
    out = tf.eval_transform(P)(encode(image, kind))
    assert out.shape == (3, 12, 12)
    assert out.dtype == torch.uint8


def test_grey_values_survive_in_all_depths() -> None:
    deep = Image.fromarray(np.full((4, 4), 128 * 257, dtype=np.uint16))
    shallow = Image.new("I", (4, 4), 128)
    for image in (deep, shallow, Image.new("F", (4, 4), 128.0)):
        data = encode(image, "TIFF")
        assert np.asarray(decode_rgb(data)).tolist() == [[[128] * 3] * 4] * 4


def test_exif_orientation_is_applied() -> None:
    data = encode(noise(20, 10), "JPEG", exif=exif(6))
    assert decode_rgb(data).size == (10, 20)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_lose_the_image() -> None:
    data = encode(noise(20, 10), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert decode_rgb(data).size == (20, 10)


def test_transparent_palette_decodes_without_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = noise(8, 8, "P")
    assert decode_rgb(encode(image, transparency=bytes(range(256)))).mode == "RGB"
    assert not recwarn.list


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (5, 7), (12, 12), (16, 16)])
@pytest.mark.parametrize("recipe", tf.RECIPES)
def test_images_smaller_than_the_crop_work(size: tuple[int, int], recipe: str) -> None:
    data = encode(noise(*size))
    assert tf.train_transform(P, recipe)(data, tf.sample_rng(0, 0, 0)).shape == (3, 12, 12)


@pytest.mark.parametrize("spoil", [
    lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"<html></html>",
])  # fmt: skip
def test_corrupt_bytes_are_named(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DataError, match=r"birds/7\.jpg.*Allowed: .*Next: "):
        decode_rgb(spoil(encode(noise(64, 64), "JPEG")), "birds/7.jpg")


@pytest.mark.parametrize("options", [
    {"quality": 95}, {"quality": 50, "subsampling": 2}, {"progressive": True}, {"exif": exif(1)}, {"exif": exif(3)},
    {"exif": exif(8)},
])  # fmt: skip
@pytest.mark.parametrize("size", [(1, 1), (37, 61), (64, 48)])
def test_jpegs_decode_as_pillow_decodes_them(size: tuple[int, int], options: dict[str, object]) -> None:
    data = encode(noise(*size), "JPEG", **options)
    ours = tf.decode_pixels(data).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - np.asarray(decode_rgb(data)).astype(int)).max() <= 1


@pytest.mark.parametrize(("mode", "exif_", "plain"), [("RGB", 1, True), ("RGB", 6, False), ("L", 1, False),
    ("CMYK", 1, False)])  # fmt: skip
def test_only_upright_colour_jpegs_take_the_short_way(mode: str, exif_: int, plain: bool) -> None:
    image = noise(20, 10, mode)
    assert is_plain_jpeg(encode(image, "JPEG", exif=exif(exif_))) == plain
    assert not is_plain_jpeg(encode(image.convert("RGB"), "PNG"))


@pytest.mark.parametrize("keep", [30, 1000, -100, -2])
def test_cut_off_jpegs_are_refused_as_pillow_refuses_them(keep: int) -> None:
    cut = encode(noise(64, 64), "JPEG")[:keep]
    for decode in (decode_rgb, tf.decode_pixels):
        with pytest.raises(DataError, match="cannot be decoded"):
            decode(cut)


def test_eval_transform_agrees_with_pillow() -> None:
    data = encode(noise(40, 30))
    reference = noise(40, 30).resize((21, 16), Image.Resampling.BICUBIC).crop((4, 2, 16, 14))
    ours = tf.eval_transform(P)(data).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - np.asarray(reference).astype(int)).max() <= 1


def test_recipe_none_is_the_evaluation_crop() -> None:
    data = encode(noise(40, 30))
    trained = tf.train_transform(P, "none")(data, tf.sample_rng(0, 0, 0))
    assert torch.equal(trained, tf.eval_transform(P)(data))


@pytest.mark.parametrize("recipe", ["vpt", "rrc"])
def test_random_crops_depend_on_seed_epoch_and_sample_alone(recipe: str) -> None:
    image = tf.decode_resize(encode(noise(40, 30)), P)

    def crop(*triple: int) -> torch.Tensor:
        return tf.train_crop(image, P, recipe, tf.sample_rng(*triple))

    assert torch.equal(crop(1, 2, 3), crop(1, 2, 3))
    for position in range(3):
        changed = [crop(*(value if at == position else 0 for at in range(3))) for value in range(6)]
        assert any(not torch.equal(changed[0], other) for other in changed[1:])


def test_vpt_crops_reach_every_place_and_flip_half() -> None:
    image = torch.arange(16).repeat(3, 16, 1).to(torch.uint8)
    crops = [tf.train_crop(image, P, "vpt", tf.sample_rng(0, 0, index)) for index in range(400)]
    flipped = [bool(crop[0, 0, 0] > crop[0, 0, 1]) for crop in crops]
    assert 160 < sum(flipped) < 240
    assert {int(crop[0, 0].min()) for crop in crops} == {0, 1, 2, 3, 4}


def test_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(DataError, match=r"'cutmix'.*vpt, rrc, none"):
        tf.train_transform(P, "cutmix")(encode(noise(8, 8)), tf.sample_rng(0, 0, 0))


def test_normalise_scales_each_channel() -> None:
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    out = tf.normalise(images, (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))
    assert out.dtype == torch.float32
    assert out.flatten().tolist() == pytest.approx([0, 1 / 255, 0], abs=1e-6)


def test_normalise_gives_planes_and_leaves_its_input() -> None:
    side_by_side = torch.randint(0, 256, (2, 5, 7, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    facts = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    out = tf.normalise(side_by_side, *facts)
    assert out.is_contiguous()
    assert torch.equal(out, tf.normalise(side_by_side.contiguous(), *facts))
    floats = side_by_side.float().contiguous()
    assert torch.equal(tf.normalise(floats, *facts), out)
    assert torch.equal(floats, side_by_side.float())


def test_preprocessing_survives_json() -> None:
    p = Preprocessing(img_size=10, resize=12, mean=(0.5,) * 3, interpolation="bilinear")
    assert Preprocessing.from_dict(json.loads(json.dumps(p.as_dict()))) == p
    named = {"mean": p.mean, "std": p.std, "interpolation": p.interpolation}
    assert Preprocessing.from_crop_pct(224, 0.9, **named).resize == 248  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "bad",
    [
        {"img_size": 16, "resize": 12}, {"img_size": 0, "resize": 0}, {"std": (0.0, 1.0, 1.0)},
        {"mean": (0.5,)}, {"interpolation": "magic"},
    ],
)  # fmt: skip
def test_bad_preprocessing_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(DataError, match="Allowed: "):
        Preprocessing(**{"img_size": 8, "resize": 9, **bad})  # type: ignore[arg-type]
    with pytest.raises(DataError, match="Allowed: "):
        Preprocessing.from_dict({"img_size": 8})


def test_preparing_needs_no_torch() -> None:
    code = (
        "import sys, utuning.data.examples, utuning.data.shards, utuning.data.readers, "
        "utuning.data.prepare; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""A gallery of plain pictures with a hostile entry among them, and an encoder whose answers are known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from san_tf.data.images import decode_image
from san_tf.embedding.sources import PhotographError, upright
from san_tf.page.questions import RefusedError
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.exact import ExactGallery
from san_tf.retrieval.gallery import GalleryInfo

ORIGIN = "http://127.0.0.1:8642"
# Of each person, shirt and trousers.
CLOTHES = {
    1: ((200, 30, 30), (30, 30, 160)),
    2: ((20, 140, 60), (40, 40, 40)),
    3: ((230, 220, 90), (120, 60, 20)),
}
HOSTILE = "<img/src=x/onerror=hacked=1>&\"'`$\\frac{"


class StandIn:
    """Mean colours of the upper and the lower half are the embedding; the texture is the upper one's."""

    size = 6
    name = "stand-in/1"
    fingerprint = "plain"
    paints = True

    def embed(self, content: bytes) -> np.ndarray:
        pixels = self._pixels(content)
        half = len(pixels) // 2
        means = np.concatenate([pixels[:half].mean((0, 1)), pixels[half:].mean((0, 1))])
        return ((means - 100) / 255).astype(np.float32)

    def paint(self, content: bytes) -> np.ndarray:
        pixels = self._pixels(content)
        return np.broadcast_to(pixels[: len(pixels) // 2].mean((0, 1)), (16, 16, 3)).astype(np.uint8)

    def _pixels(self, content: bytes) -> np.ndarray:
        try:
            return decode_image(tf.constant(upright(content))).numpy()
        except PhotographError as error:
            raise RefusedError(f"The picture {error}.") from error
        except tf.errors.InvalidArgumentError as error:
            raise RefusedError("The picture is damaged: it cannot be decoded.") from error


class Blind(StandIn):
    """An encoder without a decoder."""

    paints = False

    def paint(self, content: bytes) -> np.ndarray:
        raise RefusedError("It paints no textures.")


def crop(
    person: int, shade: int = 0, size: tuple[int, int] = (32, 64), kind: str = "PNG", **options
) -> bytes:
    """A picture of somebody, darker by `shade`."""
    picture = Image.new("RGB", size)
    for part, color in enumerate(CLOTHES[person]):
        half = Image.new("RGB", (size[0], size[1] // 2), tuple(max(0, value - shade) for value in color))
        picture.paste(half, (0, part * (size[1] // 2)))
    target = io.BytesIO()
    picture.save(target, kind, **options)
    return target.getvalue()


def entries() -> list[Entry]:
    """Three people by three cameras, and one whose name and tag would like to be markup."""
    made = [
        Entry(f"{person:04}_c{camera + 1}.png", f"{person:04}_c{camera + 1}.png", camera + 1,
              1_780_000_000.0 + 3600 * camera, person, ("day" if camera < 2 else "night",))
        for person in CLOTHES
        for camera in range(3)
    ]  # fmt: skip
    return [*made, Entry(HOSTILE, "sub/hostile.png", 7, None, None, (f"={HOSTILE}",))]


def make_gallery(folder: Path, more: tuple[Entry, ...] = ()) -> ExactGallery:
    gallery = ExactGallery(GalleryInfo(StandIn.size, StandIn.name, images=str(folder / "images")))
    network = StandIn()
    listed = [*entries(), *more]
    contents = [
        (folder / "images" / entry.image).read_bytes() if entry not in more else crop(3) for entry in listed
    ]
    gallery.add(np.stack([network.embed(content) for content in contents]), listed)
    return gallery


def upload(client, content: bytes) -> str:
    answer = client.post(
        "/api/uploads", content=content, headers={"content-type": "application/octet-stream"}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["upload"]

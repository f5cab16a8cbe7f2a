"""Demo gallery of rendered people, to try the page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from san_tf.page.page_encoder import ExportedNetwork
from san_tf.progress import with_bar
from san_tf.retrieval.entries import Entry
from san_tf.retrieval.exact import ExactGallery
from san_tf.retrieval.gallery import GalleryInfo
from san_tf.synthesis.crop_plans import ReidConfig
from san_tf.synthesis.crops import Crop
from san_tf.synthesis.generator import render_crops, synthetic_reid_index

# The seed gives other people than those that `saved_models/synthetic/1` was trained on.
PEOPLE = ReidConfig(
    "page", train_identities=2, test_identities=25, train_images=10, queries=60, gallery_images=100,
    distractors=0, junk=0, seed=2027,
)  # fmt: skip
TO_DROP = 12
_BATCH = 32
_NAME = re.compile(r"^-?\d+_c\d+s(?P<recording>\d+)_(?P<frame>\d+)_")
# Recordings start on 1 June 2026, 9:00 UTC; one follows each day, at 25 frames a second.
_BEGIN, _DAY, _FRAMES = 1_780_304_400.0, 86_400.0, 25.0
_SIDES = ("front", "left", "back", "right")


def demo_gallery(
    folder: Path, network: ExportedNetwork, people: ReidConfig = PEOPLE, to_drop: int = TO_DROP
) -> ExactGallery:
    """Render people into a folder, embed them, and return them as a gallery in memory.

    Args:
        folder: an empty folder; crops go to `images`, and more crops of the same people to `to_drop`.
        network: the encoder.
        people: what to render.
        to_drop: number of crops to drop on the page.

    Returns:
        The gallery, with cameras, times, identities, and the pose and the visible side as tags.
    """
    images, extra = folder / "images", folder / "to_drop"
    gallery = ExactGallery(GalleryInfo(network.size, network.name, network.fingerprint, str(images)))
    crops = _written(
        render_crops(synthetic_reid_index(people, "gallery"), progress="Rendering people"), images
    )
    batches = [crops[start : start + _BATCH] for start in range(0, len(crops), _BATCH)]
    for batch in with_bar(batches, "Embedding them", len(batches)):
        gallery.add(network.encoder.embed([crop.image for crop in batch]), [entry_of(crop) for crop in batch])
    # One crop per person.
    first = {spec.pid: spec for spec in reversed(synthetic_reid_index(people, "query"))}
    _written(render_crops(list(itertools.islice(first.values(), to_drop)), processes=0), extra)
    return gallery


def entry_of(crop: Crop) -> Entry:
    """Return the entry of a rendered crop; its time follows from the frame in its name."""
    name = _NAME.match(crop.filename)
    time = None
    if name:
        time = _BEGIN + (int(name["recording"]) - 1) * _DAY + int(name["frame"]) / _FRAMES
    # 0 faces the camera, 90 shows the left side.
    side = _SIDES[round(crop.yaw / 90) % 4]
    # Cameras count from 1, as in the name and as `san-tf gallery add` reads them.
    return Entry(crop.filename, crop.filename, crop.camid + 1, time, crop.pid, (crop.pose, side))


def _written(crops: Iterable[Crop], folder: Path) -> list[Crop]:
    folder.mkdir(parents=True)
    kept = []
    for crop in crops:
        (folder / crop.filename).write_bytes(crop.image)
        kept.append(crop)
    return kept

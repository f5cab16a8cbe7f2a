import io
import subprocess
import sys

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from san_tf.adaptation.contrast import cluster_dataset
from san_tf.data.augmentation import Augmentation
from san_tf.data.pipeline import TextureLoader, inference_dataset, pit_dataset, train_dataset
from san_tf.data.records import Records
from san_tf.data.sampling import pk_batches, pk_steps
from san_tf.data.textures import STORE_VARIABLE
from san_tf.data.upright import upright
from san_tf.errors import UserError
from san_tf.normalization import denormalize, normalize, texture_to_uint8

SIZE, T = (32, 16), 16
rows, columns = np.mgrid[:T, :T]
MIRROR = np.stack([rows, T - 1 - columns], axis=-1)
# Not its own inverse, so that a map applied the wrong way round is noticed.
ROTATED = np.stack([(rows + 3) % T, columns], axis=-1)


@pytest.fixture
def records(picture):
    pids = np.repeat(np.arange(1, 7) * 10, 5)
    textures = [picture(500 + pid, T, T) for pid in pids]
    return Records.from_columns([picture(i) for i in range(30)], pids, textures=textures)


@pytest.fixture
def pit(picture):
    textures = [picture(900 + i // 3, T, T) for i in range(9)]
    images = [picture(700 + i, 40, 24) for i in range(9)]
    return Records.from_columns(images, np.arange(9), textures=textures)


def batches(dataset, number):
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset.take(number)]


def assert_equal(first, second):
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_batch_has_the_shapes_types_and_ranges_promised(records, pit):
    batch = batches(train_dataset(records, 3, 4, SIZE, T, MIRROR, pit=pit, pit_per_batch=2), 1)[0]
    assert {name: (value.shape, value.dtype.name) for name, value in batch.items()} == {
        "image": ((14, 32, 16, 3), "float32"),
        "label": ((14,), "int32"),
        "record": ((14,), "int64"),
        "texture": ((14, T, T, 3), "float32"),
        "texture_weight": ((14,), "float32"),
    }
    labels = batch["label"][:12].reshape(3, 4)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0])) == 3
    assert labels.min() >= 0
    assert labels.max() <= 5
    assert batch["label"][12:].tolist() == [-1, -1]
    assert (batch["texture_weight"] == 1).all()
    assert np.abs(batch["texture"]).max() <= 1
    static = train_dataset(records, 3, 4, SIZE, T, MIRROR).element_spec
    assert static["image"].shape[1:] == (32, 16, 3)
    assert static["texture"].shape[1:] == (T, T, 3)


def test_batches_hold_the_planned_images_and_their_textures(records, picture):
    dataset = train_dataset(records, 3, 4, SIZE, T, MIRROR, Augmentation.none(), seed=4)
    steps = pk_steps(records.pids, 3, 4)
    plan = np.concatenate([pk_batches(records.pids, 3, 4, 4, epoch) for epoch in (0, 1)])
    for batch, indices in zip(batches(dataset, 2 * steps), plan, strict=True):
        np.testing.assert_array_equal(batch["label"], records.labels[indices])
        expected = np.stack([picture(i, raw=True)[..., ::1] for i in indices])
        np.testing.assert_allclose(batch["image"], normalize(expected), atol=2e-5)
        textures = np.stack([picture(500 + records.pids[i], T, T, raw=True) for i in indices])
        np.testing.assert_array_equal(texture_to_uint8(batch["texture"]), textures)


@pytest.fixture(params=["in memory", "in a file", "each time"])
def where_textures_are_decoded(request, monkeypatch, tmp_path):
    monkeypatch.setenv(STORE_VARIABLE, str(tmp_path) if request.param == "in a file" else "")
    if request.param != "in memory":
        monkeypatch.setattr(TextureLoader.__init__, "__defaults__", (None, 0))
    yield
    assert bool(list(tmp_path.iterdir())) == (request.param == "in a file")


@pytest.mark.usefixtures("where_textures_are_decoded")
def test_flipped_images_have_mirrored_textures(records, picture):
    augmentation = Augmentation(translation=0.0, erasing=0.0)
    dataset = train_dataset(records, 3, 4, SIZE, T, ROTATED, augmentation, seed=1)
    flipped = []
    plan = pk_batches(records.pids, 3, 4, 1, 0)
    for batch, indices in zip(batches(dataset, len(plan)), plan, strict=True):
        for image, texture, index in zip(batch["image"], batch["texture"], indices, strict=True):
            original = picture(index, raw=True).astype(int)
            texels = picture(500 + records.pids[index], T, T, raw=True)
            seen = denormalize(image).astype(int)
            straight, turned = (abs(seen - each).max() <= 1 for each in (original, original[:, ::-1]))
            assert straight != turned
            flipped.append(turned)
            expected = texels[ROTATED[..., 0], ROTATED[..., 1]] if turned else texels
            np.testing.assert_array_equal(texture_to_uint8(texture), expected)
    assert 0 < np.mean(flipped) < 1


OTHER_CAMERAS = Augmentation(amplitude_mix=0.5, blur=0.5, jpeg=0.5, low_resolution=0.5)


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation.for_transfer(), OTHER_CAMERAS])
def test_resumed_run_sees_what_the_first_run_would_have_seen(records, pit, augmentation):
    def dataset(start_step, parallel_calls=tf.data.AUTOTUNE, seed=3):
        return train_dataset(
            records, 3, 4, SIZE, T, MIRROR, augmentation, pit, 3, seed=seed, start_step=start_step,
            parallel_calls=parallel_calls,
        )  # fmt: skip

    whole = batches(dataset(0), 8)  # an epoch has two steps
    for start in (1, 2, 5):
        assert_equal(batches(dataset(start, parallel_calls=1), 1)[0], whole[start])
    for first, second in zip(batches(dataset(3, 7), 5), whole[3:], strict=True):
        assert_equal(first, second)
    assert not np.array_equal(batches(dataset(0, seed=4), 1)[0]["image"], whole[0]["image"])
    assert not np.array_equal(whole[0]["image"], whole[2]["image"])


def test_iterators_have_no_tuner_whose_sleep_their_end_waits_for(records):
    for dataset in (
        train_dataset(records, 3, 4, SIZE),
        inference_dataset(records, SIZE),
        cluster_dataset(records, np.arange(30) // 5, 3, 4, SIZE),
    ):
        assert dataset.options().autotune.enabled is False


def test_epochs_end_the_data(records):
    steps = pk_steps(records.pids, 3, 4)
    assert len(batches(train_dataset(records, 3, 4, SIZE, epochs=3), 99)) == 3 * steps
    assert len(batches(train_dataset(records, 3, 4, SIZE, epochs=3, start_step=4), 99)) == 3 * steps - 4


def test_without_textures_there_are_none(records):
    assert set(train_dataset(records, 3, 4, SIZE).element_spec) == {"image", "label", "record"}


def test_images_without_texture_have_weight_0(records, pit):
    textures = records.textures.copy()
    textures[records.pids == 20] = b""
    some = records.with_textures(textures)
    label = np.flatnonzero(records.identities == 20)[0]
    for batch in batches(train_dataset(some, 3, 4, SIZE, T, MIRROR, pit=pit, pit_per_batch=2), 4):
        np.testing.assert_array_equal(batch["texture_weight"], batch["label"] != label)
    none = records.with_textures([b""] * 30)
    batch = batches(train_dataset(none, 3, 4, SIZE, T, MIRROR, pit=pit, pit_per_batch=2), 1)[0]
    assert batch["texture_weight"].tolist() == [0] * 12 + [1] * 2


def test_distractors_and_junk_are_not_trained_on(picture):
    pids = [0] * 4 + [-1] * 4 + [3] * 4 + [9] * 4
    records = Records.from_columns([picture(i) for i in range(16)], pids)
    for batch in batches(train_dataset(records, 2, 2, SIZE), 4):
        assert set(batch["label"]) == {0, 1}


def test_pit_passes_hold_every_pair_once(pit, picture):
    dataset = pit_dataset(pit, 4, SIZE, T, MIRROR, Augmentation.none())
    seen = np.concatenate([batch["image"] for batch in batches(dataset, 9)])  # 36 = 4 passes of 9
    originals = np.concatenate(list(inference_dataset(pit, SIZE)))
    which = [int(np.abs(originals - image).max(axis=(1, 2, 3)).argmin()) for image in seen]
    for one_pass in np.reshape(which, (4, 9)):
        assert sorted(one_pass) == list(range(9))
    batch = batches(dataset, 1)[0]
    assert (batch["label"] == -1).all()
    assert (batch["texture_weight"] == 1).all()
    for index, texture in zip(which[:4], batch["texture"], strict=True):
        np.testing.assert_array_equal(texture_to_uint8(texture), picture(900 + index // 3, T, T, raw=True))


def test_textures_in_photographed_colours_follow_every_change_of_the_image(where_textures_are_decoded):
    rng = np.random.default_rng(0)
    colors = rng.integers(90, 160, (6, 3))
    cast = np.eye(3, 4) + rng.normal(0, 0.05, (6, 3, 4))
    cast[..., 3] *= 100
    seen = np.rint(np.einsum("nij,nj->ni", cast[..., :3], colors) + cast[..., 3])

    def plain(color, side):
        return cv2.imencode(".png", np.tile(color[::-1].astype(np.uint8), (*side, 1)))[1].tobytes()

    pairs = Records.from_columns(
        [plain(color, SIZE) for color in seen], range(1, 7), None, None,
        [plain(color, (T, T)) for color in colors], {"cast": cast.astype(np.float32)},
    )  # fmt: skip
    augmentation = Augmentation(erasing=0.0, jitter=0.7, dye=0.7, dye_chroma=(0.6, 1.1))
    for batch in batches(pit_dataset(pairs, 6, SIZE, T, MIRROR, augmentation), 4):
        image = denormalize(batch["image"]).astype(int).mean((1, 2))
        np.testing.assert_allclose(texture_to_uint8(batch["texture"]).mean((1, 2)), image, atol=2)
    without = batches(pit_dataset(pairs.without("cast"), 6, SIZE, T, MIRROR, Augmentation.none()), 1)[0]
    own = colors[without["record"]][:, None, None]
    np.testing.assert_array_equal(texture_to_uint8(without["texture"]), np.broadcast_to(own, (6, T, T, 3)))


def test_inference_keeps_order_and_size(records, picture):
    images = np.concatenate(list(inference_dataset(records, SIZE, batch_size=7)))
    assert images.shape == (30, *SIZE, 3)
    np.testing.assert_allclose(images[11], normalize(picture(11, raw=True)), atol=2e-5)
    raw = next(iter(inference_dataset(records, SIZE, 7, normalized=False)))
    assert raw.dtype == tf.uint8
    np.testing.assert_array_equal(raw[3], picture(3, raw=True))


def test_mistakes_are_named(records, pit):
    with pytest.raises(UserError, match="hold 6"):
        train_dataset(records, 8, 4, SIZE)
    with pytest.raises(UserError, match="pit_per_batch is 4"):
        train_dataset(records, 3, 4, SIZE, T, MIRROR, pit_per_batch=4)
    with pytest.raises(UserError, match="No image has a texture"):
        train_dataset(records.with_textures([b""] * 30), 3, 4, SIZE, T, MIRROR)
    with pytest.raises(UserError, match=r"\(16, 16, 2\); textures of 32"):
        train_dataset(records, 3, 4, SIZE, 32, MIRROR)
    with pytest.raises(UserError, match="no image-texture pairs"):
        pit_dataset(pit.select(np.array([], int)), 4, SIZE, T, MIRROR)


OPEN_AT_THE_END = """
import atexit, sys
import cv2, numpy as np, tensorflow as tf

own = iter(tf.data.Dataset.range(7, 9).map(lambda x: 2 * x).prefetch(1))
# Registered first, it runs last, after `close_at_exit`.
atexit.register(lambda: print(int(next(own))))
from san_tf.data.pipeline import train_dataset
from san_tf.data.records import Records

picture = cv2.imencode(".jpg", np.zeros((256, 128, 3), np.uint8))[1].tobytes()
records = Records.from_columns([picture] * 64, 1 + np.arange(64) // 4)
iterators = [iter(train_dataset(records, 16, 4, (256, 128))) for _ in range(3)]
batch = [next(iterator) for iterator in iterators]
sys.exit(3)
"""


def test_a_process_with_open_iterators_ends_and_those_of_others_work_to_the_end():
    # Without `close_at_exit` it hangs.
    ended = subprocess.run([sys.executable, "-c", OPEN_AT_THE_END], timeout=120, capture_output=True)
    assert ended.returncode == 3 and ended.stdout.decode().split() == ["14"], ended.stderr.decode()


def test_training_follows_the_orientation():
    """Files on their sides train on the same pixels as the same files turned beforehand."""
    rng, files = np.random.default_rng(0), []
    for orientation in range(1, 9):
        exif, stored = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(rng.integers(0, 256, (40, 24, 3), dtype=np.uint8)).save(stored, "PNG", exif=exif)
        files.append(stored.getvalue())
    batches = [
        next(iter(train_dataset(Records.from_columns(each, [1, 2] * 4), 2, 4, (40, 24), seed=1)))
        for each in (files, [upright(content) for content in files])
    ]
    np.testing.assert_array_equal(batches[0]["record"], batches[1]["record"])
    np.testing.assert_array_equal(batches[0]["image"], batches[1]["image"])

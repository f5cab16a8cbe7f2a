"""One photograph on all ways to its embedding: training, evaluation, SavedModel, client, other runtimes."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from stand_in import Models, serve_rest
from tiny_encoder import SERVED_SIZE, small_encoder

from san_tf import FrameEncoder
from san_tf.data.augmentation import Augmentation
from san_tf.data.pipeline import inference_dataset, train_dataset
from san_tf.data.records import Records
from san_tf.evaluation.embedding import embed
from san_tf.keras_compat import KERAS_3
from san_tf.serving.client import Client
from san_tf.serving.runtime_sessions import SUFFIXES, open_session
from san_tf.serving.runtimes import export_runtimes


def test_four_ways_to_one_embedding(served_models: Path, photographs: list[bytes]) -> None:
    encoder = small_encoder(1)  # of the seed that version 1 was exported with
    records = Records.from_columns(photographs, range(1, 41), [0] * 40, [f"{n}.jpg" for n in range(40)])

    evaluated = embed(encoder, inference_dataset(records, SERVED_SIZE), normalize=True)

    # Each photograph is an identity, so that its label tells which one a training image is.
    batches = train_dataset(records, 8, 1, SERVED_SIZE, augmentation=Augmentation.none(), epochs=1)
    trained = np.full_like(evaluated, np.nan)
    for batch in batches:
        rows = encoder(batch["image"], training=False)["embedding"]
        trained[batch["label"].numpy()] = tf.math.l2_normalize(rows, axis=-1).numpy()

    served = tf.saved_model.load(str(served_models / "1")).signatures
    by_bytes = served["serving_bytes"](image_bytes=tf.constant(photographs))["embedding"].numpy()
    pixels = [tf.io.decode_jpeg(contents, 3, dct_method="INTEGER_ACCURATE")[None] for contents in photographs]
    by_pixels = np.concatenate([served["serving_default"](images=image)["embedding"] for image in pixels])

    address, stop = serve_rest(Models(served_models))
    with Client(address, "market", version=1, batch_size=7) as client:
        by_client = client.embed(photographs)
        frame, boxes, person = frame_of_people()
        by_boxes = [FrameEncoder(given)(frame, boxes) for given in (client, served_models / "1")]
        nobody = FrameEncoder(client)(frame, [])
    stop()
    alone = np.concatenate([served["serving_default"](images=one[None])["embedding"] for one in person])
    for found in by_boxes:
        assert not found.refused.any()
        np.testing.assert_allclose(found.embeddings, alone, atol=1e-5)
    assert nobody.embeddings.shape == (0, 8)

    for other in (trained, by_bytes, by_pixels, by_client):
        np.testing.assert_allclose(other, evaluated, atol=1e-5)
    # The photographs differ by far more than the ways do.
    distances = np.linalg.norm(evaluated[:, None] - evaluated[None], axis=-1) + np.eye(40)
    assert distances.min() > 1e-3


@pytest.mark.parametrize(
    ("runtime", "package"),
    [("litert", "ai_edge_litert"), ("onnx", "tf2onnx"), ("openvino", "openvino")],
)
def test_other_runtimes_give_it_too(
    served_models: Path, photographs: list[bytes], tmp_path: Path, runtime: str, package: str
) -> None:
    if not KERAS_3:
        pytest.skip("the extra `runtimes` is untested with TensorFlow 2.15")
    pytest.importorskip(package, reason=f"{package} is not installed")
    records = Records.from_columns(photographs, range(1, 41), [0] * 40, [f"{n}.jpg" for n in range(40)])
    evaluated = embed(small_encoder(1), inference_dataset(records, SERVED_SIZE), normalize=True)
    out = export_runtimes(served_models / "1", tmp_path / "out", [runtime])
    session = open_session(out / f"encoder{SUFFIXES[runtime]}")
    pixels = [tf.io.decode_jpeg(contents, 3, dct_method="INTEGER_ACCURATE")[None] for contents in photographs]
    found = np.concatenate([session(image.numpy()) for image in pixels])
    np.testing.assert_allclose(found, evaluated, atol=1e-5)
    # People of a frame, in a process that does without TensorFlow.
    frame, boxes, people = frame_of_people()
    np.savez(tmp_path / "frame.npz", frame=frame, boxes=boxes)
    code = (
        "import sys, numpy, san_tf\n"
        f"given = numpy.load({str(tmp_path / 'frame.npz')!r})\n"
        f"encode = san_tf.FrameEncoder({str(out / f'encoder{SUFFIXES[runtime]}')!r})\n"
        "found = encode(given['frame'], given['boxes'])\n"
        f"numpy.save({str(tmp_path / 'found.npy')!r}, found.embeddings)\n"
        "heavy = {'tensorflow', 'keras', 'numba'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    served = tf.saved_model.load(str(served_models / "1")).signatures["serving_default"]
    alone = np.concatenate([served(images=tf.constant(one[None]))["embedding"] for one in people])
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), alone, atol=1e-5)


def frame_of_people() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """A frame, BGR, the boxes of people, some reaching out of it, and each person's picture, RGB."""
    rng = np.random.default_rng(5)
    frame = rng.integers(0, 256, (300, 400, 3), np.uint8)
    boxes = np.array([[5, 7, 40, 90], [100, 20, 133, 61], [200, 100, 300, 300], [370, 250, 460, 380]])
    people = [np.ascontiguousarray(frame[top:bottom, left:right, ::-1]) for left, top, right, bottom in boxes]
    return frame, boxes, people


def odd_files() -> dict[str, bytes]:
    """Pictures as cameras and editors leave them, of a smooth 40 x 24 image."""
    rng = np.random.default_rng(8)
    coarse = rng.uniform(0, 255, (4, 3, 3)).astype(np.float32)
    pixels = tf.cast(tf.image.resize(coarse, (40, 24)), tf.uint8).numpy()
    picture = Image.fromarray(pixels)
    rotated = Image.Exif()
    rotated[0x0112] = 6  # orientation: turn by 90 degrees to look at it
    files = {"plain": tf.io.encode_png(pixels).numpy()}
    files["16-bit"] = tf.io.encode_png(pixels.astype(np.uint16) * 257).numpy()
    alpha = np.concatenate([pixels, np.full((40, 24, 1), 7, np.uint8)], axis=2)
    files["alpha"] = tf.io.encode_png(alpha).numpy()
    # Stored lying, and turned to stand when it is looked at.
    lying = picture.transpose(Image.Transpose.ROTATE_90)
    for name, source, options in (
        ("cmyk", picture.convert("CMYK"), {"quality": 100}),
        ("jpeg", picture, {"quality": 100, "subsampling": 0}),
        ("rotated", lying, {"quality": 100, "subsampling": 0, "exif": rotated}),
    ):
        stream = io.BytesIO()
        source.save(stream, "JPEG", **options)
        files[name] = stream.getvalue()
    files["one pixel"] = tf.io.encode_png(pixels[:1, :1]).numpy()
    return files


def test_odd_files_are_what_they_show(served_models: Path) -> None:
    files = odd_files()
    served = tf.saved_model.load(str(served_models / "1")).signatures["serving_bytes"]
    found = served(image_bytes=tf.constant(list(files.values())))["embedding"].numpy()
    embeddings = dict(zip(files, found, strict=True))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(embeddings["16-bit"], embeddings["plain"], atol=1e-6)
    np.testing.assert_allclose(embeddings["alpha"], embeddings["plain"], atol=1e-6)
    # JPEG's rounding, and that of the four inks.
    np.testing.assert_allclose(embeddings["jpeg"], embeddings["plain"], atol=0.01)
    np.testing.assert_allclose(embeddings["cmyk"], embeddings["plain"], atol=0.03)
    # The EXIF orientation is followed, as in training and as the export's metadata says.
    np.testing.assert_allclose(embeddings["rotated"], embeddings["jpeg"], atol=0.01)
    assert np.abs(embeddings["one pixel"] - embeddings["plain"]).max() > 0.03

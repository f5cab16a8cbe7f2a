"""The encoders in the repository: they load, tell people apart and are as small as promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from san_tf import load_encoder
from san_tf.errors import UserError
from san_tf.serving import read_metadata
from san_tf.serving.servable import check_version, newest_export
from san_tf.synthesis.generator import render_crops, synthetic_reid_index
from san_tf.trusted import PRESET_FOLDER

MODEL = Path(__file__).resolve().parents[2] / "saved_models" / "synthetic"


def five_people(config):
    """Up to six pictures of each of the first five people in a gallery."""
    index = [spec for spec in synthetic_reid_index(config, "gallery") if spec.pid > 0]
    people = sorted({spec.pid for spec in index})[:5]
    chosen = [spec for pid in people for spec in [spec for spec in index if spec.pid == pid][:6]]
    return list(render_crops(chosen, processes=0))


@pytest.fixture(scope="module")
def signatures():
    return tf.saved_model.load(str(MODEL / "1")).signatures


@pytest.fixture(scope="module")
def crops():
    """Crops of five people that it has not been trained on, several of each."""
    return five_people("tiny")


def test_it_fits_the_repository_and_a_server():
    files = [path for path in (MODEL / "1").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 4_000_000
    check_version(MODEL, 1)
    metadata = read_metadata(MODEL / "1")
    assert metadata["training_data"] == ["synthetic_reid/ablation"]
    assert (metadata["embedding_size"], metadata["texture_size"], metadata["weights"]) == (
        512,
        128,
        "float16",
    )


def test_it_tells_people_apart(signatures, crops):
    files = tf.constant([crop.image for crop in crops])
    embeddings = signatures["serving_bytes"](image_bytes=files)["embedding"].numpy()
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-4)
    pids = np.array([crop.pid for crop in crops])
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -1)
    nearest = pids[similarity.argmax(axis=1)] == pids
    assert len(set(pids)) == 5
    assert nearest.mean() > 0.6  # a guess is right in one case of five


def test_it_paints(signatures, crops):
    images = tf.stack([tf.io.decode_jpeg(crop.image) for crop in crops[:6]])
    textures = signatures["texture"](images=images)["texture"].numpy()
    assert textures.shape == (6, 128, 128, 3) and textures.dtype == np.uint8
    # Not one and the same for everybody.
    same = crops[0].pid == np.array([crop.pid for crop in crops[:6]])
    assert textures.std() > 20 and (same.all() or np.abs(textures[0].astype(int) - textures[5]).mean() > 1)


@pytest.fixture(scope="module")
def strangers():
    """Pictures of five people by cameras, at places, that no encoder was trained on; several of each."""
    return five_people("world")


@pytest.mark.parametrize(("name", "size"), [("people", 1280), ("people_scratch", 192)])
def test_the_encoders_for_photographs_know_strangers_and_fit(name, size, strangers):
    folder = newest_export(name)
    files = [path for path in folder.rglob("*") if path.is_file()]
    preset = sum(path.stat().st_size for path in files if PRESET_FOLDER.name in path.parts)
    # The export, and the encoder as it was trained.
    assert sum(path.stat().st_size for path in files) - preset <= 8_000_000 and preset <= 8_000_000
    metadata = read_metadata(folder)
    assert metadata["training_data"] == ["synthetic_reid/world"] and metadata["weights"] == "float16"
    assert metadata["embedding_size"] == size and metadata["image_size"] == [128, 64]
    embeddings = load_encoder(name).embed([tf.io.decode_jpeg(crop.image).numpy() for crop in strangers])
    pids = np.array([crop.pid for crop in strangers])
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -1)
    assert len(set(pids)) == 5
    assert (pids[similarity.argmax(axis=1)] == pids).mean() > 0.6  # a guess is right in one case of five


def test_encoders_that_come_along_are_known_by_name_and_paths_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert newest_export("synthetic") == newest_export(MODEL) == newest_export(MODEL / "1") == MODEL / "1"
    for name in ("people", "people_scratch"):
        assert newest_export(name) == MODEL.with_name(name) / "1"
    for name in ("./synthetic", "saved_models/synthetic", "Synthetic", ""):
        with pytest.raises(UserError, match=r"is not a folder|holds no version"):
            newest_export(name)
    (tmp_path / "synthetic").mkdir()
    with pytest.raises(UserError, match="synthetic holds no version"):
        newest_export("synthetic")
    (tmp_path / "synthetic" / "7").mkdir()
    assert newest_export("synthetic") == Path("synthetic/7")

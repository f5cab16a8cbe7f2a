"""The declared interface: its list, quick to import, and each name does what its docstring says."""

from __future__ import annotations

import importlib
import inspect
import io
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import san_tf
from san_tf import UserError, build_encoder, load_dataset, load_encoder

# A change here is a change of what the changelog's version numbers speak of.
INTERFACE = [
    "SAN", "SANPG", "FrameEncoder", "Gallery", "LoadedEncoder", "LossWeights", "Track", "TrackEncoder",
    "UserError", "__version__",
    "build_decoder", "build_encoder", "evaluate", "load_dataset", "load_encoder", "open_gallery",
    "register_backbone", "register_loss", "train",
]  # fmt: skip
SHIPPED = Path(__file__).resolve().parents[1] / "saved_models" / "synthetic" / "1"


def test_the_list_of_names_is_this_one():
    assert san_tf.__all__ == INTERFACE
    assert set(INTERFACE) <= set(dir(san_tf))
    for name in INTERFACE:
        assert getattr(san_tf, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        san_tf.nonsense  # noqa: B018


def test_every_public_function_has_a_docstring_with_an_example_and_types():
    for name in set(INTERFACE) - {"__version__", "LoadedEncoder", "Gallery", "Track"}:
        thing = getattr(san_tf, name)
        assert "Example:" in inspect.getdoc(thing), name
        function = thing.__init__ if inspect.isclass(thing) else getattr(thing, "function", thing)
        if name not in ("UserError", "LossWeights"):
            assert "return" in function.__annotations__, name


FOLDERS = [
    "adaptation", "convert", "data", "evaluation", "losses", "models", "retrieval", "serving", "synthesis",
    "training", "visualization",
]  # fmt: skip


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_lists_a_few_names_that_no_module_hides(folder):
    assert f"`san_tf.{folder}`" in " ".join(san_tf.__doc__.split())
    package = importlib.import_module(f"san_tf.{folder}")
    assert 3 <= len(package.__all__) <= 15 and set(package.__all__) <= set(dir(package))
    # A module of the same name would take the name's place once it is imported.
    assert not {path.stem for path in Path(package.__file__).parent.iterdir()} & set(package.__all__)
    for name in package.__all__:
        thing = getattr(package, name)
        assert name.isupper() or inspect.getdoc(thing), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


def test_folders_that_need_no_tensorflow_bring_none():
    code = (
        "import sys\n"
        "from san_tf.evaluation import evaluate_protocol, read_features, rerank\n"
        "from san_tf.retrieval import Entry, Filter, open_gallery\n"
        "from san_tf.synthesis import export_market\n"
        "from san_tf.visualization import cmc_curves\n"
        "import san_tf.data, san_tf.training, san_tf.convert, san_tf.serving\n"
        "sys.exit('TensorFlow was imported' if 'tensorflow' in sys.modules else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_quick_and_brings_nothing_heavy():
    code = (
        "import sys, san_tf\n"
        "heavy = {'tensorflow', 'keras', 'numpy', 'numba', 'matplotlib', 'cv2'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_function_evaluate_stays_when_the_command_of_that_name_is_used():
    importlib.import_module("san_tf.evaluation.evaluate_command")
    assert callable(san_tf.evaluate)


def pictures(number: int, size=(64, 32)) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (*size, 3), np.uint8) for _ in range(number)]


def png(pixels: np.ndarray, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(str(SHIPPED))


def test_all_kinds_of_images_have_the_same_embeddings(encoder, tmp_path):
    images = pictures(3)
    paths = []
    for number, pixels in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(png(pixels))
    expected = encoder.embed(np.stack(images))
    assert expected.shape == (3, encoder.dimensions) and expected.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, rtol=1e-5)
    kinds = (
        images,
        paths,
        [str(path) for path in paths],
        [path.read_bytes() for path in paths],
        [Image.fromarray(pixels) for pixels in images],
        [np.stack(images[:2]), images[2]],
        [paths[0], images[1], png(images[2])],
        (image for image in images),
    )
    for kind in kinds:
        np.testing.assert_allclose(encoder.embed(kind, batch_size=2), expected, atol=2e-6)
    np.testing.assert_allclose(encoder.embed(paths[1]), expected[1:2], atol=2e-6)
    assert encoder.embed([]).shape == (0, encoder.dimensions)


def test_the_name_of_a_shipped_encoder_is_enough(encoder):
    images = pictures(2, (100, 41))
    np.testing.assert_array_equal(load_encoder("synthetic").embed(images), encoder.embed(images))


def test_a_keras_encoder_embeds_as_its_export_would():
    model = build_encoder("thin_resnet", (64, 32, 3), num_classes=3, weights=None, seed=1)
    loaded = load_encoder(model)
    assert (loaded.dimensions, loaded.image_size) == (192, (64, 32))
    images = pictures(2)
    normalised = (np.stack(images) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    embedding = model(normalised.astype(np.float32), training=False)["embedding"]
    expected = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    np.testing.assert_allclose(loaded.embed(images), expected, atol=1e-4)
    np.testing.assert_allclose(loaded.embed([png(image) for image in images]), expected, atol=1e-4)


def test_orientation_of_files_is_followed(encoder):
    stored = pictures(1, (32, 64))[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter clockwise when it is shown
    upright = np.rot90(stored, -1)
    np.testing.assert_allclose(
        encoder.embed(png(stored, exif=exif)), encoder.embed(upright.copy()), atol=2e-6
    )


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (["nowhere.jpg"], "nowhere.jpg cannot be read"),
        ([b"hello"], "Image 0 is not an image"),
        ([pictures(1)[0], None], "Image 1 is a NoneType"),
        ({"a": 1}, "or a list of these; received dict"),
        (3, "received int"),
        (np.zeros((2, 8, 8, 3), np.float32), "Images must be uint8"),
        (np.zeros((8, 8), np.uint8), "Images must be uint8"),
        ([png(pictures(1)[0]), png(pictures(1)[0])[:200]], "Image 1 is damaged"),
    ],
)
def test_what_is_no_image_is_told_in_one_sentence(encoder, images, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        encoder.embed(images)
    assert "\n" not in str(caught.value)


def test_a_folder_is_told_to_be_listed(encoder, tmp_path):
    with pytest.raises(UserError, match="is a folder; give its files"):
        encoder.embed(tmp_path)


def test_an_encoder_that_is_not_there_is_told():
    with pytest.raises(UserError, match="There is no preset 'nothing'"):
        load_encoder("nothing")


@pytest.fixture
def market(tmp_path: Path) -> Path:
    """Six people, two cameras, three pictures each, in the layout of Market-1501."""
    rng = np.random.default_rng(0)
    for folder, people in (
        ("bounding_box_train", (1, 2, 3, 4)),
        ("query", (5, 6)),
        ("bounding_box_test", (5, 6)),
    ):
        (tmp_path / folder).mkdir()
        for pid in people:
            color = rng.integers(0, 255, 3)
            for camera in (1, 2):
                for shot in range(3 if folder != "query" else 1):
                    noise = rng.integers(-20, 20, (64, 32, 3))
                    pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
                    name = f"{pid:04d}_c{camera}s1_{shot:06d}_00.png"
                    (tmp_path / folder / name).write_bytes(png(pixels))
    return tmp_path


def test_a_stranger_trains_evaluates_and_goes_on_in_a_dozen_lines(market, tmp_path, capsys):
    data = load_dataset(market)
    assert {split: len(records) for split, records in data.items()} == {
        "train": 24,
        "query": 4,
        "gallery": 12,
    }
    people = data["train"].num_identities
    san = san_tf.SAN(build_encoder("thin_resnet", (64, 32, 3), people, "bnneck", weights=None, seed=0))
    done = san_tf.train(
        san, data["train"], 1, workdir=tmp_path / "run", identities_per_batch=4, images_per_identity=4
    )
    again = san_tf.train(
        san, data["train"], 1, workdir=tmp_path / "run", identities_per_batch=4, images_per_identity=4
    )
    assert done.step == again.resumed_from == again.step > 0
    result = san_tf.evaluate(san, data["query"], data["gallery"])
    assert result.num_valid == 4 and 0 <= result.mAP <= 1
    same = san_tf.evaluate(load_encoder(san), data["query"], data["gallery"])
    assert same.num_valid == 4


def test_wrong_number_of_classes_and_missing_data_are_told(market, tmp_path):
    data = load_dataset(market)
    san = san_tf.SAN(build_encoder("thin_resnet", (64, 32, 3), 7, weights=None))
    with pytest.raises(UserError, match="7 classes, but the records have 4 identities"):
        san_tf.train(san, data["train"], 1, workdir=tmp_path / "run")
    with pytest.raises(UserError, match="There is no folder nowhere, and no data set"):
        load_dataset("nowhere")
    with pytest.raises(UserError, match="give a SAN"):
        san_tf.evaluate(keras.layers.Dense(1), data["query"], data["gallery"])

import sys
import textwrap

import numpy as np
import pytest
import tensorflow_datasets as tfds

from san_tf.data import builders
from san_tf.data.records import Records
from san_tf.errors import UserError

BUILDER = """
import cv2
import numpy as np
import tensorflow_datasets as tfds


def encode(image):
    return cv2.imencode(".png", image)[1].tobytes()


class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="good"), tfds.core.BuilderConfig(name="damaged")]

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "texture": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
                "pid": np.int64,
                "camid": np.int64,
                "filename": tfds.features.Text(),
                "yaw": np.float32,
            })
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(12), "query": self._generate_examples(3)}

    def _generate_examples(self, number):
        for i in range(number):
            image = encode(np.full((8, 4, 3), i, np.uint8))
            if self.builder_config.name == "damaged" and i == 5:
                image = image[:-20]
            yield f"{i:04d}", {
                "image": image,
                "texture": encode(np.full((8, 8, 3), i // 3, np.uint8)),
                "pid": i // 2 + 1,
                "camid": i % 2,
                "filename": f"{i:04d}.png",
                "yaw": 10.0 * i,
            }
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A checkout with one data set, as builders.py finds them."""
    root = tmp_path_factory.mktemp("checkout")
    folder = root / "datasets" / "tiny_people"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "tiny_people_dataset_builder.py").write_text(textwrap.dedent(BUILDER))
    for name in ("README.md", "CITATIONS.bib", "TAGS.txt"):
        (folder / name).touch()
    (root / "datasets" / "not_a_data_set").mkdir()
    path = list(sys.path)
    yield root
    sys.path[:] = path


@pytest.fixture(autouse=True)
def only_this_checkout(checkout, monkeypatch):
    monkeypatch.setattr(builders, "_PACKAGE", checkout / "san_tf")


def prepare(config, data_dir):
    builder = builders.find_builder("tiny_people", config, data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False, verify_ssl=False)
    )
    return builder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def test_records_of_a_builder(data_dir):
    records = Records.from_tfds(prepare("good", data_dir), "train")
    order = np.argsort(records.filenames)
    assert list(records.filenames[order]) == [f"{i:04d}.png" for i in range(12)]
    assert list(records.pids[order]) == [i // 2 + 1 for i in range(12)]
    assert list(records.camids[order]) == [0, 1] * 6
    np.testing.assert_array_equal(records.extras["yaw"][order], np.arange(12) * 10.0)
    assert len(records.texture_files) == 4
    assert len(set(records.texture_index[order][:3])) == 1
    image = tfds.features.Image(shape=(None, None, 3))
    np.testing.assert_array_equal(image.decode_example(records.images[order][7]), np.full((8, 4, 3), 7))
    again = Records.from_tfds(builders.find_builder("tiny_people", "good", data_dir), "train")
    assert list(again.filenames) == list(records.filenames)


def test_loading_is_silent(data_dir, capfd):
    prepare("good", data_dir)
    (data_dir / "tiny_people" / "good" / "9.9.9").mkdir(exist_ok=True)  # a folder without data
    capfd.readouterr()
    Records.from_tfds(builders.find_builder("tiny_people", "good", data_dir), "query")
    assert capfd.readouterr() == ("", "")


def test_damaged_image_of_a_builder_is_named(data_dir):
    with pytest.raises(UserError, match=r"The image 0005\.png is damaged"):
        Records.from_tfds(prepare("damaged", data_dir), "train")


def test_what_is_there_is_listed():
    assert list(builders.builder_folders()) == ["tiny_people"]


def test_packaged_folder_comes_first(checkout):
    packaged = checkout / "san_tf" / "datasets" / "tiny_people"
    packaged.mkdir(parents=True)
    builder = packaged / "tiny_people_dataset_builder.py"
    builder.touch()
    try:
        assert builders.builder_folders() == {"tiny_people": packaged}
    finally:
        builder.unlink()
    assert builders.builder_folders() == {"tiny_people": checkout / "datasets" / "tiny_people"}


def test_mistakes_list_what_there_is(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"no data set named 'market1501'; choose one of: tiny_people\."):
        builders.find_builder("market1501")
    with pytest.raises(UserError, match=r"no config 'huge'; choose one of: good, damaged\."):
        builders.find_builder("tiny_people", "huge")
    with pytest.raises(UserError, match=f"not prepared in {tmp_path}"):
        Records.from_tfds(builders.find_builder("tiny_people", "good", tmp_path), "train")
    prepare("good", data_dir)
    with pytest.raises(UserError, match="has no split 'gallery'; choose one of: "):
        Records.from_tfds(builders.find_builder("tiny_people", "good", data_dir), "gallery")
    sliced = Records.from_tfds(builders.find_builder("tiny_people", "good", data_dir), "train[:5]")
    assert len(sliced) == 5

"""The exported encoder answers as the trained one does, in every kind of process that may load it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf import atomic
from san_tf.data.images import decode_image, resize_image
from san_tf.errors import UserError
from san_tf.evaluation.calibration import Calibration
from san_tf.normalization import normalize
from san_tf.serving import export_encoder, next_version, read_calibration, read_metadata
from san_tf.serving.encoder_export import git_commit
from san_tf.version import __version__

SIZE = (32, 16)
C_PROGRAM = Path(__file__).with_name("load_saved_model.c")


def build_encoder(policy: str = "float32") -> keras.Model:
    """A small network of the parts an encoder has, with moving statistics that are not the initial ones."""
    keras.utils.set_random_seed(1)
    image = keras.Input((*SIZE, 3), name="image")
    x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name="conv", dtype=policy)(image)
    x = keras.layers.BatchNormalization(name="norm", dtype=policy)(x)
    stage = keras.layers.ReLU(name="relu", dtype=policy)(x)
    embedding = keras.layers.GlobalAveragePooling2D(name="pool", dtype="float32")(stage)
    logits = keras.layers.Dense(1000, name="classifier")(embedding)
    model = keras.Model(image, {"embedding": embedding, "logits": logits, "stages": [stage]}, name="encoder")
    model.get_layer("norm").moving_mean.assign(np.linspace(-0.5, 0.5, 8))
    model.get_layer("norm").moving_variance.assign(np.linspace(0.5, 2, 8))
    return model


def build_decoder() -> keras.Model:
    """A small painter of what a decoder has: from the encoder's stages to a texture in [-1, 1]."""
    stage = keras.Input((16, 8, 8))
    x = keras.layers.UpSampling2D((2, 4))(stage)
    x = keras.layers.Conv2D(3, 3, padding="same", kernel_initializer=keras.initializers.RandomNormal(seed=4))(
        x
    )
    texture = keras.layers.Activation("tanh", dtype="float32")(x)
    return keras.Model([stage], {"texture": texture, "blocks": [x]}, name="decoder")


def jpeg_files() -> list[bytes]:
    """Smooth crops of different sizes, as JPEG and PNG, in colour and grey."""
    rng = np.random.default_rng(0)
    files = []
    for height, width in ((128, 64), (57, 31), (20, 40)):
        coarse = rng.uniform(0, 255, (4, 3, 3)).astype(np.float32)
        image = tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8)
        files.append(tf.io.encode_jpeg(image).numpy())
        files.append(tf.io.encode_png(image).numpy())
    files.append(tf.io.encode_jpeg(image[:, :, :1]).numpy())
    return files


def expected(
    encoder: keras.Model, images: list[np.ndarray], unit: bool = True, flip: bool = False
) -> np.ndarray:
    """The embedding by the longest way: one image at a time, NumPy wherever possible."""
    result = []
    for image in images:
        pixels = normalize(resize_image(image, SIZE).numpy())
        views = [pixels, pixels[:, ::-1]] if flip else [pixels]
        value = np.mean(
            [encoder(view[None], training=False)["embedding"].numpy()[0] for view in views], axis=0
        )
        result.append(value / np.linalg.norm(value) if unit else value)
    return np.array(result, np.float32)


def decoded(files: list[bytes]) -> list[np.ndarray]:
    return [decode_image(tf.constant(contents)).numpy() for contents in files]


def batch() -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (3, 45, 23, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def encoder() -> keras.Model:
    return build_encoder()


@pytest.fixture(scope="module")
def exported(encoder: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved_model")
    notes = {"recipe": {"seed": 3}}
    return export_encoder(encoder, folder, SIZE, metadata=notes, training_data=["pit/paper"])


STRANGER = """
import sys
sys.modules["san_tf"] = None
sys.modules["keras"] = None
import numpy as np, tensorflow as tf
folder, data = sys.argv[1:]
data = np.load(data, allow_pickle=False)
model = tf.saved_model.load(folder)
ends = np.cumsum(data["lengths"])
whole = data["bytes"].tobytes()
files = [whole[end - length:end] for end, length in zip(ends, data["lengths"])]
by_bytes = model.signatures["serving_bytes"](image_bytes=tf.constant(files))["embedding"]
by_images = model.signatures["serving_default"](images=tf.constant(data["images"]))["embedding"]
assert sys.modules["san_tf"] is None
np.savez(sys.stdout.buffer, by_bytes=by_bytes, by_images=by_images)
"""


def test_process_without_this_package_agrees(encoder: keras.Model, exported: Path, tmp_path: Path) -> None:
    files = jpeg_files()
    data = tmp_path / "data.npz"
    whole = np.frombuffer(b"".join(files), np.uint8)
    np.savez(data, images=batch(), bytes=whole, lengths=[len(contents) for contents in files])
    # -I and another folder: neither the checkout nor PYTHONPATH is there to import from.
    command = [sys.executable, "-I", "-c", STRANGER, str(exported), str(data)]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    (tmp_path / "answer.npz").write_bytes(answer.stdout)
    found = np.load(tmp_path / "answer.npz")
    assert found["by_bytes"].shape == (7, 8)
    np.testing.assert_allclose(found["by_bytes"], expected(encoder, decoded(files)), atol=1e-5)
    np.testing.assert_allclose(found["by_images"], expected(encoder, list(batch())), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found["by_images"], axis=1), 1, atol=1e-5)


def tensor_names(exported: Path, signature: str) -> tuple[str, str]:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    found = model.meta_graphs[0].signature_def[signature]
    (source,) = found.inputs.values()
    return source.name, found.outputs["embedding"].name


def test_session_loader_agrees(encoder: keras.Model, exported: Path) -> None:
    files = jpeg_files()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(exported))
        source, target = tensor_names(exported, "serving_default")
        by_images = session.run(target, {source: batch()})
        source, target = tensor_names(exported, "serving_bytes")
        by_bytes = session.run(target, {source: files})
    np.testing.assert_allclose(by_images, expected(encoder, list(batch())), atol=1e-5)
    np.testing.assert_allclose(by_bytes, expected(encoder, decoded(files)), atol=1e-5)


@pytest.fixture(scope="module")
def c_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler here")
    program = tmp_path_factory.mktemp("c") / "load_saved_model"
    library = Path(tf.sysconfig.get_lib())
    shared = sorted(library.glob("libtensorflow_cc*")) + sorted(library.glob("libtensorflow_framework*"))
    assert len(shared) >= 2, f"no C library in {library}"
    command = [compiler, "-Wall", str(C_PROGRAM), f"-I{tf.sysconfig.get_include()}", *map(str, shared)]
    if shutil.which("ld.gold"):
        command.append("-fuse-ld=gold")  # several times quicker with the library's million symbols
    subprocess.run([*command, f"-Wl,-rpath,{library}", "-o", str(program)], check=True)
    return program


def test_c_program_agrees(encoder: keras.Model, exported: Path, c_program: Path) -> None:
    source, target = tensor_names(exported, "serving_default")
    assert source.endswith(":0")
    operation, index = target.split(":")
    images = batch()
    command = [
        str(c_program),
        str(exported),
        source.split(":")[0],
        operation,
        index,
        *map(str, images.shape[:3]),
    ]
    answer = subprocess.run(command, input=images.tobytes(), capture_output=True, check=False)
    assert answer.returncode == 0, answer.stderr.decode()
    found = np.frombuffer(answer.stdout, np.float32).reshape(3, 8)
    np.testing.assert_allclose(found, expected(encoder, list(images)), atol=1e-5)


def test_graph_needs_no_python_and_no_classifier(exported: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((exported / "saved_model.pb").read_bytes())
    graph = model.meta_graphs[0].graph_def
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    operations = {node.op for node in nodes}
    assert "Conv2D" in operations  # the list is not empty for a wrong reason
    assert not {name for name in operations if "PyFunc" in name}
    assert set(model.meta_graphs[0].signature_def) >= {"serving_default", "serving_bytes"}
    variables = tf.train.list_variables(str(exported / "variables" / "variables"))
    assert not [shape for _, shape in variables if 1000 in shape]
    weights = sum(4 * np.prod(shape, dtype=int) for name, shape in variables if "OBJECT_GRAPH" not in name)
    # Each is written once; the batch norm is gone into the kernel and the bias.
    assert weights == 4 * (3 * 3 * 3 * 8 + 8)


def painted(encoder: keras.Model, decoder: keras.Model, images: np.ndarray) -> np.ndarray:
    """The texture by the longest way."""
    pixels = np.stack([normalize(resize_image(image, SIZE).numpy()) for image in images])
    texture = decoder(encoder(pixels, training=False)["stages"], training=False)["texture"].numpy()
    return np.clip(np.round((texture.astype(np.float64) + 1) * 127.5), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_texture_is_painted_where_a_decoder_is_given(
    encoder: keras.Model, exported: Path, tmp_path: Path, policy: str
) -> None:
    decoder = build_decoder()
    given = encoder
    if policy != "float32":
        given = build_encoder(policy)
        given.set_weights(encoder.get_weights())
    folder = export_encoder(given, tmp_path / policy, SIZE, flip=True, decoder=decoder)
    loaded = tf.saved_model.load(str(folder))
    texture = loaded.signatures["texture"](images=tf.constant(batch()))["texture"].numpy()
    assert texture.shape == (3, 32, 32, 3) and texture.dtype == np.uint8
    wanted = painted(encoder, decoder, batch())
    assert np.abs(texture.astype(int) - wanted).max() <= 1 and texture.std() > 10
    embedding = loaded.signatures["serving_default"](images=tf.constant(batch()))["embedding"].numpy()
    np.testing.assert_allclose(embedding, expected(encoder, list(batch()), flip=True), atol=1e-5)
    # Encoder and painter share their weights in the file too.
    variables = dict(tf.train.list_variables(str(folder / "variables" / "variables")))
    assert [shape for shape in variables.values()].count([3, 3, 3, 8]) == 1
    assert read_metadata(folder)["texture_size"] == 32 and read_metadata(exported)["texture_size"] is None
    assert "texture" not in tf.saved_model.load(str(exported)).signatures


def test_half_weights_answer_almost_alike_in_every_loader(encoder: keras.Model, tmp_path: Path) -> None:
    decoder = build_decoder()
    folder = export_encoder(encoder, tmp_path, SIZE, decoder=decoder, weights="float16")
    kinds: dict[str, int] = {}
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    for name, dtype in reader.get_variable_to_dtype_map().items():
        if "VARIABLE_VALUE" in name:
            size = int(np.prod(reader.get_variable_to_shape_map()[name], dtype=int))
            kinds[dtype.name] = kinds.get(dtype.name, 0) + size
    # Kernels of encoder and decoder, once each; their biases, the encoder's with the norm folded into it.
    assert kinds == {"float16": 3 * 3 * 3 * 8 + 3 * 3 * 8 * 3, "float32": 8 + 3}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder))
        source, target = tensor_names(folder, "serving_default")
        found = session.run(target, {source: batch()})
    loaded = tf.saved_model.load(str(folder))
    again = loaded.signatures["serving_default"](images=tf.constant(batch()))["embedding"].numpy()
    np.testing.assert_allclose(found, again, atol=1e-5)
    exact = expected(encoder, list(batch()))
    # float16 rounds a kernel's values by at most 2^-11 of their size.
    assert 0 < np.abs(found - exact).max() < 2**-11
    texture = loaded.signatures["texture"](images=tf.constant(batch()))["texture"].numpy()
    assert np.abs(texture.astype(int) - painted(encoder, decoder, batch())).max() <= 1
    assert read_metadata(folder)["weights"] == "float16"


def test_wrong_weights(encoder: keras.Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="float32 or float16, not 'int4'"):
        export_encoder(encoder, tmp_path, SIZE, weights="int4")  # type: ignore[arg-type]
    large = build_encoder()
    large.get_layer("conv").kernel.assign(tf.fill((3, 3, 3, 8), 1e6))
    with pytest.raises(UserError, match="is beyond float16; export it in float32"):
        export_encoder(large, tmp_path, SIZE, weights="float16")
    assert os.listdir(tmp_path) == []


def test_texture_in_the_session_loader_and_among_the_warmup_requests(
    encoder: keras.Model, tmp_path: Path
) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    decoder = build_decoder()
    folder = export_encoder(encoder, tmp_path, SIZE, decoder=decoder, warmup_batches=(1, 2))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        model = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(folder))
        signature = model.signature_def["texture"]
        found = session.run(signature.outputs["texture"].name, {signature.inputs["images"].name: batch()})
    assert np.abs(found.astype(int) - painted(encoder, decoder, batch())).max() <= 1
    records = tf.data.TFRecordDataset(str(folder / "assets.extra" / "tf_serving_warmup_requests"))
    logs = [prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log for record in records]
    asked = [(log.request.model_spec.signature_name, log.response.outputs.keys()) for log in logs]
    assert [name for name, _ in asked] == ["serving_default", "serving_bytes", "texture"] * 2
    assert list(asked[2][1]) == ["texture"] and not asked[5][1]


def test_flip_and_length_are_options(encoder: keras.Model, tmp_path: Path) -> None:
    folder = export_encoder(encoder, tmp_path, SIZE, normalize=False, flip=True)
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    found = served(images=tf.constant(batch()))["embedding"].numpy()
    wanted = expected(encoder, list(batch()), unit=False, flip=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - expected(encoder, list(batch()), unit=False)).max() > 1e-3  # the flip is not idle


def test_mixed_precision_is_exported_in_float32(encoder: keras.Model, tmp_path: Path) -> None:
    mixed = build_encoder("mixed_bfloat16")
    mixed.set_weights(encoder.get_weights())
    folder = export_encoder(mixed, tmp_path, SIZE)
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    found = served(images=tf.constant(batch()))["embedding"].numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected(encoder, list(batch())), atol=1e-5)
    assert mixed.get_layer("conv").compute_dtype == "bfloat16"  # the model that was given stays as it was


def test_undecodable_bytes_fail_the_request_alone(encoder: keras.Model, exported: Path) -> None:
    files = jpeg_files()
    served = tf.saved_model.load(str(exported)).signatures["serving_bytes"]
    for broken in (b"", b"not an image", files[0][:30]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            served(image_bytes=tf.constant([files[0], broken]))
    found = served(image_bytes=tf.constant(files[:1]))["embedding"]
    np.testing.assert_allclose(found, expected(encoder, decoded(files[:1])), atol=1e-5)


def test_metadata(exported: Path, tmp_path: Path) -> None:
    notes = read_metadata(exported)
    assert notes["recipe"] == {"seed": 3}
    assert (notes["image_size"], notes["embedding_size"], notes["l2_normalized"]) == ([32, 16], 8, True)
    assert (notes["flip_averaged"], notes["channel_order"]) == (False, "RGB")
    assert notes["normalization"] == "(image / 255 - mean) / std"
    np.testing.assert_allclose([notes["mean"], notes["std"]], [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    assert notes["training_data"] == ["pit/paper"]
    assert (notes["san_tf"], notes["git_commit"]) == (__version__, git_commit())
    assert notes["tensorflow"] == tf.__version__
    assert json.loads((exported / "assets.extra" / "san_tf.json").read_text()) == notes
    with pytest.raises(UserError, match="is not an export of this package"):
        read_metadata(tmp_path)


def test_a_calibration_goes_along_and_comes_back(
    encoder: keras.Model, exported: Path, tmp_path: Path
) -> None:
    calibration = Calibration("platt", "cosine", True, 4.0, -9.0, prior=0.01, num_same=7, num_different=900)
    folder = export_encoder(encoder, tmp_path, SIZE, calibration=calibration)
    assert read_calibration(folder) == calibration
    assert read_calibration(exported) is None
    # What it says of embeddings that the export itself gives.
    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    embeddings = served(images=tf.constant(batch()))["embedding"].numpy()
    distances = 1 - (embeddings[:1] * embeddings).sum(axis=1)
    expected = calibration.probability(distances)
    np.testing.assert_allclose(calibration.same_person(embeddings, embeddings[:1]), expected, atol=1e-5)
    (folder / "assets.extra" / "calibration.json").write_text("{}")
    with pytest.raises(UserError, match="not a calibration"):
        read_calibration(folder)


def test_existing_version_is_refused_unless_asked_for(encoder: keras.Model, tmp_path: Path) -> None:
    assert next_version(tmp_path / "model") == 1
    folder = export_encoder(encoder, tmp_path / "model", SIZE)
    before = (folder / "saved_model.pb").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"model/1 exists already.*next free one is 2"):
        export_encoder(encoder, tmp_path / "model", SIZE)
    assert (folder / "saved_model.pb").stat().st_mtime_ns == before
    export_encoder(encoder, tmp_path / "model", SIZE, overwrite=True)
    assert (folder / "saved_model.pb").stat().st_mtime_ns > before
    export_encoder(encoder, tmp_path / "model", SIZE, version=next_version(tmp_path / "model"))
    assert sorted(os.listdir(tmp_path / "model")) == ["1", "2"]


def test_wrong_size_and_place(encoder: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"takes images of 32x16 pixels .*, not 64x32"):
        export_encoder(encoder, tmp_path / "model", (64, 32))
    with pytest.raises(UserError, match="at least 1; received 0"):
        export_encoder(encoder, tmp_path / "model", SIZE, version=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="there is a file where a folder is needed"):
        export_encoder(encoder, tmp_path / "file", SIZE)

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        export_encoder(encoder, tmp_path / "model", SIZE)
    assert os.listdir(tmp_path / "model") == []

"""The export for other runtimes answers as the SavedModel does, and what disagrees is never published."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_encoder import SERVED_SIZE, normed_encoder

from san_tf.__main__ import COMMANDS
from san_tf.embedding.runtime_command import main
from san_tf.errors import UserError
from san_tf.keras_compat import KERAS_3
from san_tf.models import build_encoder
from san_tf.normalization import normalize
from san_tf.serving import export_encoder, runtime_sessions, runtimes
from san_tf.serving.folding import fold
from san_tf.serving.runtime_sessions import NOTES_FILE, SUFFIXES, open_session
from san_tf.serving.runtimes import export_runtimes

_PACKAGES = {
    "litert": ("ai_edge_litert",),
    "onnx": ("onnx", "tf2onnx", "onnxruntime"),
    "openvino": ("openvino",),
    "nncf": ("openvino", "nncf"),
}


def is_missing(runtime: str) -> bool:
    # With TensorFlow 2.15 the extra is untested.
    return not KERAS_3 or any(importlib.util.find_spec(name) is None for name in _PACKAGES[runtime])


HERE = [runtime for runtime in SUFFIXES if not is_missing(runtime)]
INT8 = [runtime for runtime in HERE if runtime != "openvino" or not is_missing("nncf")]


def wants(runtime: str, *, int8: bool = False) -> object:
    there = INT8 if int8 else HERE
    skipped = pytest.mark.skipif(
        runtime not in there, reason=f"what {runtime} needs is not installed, or Keras is 2"
    )
    return pytest.param(runtime, marks=skipped)


ALL = [wants(runtime) for runtime in SUFFIXES]
pytestmark = pytest.mark.skipif(not HERE, reason="none of the extra `runtimes` is here, or Keras is 2")


def smooth_images(number: int, size: tuple[int, int] = SERVED_SIZE, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, (number, 4, 3, 3)).astype(np.float32)
    return tf.cast(tf.image.resize(coarse, size), tf.uint8).numpy()


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runtimes") / "market"
    return export_encoder(normed_encoder(), folder, SERVED_SIZE, flip=True, warmup_batches=())


@pytest.fixture(scope="module")
def written(saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "files"
    return export_runtimes(saved_model, out, HERE, ("float32", "float16"))


@pytest.fixture(scope="module")
def served(saved_model: Path):
    loaded = tf.saved_model.load(str(saved_model))
    return lambda images: loaded.signatures["serving_default"](images=tf.constant(images))[
        "embedding"
    ].numpy()


@pytest.mark.skipif("onnx" not in HERE, reason="onnxruntime is not installed")
def test_the_guides_example(written: Path, served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text()
    (example,) = re.findall(
        r"^```python\n(from san_tf\.serving\.runtime_sessions .*?)^```$", guide, re.DOTALL | re.MULTILINE
    )
    (tmp_path / "runtimes").mkdir()
    (tmp_path / "runtimes" / "market").symlink_to(written)
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(5).integers(0, 256, (2, *SERVED_SIZE, 3), np.uint8)
    room = {"images": images}
    exec(example, room)
    np.testing.assert_allclose(room["embeddings"], served(images), atol=1e-4)


@pytest.mark.parametrize("runtime", ALL)
@pytest.mark.parametrize("weights", ["float32", "float16"])
def test_any_number_and_size_of_images(written: Path, served, runtime: str, weights: str) -> None:
    name = f"encoder{'' if weights == 'float32' else '.float16'}{SUFFIXES[runtime]}"
    session = open_session(written / name, threads=1)
    # float16 rounds kernels by at most 2^-11 of their size, and there are three in a row.
    tolerance = 1e-4 if weights == "float32" else 3 * 2**-11
    for number, size in ((1, SERVED_SIZE), (5, (50, 21)), (2, (9, 33)), (5, (50, 21)), (1, (1, 1))):
        images = smooth_images(number, size, seed=number)
        answer = session(images)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer, served(images), atol=tolerance)


@pytest.mark.parametrize("runtime", ALL)
def test_sessions_tell_what_they_take_and_give(written: Path, tmp_path: Path, runtime: str) -> None:
    for name in (f"encoder{SUFFIXES[runtime]}", f"encoder.float16{SUFFIXES[runtime]}"):
        # Alone in a folder: what a file tells goes with it.
        for file in written.glob(f"{Path(name).stem}.*"):
            shutil.copy(file, tmp_path)
        session = open_session(tmp_path / name)
        assert (session.image_size, session.dimensions) == (SERVED_SIZE, 24)


@pytest.mark.parametrize("runtime", ALL)
def test_nobody_in_a_frame_changes_nothing(written: Path, served, runtime: str) -> None:
    """OpenVINO answered with the call before; LiteRT refused every later call."""
    session = open_session(written / f"encoder{SUFFIXES[runtime]}", threads=1)
    people = smooth_images(4)
    for images in (people, people[:0], people, people[:3], [], people):
        wanted = served(np.asarray(images)) if len(images) else np.empty((0, 24), np.float32)
        found = session(images)
        assert found.dtype == np.float32 and found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    for wrong in (people[:, :0], people[:, :, :0], people / np.float32(255), people[0], people[..., :1]):
        with pytest.raises(UserError, match="Images must be uint8 of"):
            session(wrong)
    np.testing.assert_allclose(session(people), served(people), atol=1e-4)


@pytest.mark.parametrize("runtime", ALL)
def test_after_a_failure_in_the_runtime(
    written: Path, served, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(written / f"encoder{SUFFIXES[runtime]}", threads=1)
    people = smooth_images(4)
    session(people)
    with monkeypatch.context() as patched:
        patched.setattr(runtime_sessions, "checked_images", lambda images: images)
        with pytest.raises(UserError, match=r"encoder\S+ failed on 4 images of 32x16 pixels"):
            session(people[..., :2])  # past the check, so that the runtime itself has to refuse
    np.testing.assert_allclose(session(people), served(people), atol=1e-4)


@pytest.mark.parametrize("runtime", ALL)
def test_layouts_parts_and_threads(
    written: Path, served, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(written / f"encoder{SUFFIXES[runtime]}", threads=1)
    images = smooth_images(9, (20, 11))
    wanted = served(images)
    frozen = images.copy()
    frozen.setflags(write=False)
    for given in (
        np.asfortranarray(images),
        frozen,
        np.repeat(images, 2, axis=2)[:, :, ::2],
        images[::-1][::-1],
        list(images),
    ):
        np.testing.assert_allclose(session(given), wanted, atol=1e-4)
    monkeypatch.setattr(runtime_sessions, "_PIXELS", 2 * 20 * 11)  # five runs
    np.testing.assert_allclose(session(images), wanted, atol=1e-4)
    monkeypatch.undo()
    batches = [smooth_images(1 + n % 3, (10 + n % 7, 8 + n % 5), seed=n) for n in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for answer, batch in zip(pool.map(session, batches), batches, strict=True):
            np.testing.assert_allclose(answer, served(batch), atol=1e-4)


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("runtime", ALL)
def test_memory_does_not_grow_with_the_sizes_of_crops(written: Path, runtime: str) -> None:
    session = open_session(written / f"encoder{SUFFIXES[runtime]}", threads=1)

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    def embed_sizes(heights: range) -> None:
        for height in heights:
            for width in range(8, 33):
                session(np.zeros((1, height, width, 3), np.uint8))

    embed_sizes(range(20, 28))
    begin = resident()
    embed_sizes(range(28, 60))
    # 800 more sizes: 42 MB of OpenVINO with the cache that it sets by itself, 3 MB as it is opened here.
    assert resident() - begin < 20


@pytest.mark.parametrize("runtime", ALL)
def test_half_weights_take_half_the_room(written: Path, runtime: str) -> None:
    suffix = ".bin" if runtime == "openvino" else SUFFIXES[runtime]
    whole, half = (written / f"encoder{kind}{suffix}" for kind in ("", ".float16"))
    kernels = 3 * 3 * 3 * 16 + 3 * 3 * 16 * 16 + 16 * 24
    # 2 bytes less for each number of a kernel; casts in the graph take some of it.
    saved = whole.stat().st_size - half.stat().st_size
    assert 2 * kernels - 2500 <= saved <= 2 * kernels + 500


@pytest.mark.parametrize("runtime", [wants(runtime, int8=True) for runtime in SUFFIXES])
def test_int8_points_the_same_way(saved_model: Path, served, tmp_path: Path, runtime: str) -> None:
    calibration = list(smooth_images(30, seed=1))
    forms = ("images", "normalized")
    out = export_runtimes(saved_model, tmp_path / "out", [runtime], "int8", calibration, form=forms)
    images = smooth_images(20, (40, 20), seed=2)
    wanted = served(images)
    for form in ("", ".normalized"):
        name = f"encoder{form}.int8{SUFFIXES[runtime]}"
        found = open_session(out / name)(images)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        assert (np.sum(found * wanted, axis=1) / lengths).min() > 0.98
        assert np.abs(found - wanted).max() > 1e-5  # it is not float32 by another name
        assert json.loads((out / NOTES_FILE).read_text())["runtimes"]["files"][name]["cosine"] > 0.98


@pytest.fixture(scope="module")
def for_trackers(saved_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trackers") / "files"
    return export_runtimes(saved_model, out, HERE, form=("normalized", "unit"))


def as_trackers(path: Path, images: np.ndarray) -> np.ndarray:
    """Run a file as trackers do: float32 NCHW by the runtime itself."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path))
        (given,), (answer,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.type, given.shape) == (
            "images",
            "tensor(float)",
            ["batch", 3, *SERVED_SIZE],
        )
        assert (answer.name, answer.type, answer.shape) == ("embedding", "tensor(float)", ["batch", 24])
        return session.run(["embedding"], {"images": images})[0]
    if path.suffix == ".xml":
        import openvino

        model = openvino.Core().read_model(str(path))
        assert model.get_parameters()[0].get_layout() == openvino.Layout("NCHW")
        hint = {"INFERENCE_PRECISION_HINT": "f32"}
        return np.array(openvino.Core().compile_model(model, "CPU", hint)(images)[0])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path))
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert list(source["shape_signature"]) == [-1, 3, *SERVED_SIZE] and source["dtype"] == np.float32
    interpreter.resize_tensor_input(source["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(target["index"])


@pytest.mark.parametrize("runtime", ALL)
def test_files_for_trackers_take_their_pixels(for_trackers: Path, served, runtime: str) -> None:
    files = {form: for_trackers / f"encoder.{form}{SUFFIXES[runtime]}" for form in ("normalized", "unit")}
    people = smooth_images(5)
    # The published mean and standard deviation of ImageNet, RGB.
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    unit = people / 255
    feeds = {"unit": unit, "normalized": (unit - mean) / std}
    for form, file in files.items():
        fed = np.ascontiguousarray(feeds[form].transpose(0, 3, 1, 2), np.float32)
        for number in (5, 1):
            np.testing.assert_allclose(as_trackers(file, fed[:number]), served(people[:number]), atol=1e-4)
        # Sessions take the images that they take of every other file.
        session = open_session(file, threads=1)
        assert (session.image_size, session.dimensions) == (SERVED_SIZE, 24)
        for number, size in ((1, SERVED_SIZE), (5, (50, 21)), (2, (9, 33)), (1, (1, 1))):
            images = smooth_images(number, size, seed=number)
            np.testing.assert_allclose(session(images), served(images), atol=1e-4)
        assert session([]).shape == (0, 24)
        crops = [smooth_images(1, size)[0] for size in ((50, 21), (9, 33))]
        wanted = np.concatenate([served(crop[None]) for crop in crops])
        np.testing.assert_allclose(session.embed_crops(crops), wanted, atol=1e-4)
    # The tolerance tells the scales apart.
    exchanged = as_trackers(files["normalized"], np.float32(unit).transpose(0, 3, 1, 2).copy())
    assert np.abs(exchanged - served(people)).max() > 1e-2


def test_files_for_trackers_say_what_they_take(for_trackers: Path) -> None:
    notes = json.loads((for_trackers / NOTES_FILE).read_text())["runtimes"]["files"]
    assert set(notes) == {f"encoder.{form}{SUFFIXES[r]}" for r in HERE for form in ("normalized", "unit")}
    for name, row in notes.items():
        scaled = row["form"] == "normalized"
        assert row["input"] == {
            "form": row["form"], "dtype": "float32", "layout": "NCHW", "size": [*SERVED_SIZE],
            "channel_order": "RGB", "scale": "(pixel / 255 - mean) / std",
            "mean": [0.485, 0.456, 0.406] if scaled else [0, 0, 0],
            "std": [0.229, 0.224, 0.225] if scaled else [1, 1, 1],
        }  # fmt: skip
        assert f".{row['form']}." in name
        # Where BoxMOT looks for the size; it stops at what it does not know.
        beside = json.loads((for_trackers / f"{name}.metadata.json").read_text())["model_kwargs"]
        assert beside == {"img_size": [*SERVED_SIZE]} if scaled else "--form normalized" in str(beside)
        if name.endswith(".onnx"):
            import onnx

            own = {each.key: each.value for each in onnx.load(for_trackers / name).metadata_props}
            assert json.loads(own["san_tf"])["input"] == row["input"]
            # For Ultralytics: it takes a whole frame at once, or stops where it expects a number.
            assert "--form unit" in own["channels"] if scaled else own["args"] == "{'dynamic': True}"


@pytest.mark.skipif("onnx" not in HERE, reason="ONNX is not installed")
def test_a_file_that_does_not_say_its_scale_is_refused(for_trackers: Path, tmp_path: Path) -> None:
    import onnx

    def changed(**values: object) -> Path:
        model = onnx.load(for_trackers / "encoder.unit.onnx")
        own = {each.key: each.value for each in model.metadata_props}
        del model.metadata_props[:]
        if values:
            notes = json.loads(own["san_tf"])
            notes["input"] = {**notes["input"], **values}
            model.metadata_props.add(key="san_tf", value=json.dumps(notes))
        onnx.save(model, tmp_path / "encoder.unit.onnx")
        return tmp_path / "encoder.unit.onnx"

    open_session(changed(form="unit"))
    for values in (
        {}, {"mean": None}, {"mean": [0, 0]}, {"std": [1, 0, 1]}, {"std": "abc"}, {"size": [16, 32]},
        {"size": 32}, {"layout": "NHWC"}, {"channel_order": "BGR"}, {"dtype": "uint8"},
    ):  # fmt: skip
        with pytest.raises(UserError) as told:
            open_session(changed(**values))
        assert str(told.value) == (
            f"{tmp_path}/encoder.unit.onnx takes float32 of ('batch', 3, 32, 16), and its notes do not say "
            "how pixels are scaled; open encoder.onnx of its export, or write the file again with san-tf "
            "export-runtime."
        )


def test_exports_that_do_not_resize_have_no_form_for_trackers(saved_model: Path) -> None:
    @tf.function(input_signature=[tf.TensorSpec((None, 32, 16, 3), tf.uint8, "images")])
    def embed(images):
        return {"embedding": tf.reduce_mean(tf.cast(images, tf.float32), (1, 2))}

    strange = runtimes.Source(embed, fold(embed.get_concrete_function()), {"image_size": [32, 16]})
    with pytest.raises(UserError, match='its files can only have the form "images"; export it again'):
        strange.function("unit")


@pytest.mark.skipif("onnx" not in HERE, reason="ONNX is not installed")
def test_half_weights_are_kernels_only() -> None:
    import onnx

    shapes = {"kernel": (4, 3, 3, 3), "depthwise": (4, 1, 3, 3), "factor": (1, 3, 1, 1), "bias": (4,)}
    tensors = [onnx.numpy_helper.from_array(np.ones(shape, np.float32), n) for n, shape in shapes.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], tensors))
    runtimes.half_weights(model)
    assert [node.output[0] for node in model.graph.node] == ["kernel", "depthwise"]


def test_choices_are_looked_at(saved_model: Path, tmp_path: Path) -> None:
    for wrong, sentence in (
        ({"form": "nchw"}, "'nchw' is not a valid form; choose from images, normalized, unit"),
        ({"form": ["unit", 3]}, "3 is not a valid form"),
        ({"form": []}, "nothing to write without a form; choose from images"),
        ({"runtimes": "tensorrt"}, "'tensorrt' is not a valid runtime"),
        ({"runtimes": ()}, "nothing to write without a runtime"),
        ({"weights": ()}, "nothing to write without a kind of weights"),
    ):
        with pytest.raises(UserError, match=sentence):
            export_runtimes(saved_model, tmp_path / "out", **wrong)
    assert not list(tmp_path.iterdir())


def test_notes_tell_what_was_found(written: Path) -> None:
    notes = json.loads((written / NOTES_FILE).read_text())
    assert notes["flip_averaged"] and notes["image_size"] == list(SERVED_SIZE)
    files = notes["runtimes"]["files"]
    assert set(files) == {f"encoder{kind}{SUFFIXES[r]}" for r in HERE for kind in ("", ".float16")}
    for name, row in files.items():
        assert 0 <= row["difference"] <= (1e-2 if "float16" in name else 1e-4)
    assert notes["runtimes"]["packages"]["tensorflow"] == tf.__version__


def test_exports_of_former_versions_too(tmp_path: Path) -> None:
    """The small encoder in the repository resizes uint8 images, which LiteRT and ONNX do not."""
    model = Path(__file__).resolve().parents[2] / "saved_models" / "synthetic" / "1"
    out = export_runtimes(model, tmp_path / "out", HERE[:1])
    loaded = tf.saved_model.load(str(model))
    images = smooth_images(3, (100, 60))
    wanted = loaded.signatures["serving_default"](images=tf.constant(images))["embedding"].numpy()
    found = open_session(out / f"encoder{SUFFIXES[HERE[0]]}")(images)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize("runtime", ALL)
def test_disagreement_is_not_published(
    saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    honest = runtimes.open_session

    def dishonest(path, threads=0):
        session = honest(path, threads)
        return lambda images: session(images) + np.float32(2e-4)

    monkeypatch.setattr(runtimes, "open_session", dishonest)
    with pytest.raises(UserError, match=r"encoder\S* disagrees with the SavedModel \(by 2.0e-04; 1e-04 is"):
        export_runtimes(saved_model, tmp_path / "out", [runtime])
    assert not list(tmp_path.iterdir())


def test_calibration_images_are_looked_at(saved_model: Path, tmp_path: Path) -> None:
    for wrong in (smooth_images(1)[0] / np.float32(255), smooth_images(1)[0, :0], smooth_images(1)):
        with pytest.raises(UserError, match="Images must be uint8 of"):
            export_runtimes(saved_model, tmp_path / "out", HERE[:1], ["int8"], [wrong])
    assert not list(tmp_path.iterdir())


def test_existing_folder_is_kept_unless_asked_for(saved_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("")
    with pytest.raises(UserError, match=r"out exists already.*--overwrite"):
        export_runtimes(saved_model, out, HERE[:1])
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    export_runtimes(saved_model, out, HERE[:1], overwrite=True)
    assert not (out / "mine.txt").exists() and (out / NOTES_FILE).is_file()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    told = capsys.readouterr()
    return int(left.value.code or 0), told.out, told.err


def test_command(saved_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS["export-runtime"][0] == main.__module__
    code, out, error = run(capsys, saved_model.parent, "--to", HERE[0], "--out", tmp_path / "out")
    assert (code, error) == (0, "")
    assert f"encoder{SUFFIXES[HERE[0]]}" in out and "differs from the SavedModel by" in out


def test_mistakes_are_one_sentence(
    saved_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stranger = tmp_path / "stranger" / "1"
    tf.saved_model.save(tf.Module(), str(stranger))
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    cases = [
        ((tmp_path / "nothing", "--out", out), "is not a folder"),
        ((stranger, "--out", out), "is not an export of this package"),
        ((saved_model, "--out", out, "--weights", "int8"), "int8 needs images"),
        ((saved_model, "--out", out, "--weights", "int8", "--calibration", tmp_path / "x"), "does not exist"),
        ((saved_model, "--out", out, "--weights", "int8", "--calibration", broken), "cannot be decoded"),
        ((saved_model, "--out", out, "--to", "tensorrt"), "invalid choice"),
        ((saved_model, "--out", out, "--form", "nchw"), "invalid choice"),
        ((saved_model, "--out", out, "--calibrate_on", "0"), "give a number from 1"),
    ]
    for arguments, sentence in cases:
        code, _, error = run(capsys, *arguments)
        assert code == 2 and error.count("\n") == 1 and sentence in error, error
    for package, runtime in (
        ("ai_edge_litert.interpreter", "litert"),
        ("tf2onnx", "onnx"),
        ("openvino",) * 2,
    ):
        monkeypatch.setitem(sys.modules, package, None)
        code, _, error = run(capsys, saved_model, "--out", out, "--to", runtime)
        assert code == 2 and error.count("\n") == 1
        assert 'is not installed; pip install "san-tf[runtimes]" brings it.' in error
    assert not out.exists()


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no runtime known here; name a .tflite, .onnx or .xml file"):
        open_session(tmp_path / "encoder.h5")
    with pytest.raises(UserError, match="does not exist; write it with san-tf export-runtime"):
        open_session(tmp_path / "encoder.onnx")
    for runtime in HERE:
        damaged = tmp_path / f"damaged{SUFFIXES[runtime]}"
        damaged.write_bytes(b"not a model")
        with pytest.raises(UserError, match=r"damaged\S+ cannot be opened \(.*\); write it again"):
            open_session(damaged)


@pytest.mark.parametrize("runtime", ALL)
def test_gem_ibn_and_cosines_answer_alike_in_every_runtime(tmp_path: Path, runtime: str) -> None:
    """The power of GeM, instance norms of half of the channels, and the norms behind them."""
    settings = {"weights": None, "seed": 1, "pooling": "gem", "classifier": "arcface"}
    encoder = build_encoder("thin_resnet_ibn", (32, 16, 3), 5, "bnneck", **settings)
    rng = np.random.default_rng(0)
    for layer in encoder.layers:
        if layer.name.endswith(("_bn", "_in")):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    folder = export_encoder(encoder, tmp_path / "export", (32, 16), warmup_batches=())
    images = smooth_images(3, (32, 16))
    wanted = np.array(encoder(normalize(images.astype(np.float32)), training=False)["embedding"])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    out = export_runtimes(folder, tmp_path / "out", [runtime], ("float32",))
    answer = open_session(out / f"encoder{SUFFIXES[runtime]}", threads=1)(images)
    np.testing.assert_allclose(answer, wanted, atol=1e-4)

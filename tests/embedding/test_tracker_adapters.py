"""Embeddings reach the trackers of other packages.

Where a package is installed it is run itself. The calls that it makes are tested in any case, as recorded
from deep-sort-realtime 1.3.2, Ultralytics 8.4.190 and BoxMOT 25.0.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from san_tf.embedding.frames import FrameEncoder
from san_tf.errors import UserError
from san_tf.keras_compat import KERAS_3
from san_tf.serving.runtime_sessions import SUFFIXES, Session, _Runtime, open_session

SIZE, WIDTH = (8, 4), 96
# Left, top, right, bottom: two people; one outside the frame; one smaller than 16x8.
BOXES = np.array([[10, 20, 42, 100], [80, 30, 116, 110], [300, 20, 340, 100], [60, 60, 64, 70]], np.float64)


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (160, 200, 3), np.uint8)


@pytest.fixture
def encode() -> FrameEncoder:
    """An encoder whose embedding is the resized crop less its mean, scaled to length 1."""

    def embed(images: np.ndarray) -> np.ndarray:
        rows = images.reshape(len(images), -1) - images.mean((1, 2, 3))[:, None]
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return FrameEncoder(Session(Path("x.onnx"), _Runtime(embed, WIDTH, {"image_size": list(SIZE)}, True)))


@pytest.fixture
def wanted(encode: FrameEncoder, frame: np.ndarray) -> np.ndarray:
    """The embeddings of the two people."""
    embeddings, refused = encode(frame, BOXES)
    assert list(refused) == [False, False, True, True] and not embeddings[2:].any()
    assert abs(float(embeddings[0] @ embeddings[1])) < 0.5
    return embeddings[:2]


def as_sizes(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def as_centres(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def check_unlike(rows: np.ndarray, wanted: np.ndarray) -> None:
    """Refused boxes: of length 1, and matched by their looks with nobody."""
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    every = np.concatenate([rows, wanted])
    assert np.abs(rows @ every.T - np.eye(len(rows), len(every))).max() < 0.5


# The recorded calls.


def test_ultralytics_calls_with_centres_and_an_index(encode, frame, wanted):
    tracker = SimpleNamespace(encoder=None, args=SimpleNamespace(with_reid=False, model="auto"))
    encode.attach_to_ultralytics(SimpleNamespace(trackers=[tracker]))
    assert tracker.args.with_reid and tracker.args.model != "auto"
    detections = np.concatenate([as_centres(BOXES), np.arange(4)[:, None]], axis=1)
    found = tracker.encoder(frame, detections)
    np.testing.assert_allclose(found[:2], wanted, atol=1e-6)
    assert found[2:] == [None, None]
    assert tracker.encoder(frame, detections[:0]) == []
    with pytest.raises(UserError, match="Rotated boxes cannot be embedded"):
        tracker.encoder(frame, np.zeros((1, 6)))
    with pytest.raises(
        UserError, match="SimpleNamespace does not compare people by their looks; use tracker="
    ):
        encode.attach_to_ultralytics(SimpleNamespace(args=tracker.args))


def test_deep_sort_gets_as_many_embeddings_as_it_keeps(encode, frame, wanted):
    flat = np.array([[5, 5, 5, 60]])  # of width 0, which the tracker leaves out
    boxes = as_sizes(np.concatenate([BOXES[:1], flat, BOXES[1:]]))
    detections = [(list(box), 0.9, "person") for box in boxes]
    kept, embeds = encode.for_deep_sort(frame, detections)
    assert kept == [detections[place] for place in (0, 2, 3, 4)]
    np.testing.assert_allclose(embeds[:2], wanted, atol=1e-6)
    check_unlike(np.stack(embeds[2:]), wanted)
    assert encode.for_deep_sort(frame, []) == ([], [])


def test_boxmot_calls_its_backends_with_corners(encode, frame, wanted):
    found = encode.for_boxmot().get_features(BOXES.astype(np.float32), frame)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:2], wanted, atol=1e-6)
    check_unlike(found[2:], wanted)
    assert encode.for_boxmot().embedding_dim == WIDTH
    assert encode.for_boxmot().get_features(np.empty((0, 4), np.float32), frame).shape == (0, WIDTH)
    with pytest.raises(UserError, match="Rotated boxes cannot be embedded"):
        encode.for_boxmot().get_features(np.zeros((1, 5), np.float32), frame)


# The packages.


def test_ultralytics(encode, frame, wanted):
    pytest.importorskip("ultralytics")
    from ultralytics.trackers.track import TRACKER_MAP
    from ultralytics.utils import YAML, IterableSimpleNamespace
    from ultralytics.utils.checks import check_yaml

    class Boxes:
        """The part of `ultralytics.engine.results.Boxes` that trackers read."""

        def __init__(self, xyxy: np.ndarray) -> None:
            self.xyxy, self.xywh = xyxy, as_centres(xyxy)
            self.conf, self.cls = np.full(len(xyxy), 0.9), np.zeros(len(xyxy))

        def __len__(self) -> int:
            return len(self.xyxy)

        def __getitem__(self, which: Any) -> Boxes:
            return Boxes(self.xyxy[which])

    for name in ("botsort", "deepocsort", "tracktrack"):
        settings = IterableSimpleNamespace(**YAML.load(check_yaml(f"{name}.yaml")))
        tracker = TRACKER_MAP[name](settings)
        encode.attach_to_ultralytics(tracker)
        for number in range(3):
            # Each person at its own place, the second behind the first in the list at odd frames.
            order = [0, 1, 3] if number % 2 == 0 else [1, 3, 0]
            tracker.update(Boxes(BOXES[order]), frame, feats=None)
        tracks = sorted(tracker.tracked_stracks, key=lambda track: track.xyxy[0])
        near = [track for track in tracks if track.xyxy[2] - track.xyxy[0] > 20]
        assert len(near) == 2, name
        for track, embedding in zip(near, wanted, strict=True):
            np.testing.assert_allclose(track.smooth_feat, embedding, atol=1e-5)
        small = [track for track in tracks if track.xyxy[2] - track.xyxy[0] < 20]
        assert all(track.smooth_feat is None for track in small)
    plain = TRACKER_MAP["bytetrack"](IterableSimpleNamespace(**YAML.load(check_yaml("bytetrack.yaml"))))
    with pytest.raises(UserError, match="BYTETracker does not compare people by their looks"):
        encode.attach_to_ultralytics(plain)


def test_deep_sort_realtime(encode, frame, wanted):
    module = pytest.importorskip("deep_sort_realtime.deepsort_tracker")
    tracker = module.DeepSort(embedder=None, n_init=1)
    flat = np.array([[5, 5, 5, 60]])
    boxes = as_sizes(np.concatenate([flat, BOXES[[0, 1, 3]]]))
    with np.errstate(all="raise"):
        for _ in range(3):
            detections = [(list(box), 0.9, "person") for box in boxes]
            tracks = tracker.update_tracks(*encode.for_deep_sort(frame, detections))
    assert len(tracks) == 3
    for track in tracks:
        (place,) = np.flatnonzero(np.abs(BOXES - track.to_ltrb()).max(axis=1) < 3)
        if place < 2:
            np.testing.assert_allclose(track.get_feature(), wanted[place], atol=1e-6)


def test_boxmot(encode, frame, wanted):
    pytest.importorskip("boxmot")
    torch = pytest.importorskip("torch")
    from boxmot.pipelines.tracking import TrackingPipeline
    from boxmot.reid import AppearanceEncoder
    from boxmot.structures import Boxes, Detections, Frame
    from boxmot.trackers.box.botsort.tracker import BotSort

    assert isinstance(encode.for_boxmot(), AppearanceEncoder)
    tracker = BotSort()
    pipeline = TrackingPipeline(None, tracker, reid=encode.for_boxmot())
    image = torch.from_numpy(np.ascontiguousarray(frame[..., ::-1].transpose(2, 0, 1)))
    for number in range(2):
        boxes = torch.from_numpy(BOXES.astype(np.float32))[: 0 if number == 1 else 4]
        count = len(boxes)
        found = Detections(
            Boxes(boxes), torch.full((count,), 0.9), torch.zeros(count, dtype=torch.int64), str(number)
        )
        result = pipeline.step_detections(Frame(image, str(number), "video", number), found)
        embeddings = result.detections.embeddings.numpy()
        assert embeddings.shape == (count, WIDTH)
        if count:
            np.testing.assert_allclose(embeddings[:2], wanted, atol=1e-6)
            check_unlike(embeddings[2:], wanted)
    # The tracker alone, with frames as OpenCV reads them.
    tracker = BotSort(reid_model=encode.for_boxmot())
    rows = np.concatenate([BOXES, np.full((4, 1), 0.9), np.zeros((4, 1))], axis=1).astype(np.float32)
    tracker.update(rows, frame)
    tracks = sorted(tracker.active_tracks, key=lambda track: track.xyxy[0])
    near = [track for track in tracks if 20 < track.xyxy[2] - track.xyxy[0] < 38]
    for track, embedding in zip(near, wanted, strict=True):
        np.testing.assert_allclose(track.smooth_feat, embedding, atol=1e-5)


def test_supervision(encode, frame, wanted):
    Detections = pytest.importorskip("supervision").Detections
    given = Detections(xyxy=BOXES, confidence=np.full(4, 0.9), data={"shirt": np.array(list("abcd"))})
    found = encode.for_supervision(frame, given)
    assert "embedding" not in given.data and list(found["shirt"]) == list("abcd")
    np.testing.assert_allclose(found["embedding"][:2], wanted, atol=1e-6)
    assert list(found["embedding_refused"]) == [False, False, True, True]
    people = found[~found["embedding_refused"]]
    np.testing.assert_allclose(people["embedding"], wanted, atol=1e-6)
    assert encode.for_supervision(frame, Detections.empty())["embedding"].shape == (0, WIDTH)


# Files that the packages load themselves, of the encoder in the repository.

EXPORT = Path(__file__).resolve().parents[2] / "saved_models" / "synthetic" / "1"


def people() -> list[np.ndarray]:
    """Smooth crops of several sizes, RGB."""
    rng = np.random.default_rng(0)
    sizes = ((200, 80), (128, 64), (70, 31), (300, 140))
    coarse = [rng.uniform(0, 255, (7, 5, 3)).astype(np.float32) for _ in sizes]
    return [
        cv2.resize(crop, size[::-1]).round().astype(np.uint8)
        for crop, size in zip(coarse, sizes, strict=True)
    ]


def files_for_trackers(folder: Path, *runtimes: str) -> Path:
    pytest.importorskip("tf2onnx")
    if not KERAS_3:
        pytest.skip("with TensorFlow 2.15 the extra is untested")
    from san_tf.serving.runtimes import export_runtimes

    return export_runtimes(EXPORT, folder / "files", runtimes, form=("normalized", "unit"))


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.sum(first * second, axis=1) / lengths


def test_boxmot_loads_files(tmp_path, monkeypatch):
    pytest.importorskip("boxmot")
    from boxmot.reid.core import ReID
    from boxmot.trackers.box.botsort.tracker import BotSort
    from boxmot.utils.checks import RequirementsChecker

    # It would install the version of ONNX Runtime that it was built with.
    monkeypatch.setattr(RequirementsChecker, "check_packages", lambda *_, **__: None)
    names = {"litert": "ai_edge_litert", "onnx": "onnxruntime", "openvino": "openvino"}
    here = [runtime for runtime, name in names.items() if importlib.util.find_spec(name)]
    files = files_for_trackers(tmp_path, *here)
    crops = people()
    wanted = open_session(EXPORT).embed_crops(crops)
    for runtime in here:
        file = files / f"encoder.normalized{SUFFIXES[runtime]}"
        reid = ReID(file)
        assert reid.model.input_shape == (128, 64)
        for count in (4, 1):
            found = reid([crop[..., ::-1] for crop in crops[:count]])
            assert cosines(found, wanted[:count]).min() > 0.999, runtime
        with pytest.raises(ValueError, match="takes pixels from 0 to 1; give BoxMOT the file of --form norm"):
            ReID(files / f"encoder.unit{SUFFIXES[runtime]}")
    # Of a tracker, with boxes in a frame.
    frame = np.zeros((320, 320, 3), np.uint8)
    frame[10:210, 20:100], frame[100:228, 150:214] = crops[0][..., ::-1], crops[1][..., ::-1]
    tracker = BotSort(reid_weights=files / "encoder.normalized.onnx")
    boxes = [[20, 10, 100, 210, 0.9, 0], [150, 100, 214, 228, 0.9, 0]]
    tracker.update(np.array(boxes, np.float32), frame)
    found = np.stack([track.smooth_feat for track in sorted(tracker.active_tracks, key=lambda t: t.xyxy[0])])
    assert cosines(found, wanted[:2]).min() > 0.999


def test_ultralytics_loads_the_onnx_file(tmp_path, monkeypatch):
    pytest.importorskip("ultralytics")
    pytest.importorskip("onnxruntime")
    from ultralytics.trackers.utils.reid import build_encoder

    files = files_for_trackers(tmp_path, "onnx")
    encoder = build_encoder(True, str(files / "encoder.unit.onnx"), device="cpu")
    assert encoder.imgsz == (128, 64)
    batches, forward = [], encoder.model.backend.forward
    monkeypatch.setattr(encoder.model.backend, "forward", lambda im: batches.append(len(im)) or forward(im))
    rng = np.random.default_rng(1)
    frame = cv2.resize(rng.integers(0, 256, (12, 15, 3), np.uint8), (300, 240))
    boxes = np.array([[60, 100, 60, 150, 0], [200, 120, 50, 130, 1], [120, 90, 40, 100, 2]], np.float32)
    found = np.stack(encoder(frame, boxes))
    # It widens the boxes itself.
    crops = [np.ascontiguousarray(crop[..., ::-1]) for crop in encoder._crop_detections(frame, boxes)]
    assert cosines(found, open_session(EXPORT).embed_crops(crops)).min() > 0.999
    assert batches == [3]
    with pytest.raises(ValueError, match="normalized pixels; give Ultralytics the file of --form unit"):
        build_encoder(True, str(files / "encoder.normalized.onnx"), device="cpu")

"""The warm-up file says to TensorFlow Serving's own messages what it should, and the export answers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tiny_encoder import SERVED_SIZE, small_encoder

from san_tf.errors import UserError
from san_tf.serving.encoder_export import WARMUP_FILE, export_encoder


def records(folder: Path) -> list[bytes]:
    return [record.numpy() for record in tf.data.TFRecordDataset(str(folder / WARMUP_FILE))]


def wire(message: bytes) -> list[tuple[int, bytes]]:
    """The length-delimited fields of a message, by number, read by hand (protobuf.dev, "Encoding")."""
    fields, position = [], 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(message):
        tag = varint()
        assert tag & 7 == 2, "length-delimited"
        length = varint()
        fields.append((tag >> 3, message[position : position + length]))
        position += length
    return fields


def test_fields_on_the_wire(served_models: Path) -> None:
    found = records(served_models / "1")
    assert len(found) == 4
    for record, signature in zip(found, ["serving_default", "serving_bytes"] * 2, strict=True):
        ((number, predict_log),) = wire(record)
        assert number == 6  # PredictionLog.predict_log
        fields = dict(wire(predict_log))
        request = dict(wire(fields[1]))
        assert dict(wire(request[1])) == {1: b"market", 3: signature.encode()}
        entry = dict(wire(request[2]))
        assert entry[1] == {"serving_default": b"images", "serving_bytes": b"image_bytes"}[signature]
        tensor = tf.make_ndarray(tensor_pb2.TensorProto.FromString(entry[2]))
        assert tensor.shape in ((1, *SERVED_SIZE, 3), (32, *SERVED_SIZE, 3), (1,), (32,))


def test_the_file_is_small(served_models: Path) -> None:
    # 32 images of 32 x 16 x 3 values would be 49 kB as they are.
    assert (served_models / "1" / WARMUP_FILE).stat().st_size < 30_000


def real_requests(folder: Path) -> list[Any]:
    log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    found = []
    for record in records(folder):
        message = log.PredictionLog.FromString(record)
        known = log.PredictionLog.FromString(record)
        known.DiscardUnknownFields()
        assert known == message and known.ByteSize() == len(record)  # nothing that the real messages lack
        assert message.WhichOneof("log_type") == "predict_log"
        found.append(message.predict_log)
    return found


def test_replayed_through_the_export(served_models: Path) -> None:
    signatures = tf.saved_model.load(str(served_models / "1")).signatures
    requests = real_requests(served_models / "1")
    answered = 0
    for log in requests:
        assert log.request.model_spec.name == "market"
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in log.request.inputs.items()}
        embedding = signatures[log.request.model_spec.signature_name](**inputs)["embedding"].numpy()
        (size,) = {len(value) for value in inputs.values()}
        assert embedding.shape == (size, 8)
        assert np.isfinite(embedding).all()
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)
        if size == 1:
            noted = tf.make_ndarray(log.response.outputs["embedding"])
            np.testing.assert_allclose(embedding, noted, atol=1e-6)
            answered += 1
        else:
            assert not log.response.outputs
    assert answered == 2
    sizes = [next(iter(log.request.inputs.values())).tensor_shape.dim[0].size for log in requests]
    assert sizes == [1, 1, 32, 32]


def test_the_answers_are_not_those_of_another_version(served_models: Path) -> None:
    first, second = (
        tf.make_ndarray(real_requests(served_models / version)[1].response.outputs["embedding"])
        for version in ("1", "2")
    )
    assert np.abs(first - second).max() > 1e-2


def test_servers_unpack_the_shortened_tensor(served_models: Path) -> None:
    # The C++ runtime reads a constant's TensorProto as a server reads a request's.
    tensor = real_requests(served_models / "1")[2].request.inputs["images"]
    assert len(tensor.int_val) + len(tensor.tensor_content) < 100
    graph = tf.compat.v1.GraphDef()
    node = graph.node.add(name="images", op="Const")
    node.attr["dtype"].type = tensor.dtype
    node.attr["value"].tensor.CopyFrom(tensor)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        (images,) = tf.import_graph_def(graph, return_elements=["images:0"])
        value = session.run(images)
    assert value.shape == (32, *SERVED_SIZE, 3)
    assert (value == 128).all()


def test_batch_sizes_are_chosen(tmp_path: Path) -> None:
    encoder = small_encoder(1)
    folder = export_encoder(encoder, tmp_path / "few", SERVED_SIZE, warmup_batches=[2])
    assert len(records(folder)) == 2
    folder = export_encoder(encoder, tmp_path / "none", SERVED_SIZE, warmup_batches=())
    assert not (folder / WARMUP_FILE).exists()
    with pytest.raises(UserError, match=r"at least 1 each; received \[1, 0\]"):
        export_encoder(encoder, tmp_path / "zero", SERVED_SIZE, warmup_batches=[1, 0])
    assert not (tmp_path / "zero").exists()

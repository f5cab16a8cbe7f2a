"""The way to a model server by gRPC: fewer bytes and less work than REST, and the version is told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from san_tf.errors import UserError
from san_tf.serving.retries import TransientError
from san_tf.serving.transport import (
    INPUT,
    OUTPUT,
    SIGNATURE,
    Model,
    Prediction,
    RefusedError,
    WrongAnswerError,
)

_TRANSIENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED")
_REFUSED = ("INVALID_ARGUMENT", "OUT_OF_RANGE")
_OPTIONS = [
    # Batches of photographs and of embeddings may be larger than gRPC's 4 MiB; the server sets its own limit.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it connects again, during which every request fails at once.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A new client must not inherit another's waiting.
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcTransport:
    """TensorFlow Serving's PredictionService.

    Args:
        address: `host:port`.
        model: the model to ask.
        secure: whether to speak TLS, with the system's certificates.

    Raises:
        UserError: `tensorflow-serving-api` is not installed.
    """

    def __init__(self, address: str, model: Model, secure: bool = False) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise UserError(
                'gRPC wants tensorflow-serving-api: pip install "san-tf[serving]" (of one version with '
                "TensorFlow), or ask by REST: http://HOST:8501."
            ) from error
        self.address = address
        self._error = grpc.RpcError
        credentials = grpc.ssl_channel_credentials() if secure else None
        self._channel = (
            grpc.secure_channel(address, credentials, _OPTIONS)
            if credentials
            else grpc.insecure_channel(address, _OPTIONS)
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._blank = predict_pb2.PredictRequest(output_filter=[OUTPUT])
        spec = self._blank.model_spec
        spec.name, spec.signature_name = model.name, SIGNATURE
        if model.version is not None:
            spec.version.value = model.version
        elif model.label is not None:
            spec.version_label = model.label

    def predict(self, files: Sequence[bytes], timeout: float) -> Prediction:
        """Embed JPEG or PNG files; see `Transport.predict`."""
        import tensorflow as tf

        request = type(self._blank)()
        request.CopyFrom(self._blank)
        request.inputs[INPUT].CopyFrom(tf.make_tensor_proto(list(files), tf.string, (len(files),)))
        try:
            response = self._stub.Predict(request, timeout=timeout)
        except self._error as error:
            raise self._as_ours(error) from error
        if OUTPUT not in response.outputs:
            raise WrongAnswerError(f"its answer has no `{OUTPUT}`")
        try:
            embeddings = tf.make_ndarray(response.outputs[OUTPUT])
        except (ValueError, TypeError) as error:
            raise WrongAnswerError("its answer holds no table of numbers") from error
        if embeddings.dtype != np.float32:
            raise WrongAnswerError(f"its embeddings are {embeddings.dtype} in place of float32")
        version = response.model_spec.version.value if response.model_spec.HasField("version") else None
        return Prediction(embeddings, version)

    def close(self) -> None:
        """Close the channel; requests under way fail."""
        self._channel.close()

    def _as_ours(self, error: Any) -> Exception:
        code = error.code().name
        details = " ".join(str(error.details()).split())[:200]
        if code == "DEADLINE_EXCEEDED":
            return TransientError("no answer in time")
        if code in _TRANSIENT:
            return TransientError(f"{code}: {details}")
        if code in _REFUSED:
            return RefusedError(f"{code}: {details}")
        return UserError(
            f"{self.address} cannot be asked ({code}: {details}); see the model's name and label."
        )

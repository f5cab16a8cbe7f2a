"""gRPC transport to a model server: less traffic and work than REST, and it reports versions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from san_tf.errors import UserError, one_line
from san_tf.serving.retries import TransientError
from san_tf.serving.transport import (
    INPUT,
    MOST_NUMBERS,
    OUTPUT,
    SIGNATURE,
    Model,
    Prediction,
    TooLargeError,
    WrongAnswerError,
    check_shape,
    refusal,
)

_TRANSIENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED")
_REFUSED = ("INVALID_ARGUMENT", "OUT_OF_RANGE", "FAILED_PRECONDITION", "NOT_FOUND")
_OPTIONS = [
    # Batches of photographs may be larger than gRPC's 4 MiB; the server sets its own limit.
    ("grpc.max_send_message_length", -1),
    # No compression: the limit on answers counts received bytes, so compressed answers would get around it.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # By default gRPC waits up to two minutes to reconnect, and every request fails immediately meanwhile.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # A new client must not share another client's reconnect delay.
    ("grpc.use_local_subchannel_pool", 1),
]


class GrpcTransport:
    """TensorFlow Serving's PredictionService.

    Args:
        address: `host:port`.
        model: the model to use.
        secure: whether to use TLS, with the system's certificates.
        rows: most images per request.
        most: most numbers per embedding.

    Raises:
        UserError: `tensorflow-serving-api` is not installed.
    """

    def __init__(
        self, address: str, model: Model, secure: bool = False, rows: int = 32, most: int = MOST_NUMBERS
    ) -> None:
        try:
            import grpc
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError as error:
            raise UserError(
                'gRPC needs tensorflow-serving-api: pip install "san-tf[serving]" (in the same version as '
                "TensorFlow), or use REST: http://HOST:8501."
            ) from error
        self.address, self.model, self._most = address, model, most
        self._error = grpc.RpcError
        self._room = rows * most * np.dtype(np.float32).itemsize + 2**16
        options = [*_OPTIONS, ("grpc.max_receive_message_length", self._room)]
        credentials = grpc.ssl_channel_credentials() if secure else None
        self._channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._blank = predict_pb2.PredictRequest(output_filter=[OUTPUT])
        spec = self._blank.model_spec
        spec.name, spec.signature_name = model.name, SIGNATURE
        if model.version is not None:
            spec.version.value = model.version
        elif model.label is not None:
            spec.version_label = model.label

    def predict(self, files: Sequence[bytes], timeout: float, version: int | None = None) -> Prediction:
        """Embed JPEG or PNG files; see `Transport.predict`."""
        from tensorflow.core.framework.types_pb2 import DT_STRING

        request = type(self._blank)()
        request.CopyFrom(self._blank)
        tensor = request.inputs[INPUT]
        tensor.dtype = DT_STRING
        tensor.tensor_shape.dim.add(size=len(files))
        tensor.string_val.extend(files)
        try:
            response = self._stub.Predict(request, timeout=timeout)
        except self._error as error:
            raise self._as_ours(error) from error
        if OUTPUT not in response.outputs:
            raise WrongAnswerError(f"its answer has no `{OUTPUT}`")
        embeddings = _decoded(response.outputs[OUTPUT], len(files), self._most)
        version = response.model_spec.version.value if response.model_spec.HasField("version") else None
        return Prediction(embeddings, version)

    def current_version(self, timeout: float) -> None:
        """Return None, because each answer reports its version."""

    def close(self) -> None:
        """Close the channel; open requests fail."""
        self._channel.close()

    def _as_ours(self, error: Any) -> Exception:
        code = error.code().name if error.code() else "UNKNOWN"
        details = one_line(error.details())
        size = re.search(r"larger than max \((\d+) vs\. (\d+)\)", details)
        if size and int(size.group(2)) == self._room:
            return WrongAnswerError(f"its answer has {int(size.group(1)):,} bytes")
        if re.search(r"http1\.x server|Failed parsing HTTP/2", details):
            return UserError(
                f"{self.address} does not speak gRPC; if it is a server's REST port, write http://HOST:8501."
            )
        if re.search(r"handshake failed|CERTIFICATE_VERIFY_FAILED", details, re.I):
            return UserError(
                f"{self.address} cannot be asked by TLS ({details}); see its certificate, or write "
                "grpc://HOST:8500 if it has none."
            )
        if code == "DEADLINE_EXCEEDED":
            return TransientError("no answer in time")
        message = f"{code}: {details}"
        found = refusal(self.address, self.model, message)
        # Codes of proxies vary, so the words decide about the size.
        if isinstance(found, TooLargeError):
            return found
        # "NOT_FOUND" and similar codes do not depend on the image.
        if code in _REFUSED and (
            isinstance(found, UserError) or code in ("INVALID_ARGUMENT", "OUT_OF_RANGE")
        ):
            return found
        if code in _TRANSIENT:
            return TransientError(message)
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return UserError(f"{self.address} needs a permission that the client does not have ({message}).")
        return UserError(f"{self.address} cannot be asked for {self.model} ({message}); see what it serves.")


def _decoded(tensor: Any, rows: int, most: int) -> np.ndarray:
    """Decode the embeddings of a `TensorProto`; a few bytes may claim to be gigabytes."""
    from tensorflow.core.framework.types_pb2 import DT_FLOAT, DataType

    if tensor.dtype != DT_FLOAT:
        known = tensor.dtype in DataType.values()
        name = DataType.Name(tensor.dtype) if known else str(tensor.dtype)
        raise WrongAnswerError(f"its embeddings are {name} instead of float32")
    shape = () if tensor.tensor_shape.unknown_rank else tuple(d.size for d in tensor.tensor_shape.dim)
    check_shape(shape, rows, most)
    count = shape[0] * shape[1]
    if tensor.tensor_content:
        if len(tensor.tensor_content) != 4 * count:
            raise WrongAnswerError("its answer holds other numbers than its shape says")
        return np.frombuffer(tensor.tensor_content, "<f4").astype(np.float32).reshape(shape)
    values = np.array(tensor.float_val, np.float32)
    if not 0 < len(values) <= count:
        raise WrongAnswerError("its answer holds other numbers than its shape says")
    # Equal numbers at the end are sent only once.
    return np.concatenate([values, np.full(count - len(values), values[-1])]).reshape(shape)

"""Texts of the files for TensorFlow Serving and Docker Compose, one function for each file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

IMAGE = "tensorflow/serving:2.21.0"
GRPC_PORT, REST_PORT = 8500, 8501
METRICS_PATH = "/monitoring/prometheus/metrics"
# Folders inside the container: the model's versions, and these files.
MODELS, KIT = "/models", "/kit"
POLL_SECONDS = 30


def models_config(model: str, labels: Mapping[str, int]) -> str:
    """Return `models.config`, a `tensorflow.serving.ModelServerConfig`: versions to load, and labels.

    Args:
        model: name of the model: letters, digits, `_`, `-`, `.`.
        labels: version by label; only these versions are loaded.
    """
    versions = "\n".join(f"        versions: {version}" for version in sorted(set(labels.values())))
    named = "\n".join(
        f'    version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items()
    )
    return f"""\
# Read again every {POLL_SECONDS} seconds: no restart is needed.
model_config_list {{
  config {{
    name: "{model}"
    base_path: "{MODELS}/{model}"
    model_platform: "tensorflow"
    model_version_policy {{
      specific {{
{versions}
      }}
    }}
{named}
  }}
}}
"""


def batching_config(max_batch_size: int, timeout_micros: int) -> str:
    """Return `batching.config`, a `tensorflow.serving.BatchingParameters`.

    Args:
        max_batch_size: most images in one run of the network; larger requests are refused.
        timeout_micros: time that the first request of a batch waits for others, in microseconds.
    """
    return f"""\
# Most images in one run of the network, as in the export's warm-up. Larger requests are refused. The server
# runs as many batches at a time as it has cores (num_batch_threads).
max_batch_size {{ value: {max_batch_size} }}
# Time that the first request waits for others, in microseconds.
batch_timeout_micros {{ value: {timeout_micros} }}
# Most waiting batches; further requests get UNAVAILABLE, and the client tries again later.
max_enqueued_batches {{ value: 100 }}
# Padding images of different sizes with black would change their embeddings. Send files to serving_bytes, or
# images of one size to serving_default.
pad_variable_length_inputs: false
"""


def monitoring_config() -> str:
    """Return `monitoring.config`, a `tensorflow.serving.MonitoringConfig`: metrics for Prometheus."""
    return f"""\
prometheus_config {{
  enable: true
  path: "{METRICS_PATH}"
}}
"""


def compose_file(model: str, model_folder: str, image: str, gpu: bool = False) -> str:
    """Return `docker-compose.yml`: one server for this machine only, restarted when it dies.

    Args:
        model: name of the model.
        model_folder: the folder of versions, absolute or relative to the compose file.
        image: Docker image with its tag, so that the same file always starts the same server.
        gpu: reserve a GPU; without the reservation a container sees none, whatever its image.
    """
    # The image has bash but no curl; bash can open sockets.
    status = f"GET /v1/models/{model} HTTP/1.0\\r\\n\\r\\n"
    probe = f"exec 3<>/dev/tcp/127.0.0.1/{REST_PORT} && printf '{status}' >&3 && grep -q '\"AVAILABLE\"' <&3"
    service: dict[str, Any] = {
        "image": image,
        "command": [
            f"--model_config_file={KIT}/models.config",
            f"--model_config_file_poll_wait_seconds={POLL_SECONDS}",
            # Labels must not fail at the start, when no version is loaded yet.
            "--allow_version_labels_for_unavailable_models=true",
            "--enable_batching=true",
            f"--batching_parameters_file={KIT}/batching.config",
            f"--monitoring_config_file={KIT}/monitoring.config",
        ],
        # oneDNN then prepares the weights once, not in each request; here they never change.
        "environment": {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"},
        "ports": [f"127.0.0.1:{port}:{port}" for port in (GRPC_PORT, REST_PORT)],
        # Folders, not files: a container would keep the old version of a replaced file.
        "volumes": [
            {"type": "bind", "source": model_folder, "target": f"{MODELS}/{model}", "read_only": True},
            {"type": "bind", "source": ".", "target": KIT, "read_only": True},
        ],
        "healthcheck": {
            "test": ["CMD", "bash", "-c", probe],
            "interval": "10s",
            "timeout": "5s",
            "start_period": "60s",
        },
        "restart": "unless-stopped",
    }
    if gpu:
        # One GPU: the server uses only one, but would take the memory of all that it sees.
        device = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    text: str = yaml.safe_dump({"services": {"serving": service}}, sort_keys=False, width=110)
    return (
        f"# {GRPC_PORT}: gRPC, {REST_PORT}: REST and {METRICS_PATH}. Both answer this machine only;\n"
        "# to open them to others, put a proxy with TLS and access control before them.\n" + text
    )

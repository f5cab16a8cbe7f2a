"""The files TensorFlow Serving and Docker Compose read, as text; each function makes one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

IMAGE = "tensorflow/serving:2.21.0"
GRPC_PORT, REST_PORT = 8500, 8501
METRICS_PATH = "/monitoring/prometheus/metrics"
# Where the container finds the model's folder of versions, and these files.
MODELS, KIT = "/models", "/kit"
POLL_SECONDS = 30


def models_config(model: str, labels: Mapping[str, int]) -> str:
    """`models.config`, a `tensorflow.serving.ModelServerConfig`: which versions are loaded, and their labels.

    Args:
        model: its name: letters, digits, `_`, `-`, `.`.
        labels: version by label; these versions are loaded and no others.
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
    """`batching.config`, a `tensorflow.serving.BatchingParameters`: what arrives together runs together.

    Args:
        max_batch_size: images in one run of the network; larger requests are refused.
        timeout_micros: how long the first request of a batch waits for others, in microseconds.
    """
    return f"""\
# Images in one run of the network; as many as the export warms up. Larger requests are refused. There run as
# many batches at a time as the server has cores (num_batch_threads).
max_batch_size {{ value: {max_batch_size} }}
# How long the first request waits for others, in microseconds.
batch_timeout_micros {{ value: {timeout_micros} }}
# Batches that wait; requests beyond are answered with UNAVAILABLE, and a client's retry spreads them.
max_enqueued_batches {{ value: 100 }}
# Padding images of different sizes with black would change their embeddings. Send files to serving_bytes, or
# images of one size to serving_default.
pad_variable_length_inputs: false
"""


def monitoring_config() -> str:
    """`monitoring.config`, a `tensorflow.serving.MonitoringConfig`: metrics for Prometheus, by REST."""
    return f"""\
prometheus_config {{
  enable: true
  path: "{METRICS_PATH}"
}}
"""


def compose_file(model: str, model_folder: str, image: str, gpu: bool = False) -> str:
    """`docker-compose.yml`: one server, reachable from this machine only, restarted when it dies.

    Args:
        model: its name.
        model_folder: the folder of versions, absolute or relative to the compose file.
        image: with its tag, so that the same file starts the same server next year.
        gpu: reserve a GPU; without the reservation a container sees none, whatever its image.
    """
    # The image holds bash and no curl; bash opens sockets itself.
    status = f"GET /v1/models/{model} HTTP/1.0\\r\\n\\r\\n"
    probe = f"exec 3<>/dev/tcp/127.0.0.1/{REST_PORT} && printf '{status}' >&3 && grep -q '\"AVAILABLE\"' <&3"
    service: dict[str, Any] = {
        "image": image,
        "command": [
            f"--model_config_file={KIT}/models.config",
            f"--model_config_file_poll_wait_seconds={POLL_SECONDS}",
            # At the start no version is loaded yet, and labels must not fail for that.
            "--allow_version_labels_for_unavailable_models=true",
            "--enable_batching=true",
            f"--batching_parameters_file={KIT}/batching.config",
            f"--monitoring_config_file={KIT}/monitoring.config",
        ],
        # oneDNN then lays weights out for its kernels once, not in each request: here they never change.
        "environment": {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"},
        "ports": [f"127.0.0.1:{port}:{port}" for port in (GRPC_PORT, REST_PORT)],
        # Folders, not files: a file that is replaced would stay the old one inside the container.
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
        # The server runs a version on one GPU; it would take the memory of all that it sees.
        device = {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
        service["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    text: str = yaml.safe_dump({"services": {"serving": service}}, sort_keys=False, width=110)
    return (
        f"# {GRPC_PORT}: gRPC, {REST_PORT}: REST and {METRICS_PATH}. Both answer this machine only;\n"
        "# to open them to others, put a proxy with TLS and access control before them.\n" + text
    )

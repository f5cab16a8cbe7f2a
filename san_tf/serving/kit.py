"""`python -m san_tf.serving.kit saved_models/market`: files for serving an export with TensorFlow Serving.

It writes a Docker Compose file, the server's three configurations and a README. To swap a version, run it
again with other labels; a running server reads the new labels.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from san_tf.atomic import atomic_file
from san_tf.command_line import Parser, printable, run_as_command
from san_tf.errors import UserError
from san_tf.serving.fingerprint import verify_export
from san_tf.serving.servable import check_version, find_versions
from san_tf.start import import_tensorflow
from san_tf.trusted import model_path

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


def readme(
    model: str, labels: Mapping[str, int], command: str, max_batch_size: int, gpu: bool = False
) -> str:
    """Return the README of a kit.

    Args:
        model: name of the model.
        labels: version by label.
        command: command that wrote the kit, without labels.
        max_batch_size: most images in one request.
        gpu: whether a GPU is reserved for the server.
    """
    carried = ", ".join(f"`{label}` is version {version}" for label, version in labels.items())
    rest = f"http://localhost:{REST_PORT}"
    instance = '{"signature_name": "serving_bytes", "instances": [{"image_bytes": {"b64": "%s"}}]}'
    reserved = (
        "One GPU is reserved for it: the machine needs NVIDIA's driver and Container Toolkit, or Compose\n"
        'says "could not select device driver".\n\n'
        if gpu
        else ""
    )
    return f"""\
# Serving `{model}`

In this folder ({carried}):

```sh
docker compose up -d
docker compose ps        # healthy: a version is loaded and warmed up
curl -s {rest}/v1/models/{model}
```

{reserved}gRPC answers at port {GRPC_PORT}, REST at {REST_PORT}, both to this machine only. The server
has no TLS and no access control; to open it to others, put a proxy with both before it.

## Ask it

`serving_bytes` takes JPEG and PNG files, `serving_default` uint8 images of one size; both give `embedding`.

```sh
printf '{instance}' \\
  "$(base64 < photo.jpg | tr -d '\\n')" |
  curl -s -d @- {rest}/v1/models/{model}/labels/stable:predict
```

A request has at most {max_batch_size} images. Requests that arrive together run together. A file that cannot
be decoded then fails all requests of its run, so let clients check the files that they send.

## Swap a version

Embeddings of two versions cannot be compared: embed the gallery again with the new one.

1. Export the new version into the model's folder, beside the old one (`.../1`, `.../2`). Nothing happens yet.
2. Load it under the label `canary`; the old one stays `stable`:
   `{command} --stable OLD --canary NEW`
   The server reads its configuration every {POLL_SECONDS} seconds.
3. When `curl {rest}/v1/models/{model}` shows both as AVAILABLE, and the canary is good:
   `{command} --stable NEW --canary NEW`. The old version is unloaded.
4. To go back, repeat both steps with the numbers exchanged.

There are two steps because a label can move only to a loaded version. In between, the log may say once that a
version is "not currently available for inference"; `canary` then moves at the next reading.

## Watch

Prometheus metrics: `{rest}{METRICS_PATH}`. Logs: `docker compose logs -f`.
"""


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# A digest counts as a tag, because it pins the image too.
_PINNED = re.compile(r"[^\s:@]+(:\d+/[^\s:@]+)?((:[\w.-]+)?@sha256:[0-9a-f]{64}|:(?!latest|nightly)[\w.-]+)")


def write_kit(
    model: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    stable: int | None = None,
    canary: int | None = None,
    image: str = IMAGE,
    max_batch_size: int = 32,
    batch_timeout_micros: int = 5000,
    gpu: bool | None = None,
) -> Path:
    """Write the files of a TensorFlow Serving deployment of an export; each whole or not at all.

    Args:
        model: the folder of versions, as `export_encoder` was given it.
        out: the folder to write to; None for `serving/<name>`. Other files there stay.
        name: the model's name for clients; None for the folder's.
        stable: version with the label `stable`; None for the highest.
        canary: version with the label `canary`; None for the highest.
        image: Docker image of the server, with its tag.
        max_batch_size: most images in one run of the network, and in one request.
        batch_timeout_micros: time that a request waits for others to share a run, in microseconds.
        gpu: reserve a GPU for the server; None reserves one if the image's name or tag says `gpu`.

    Returns:
        The folder written to.

    Raises:
        UserError: the folder holds no versions, a labelled version is missing or cannot be served, a value is
            invalid, or the folder cannot be written.

    Example:
        >>> write_kit("saved_models/market", stable=1, canary=2)
        PosixPath('serving/market')
    """
    model = model_path(model)
    versions = find_versions(model)
    name = model.resolve().name if name is None else name
    _check_values(name, image, max_batch_size, batch_timeout_micros)
    labels = {
        "stable": versions[-1] if stable is None else stable,
        "canary": versions[-1] if canary is None else canary,
    }
    for label, version in labels.items():
        if version not in versions:
            raise UserError(
                f"{model} has no version {version} to be {label}; there are {', '.join(map(str, versions))}."
            )
    for version in sorted(set(labels.values())):
        check_version(model, version)
        verify_export(model / str(version))
    folder = Path("serving") / name if out is None else Path(out)
    if folder.resolve().is_relative_to(model.resolve()):
        raise UserError(
            f"{folder} is inside {model}, which servers search for versions; choose another --out."
        )
    gpu = _is_for_gpus(image) if gpu is None else gpu
    source = os.path.relpath(model.resolve(), folder.resolve())
    # With all settings, so that the next version gets the same image and name.
    chosen = {
        "--name": (name, model.resolve().name),
        "--image": (image, IMAGE),
        "--max_batch_size": (max_batch_size, 32),
        "--batch_timeout_micros": (batch_timeout_micros, 5000),
    }
    words = [str(model), "--out", str(folder)]
    for flag, (value, default) in chosen.items():
        words += [] if value == default else [flag, str(value)]
    if gpu != _is_for_gpus(image):
        words.append("--gpu" if gpu else "--no-gpu")
    command = f"python -m san_tf.serving.kit {shlex.join(words)}"
    files = {
        "docker-compose.yml": compose_file(name, source, image, gpu),
        "batching.config": batching_config(max_batch_size, batch_timeout_micros),
        "monitoring.config": monitoring_config(),
        "README.md": readme(name, labels, command, max_batch_size, gpu),
        # Written last, because a running server acts on it.
        "models.config": models_config(name, labels),
    }
    # File by file, because a container keeps the folder it was started with.
    for file, text in files.items():
        with atomic_file(folder / file) as temporary:
            temporary.write_text(text)
    return folder


def _check_values(name: str, image: str, max_batch_size: int, batch_timeout_micros: int) -> None:
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{name!r} is not a name for a model: use letters, digits, '_', '-', '.'; give one with --name."
        )
    if not _PINNED.fullmatch(image):
        raise UserError(f"The image {image!r} is not pinned; name it with its tag, such as {IMAGE}.")
    if max_batch_size < 1:
        raise UserError(f"--max_batch_size must be at least 1; received {max_batch_size}.")
    if batch_timeout_micros < 0:
        raise UserError(f"--batch_timeout_micros must not be negative; received {batch_timeout_micros}.")


def _is_for_gpus(image: str) -> bool:
    """Whether the image's name or tag says `gpu`, as in `tensorflow/serving:2.21.0-gpu`."""
    *_, last = image.partition("@")[0].split("/")
    return "gpu" in re.split(r"[:._-]", last)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m san_tf.serving.kit",
        description="Write the files to serve an exported encoder with TensorFlow Serving: "
        "docker-compose.yml, models.config, batching.config, monitoring.config and a README.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="folder of versions, such as saved_models/market")
    parser.add_argument("--out", metavar="DIR", help="folder to write to (default: serving/<name>)")
    parser.add_argument("--name", help="the model's name for clients (default: the folder's name)")
    parser.add_argument(
        "--stable", type=int, metavar="N", help="version with the label stable (default: the highest)"
    )
    parser.add_argument(
        "--canary", type=int, metavar="N", help="version with the label canary (default: the highest)"
    )
    parser.add_argument("--image", default=IMAGE, help="server image with its tag (default: %(default)s)")
    parser.add_argument(
        "--max_batch_size",
        "--max-batch-size",
        type=int,
        default=32,
        metavar="N",
        help="most images in one run, and in one request (default: %(default)s)",
    )
    parser.add_argument(
        "--batch_timeout_micros",
        "--batch-timeout-micros",
        type=int,
        default=5000,
        metavar="MICROSECONDS",
        help="time that a request waits for others to share a run (default: %(default)s)",
    )
    parser.add_argument(
        "--gpu",
        action=argparse.BooleanOptionalAction,
        help="reserve a GPU for the server, or none (default: one if the image's name says gpu)",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the kit as the command line says, and print the next step."""
    arguments = vars(_parse(argv))
    # Check the folder before the slow import. Only `import_tensorflow` imports TensorFlow without its notes.
    find_versions(model_path(arguments["model"]))
    import_tensorflow()
    folder = write_kit(**arguments)
    files = "docker-compose.yml, models.config, batching.config, monitoring.config, README.md"
    print(printable(f"{folder}: {files}"))
    start = f"docker compose --project-directory {shlex.quote(str(folder))} up -d"
    print(printable(f"Start the server with: {start}"))


if __name__ == "__main__":
    run_as_command(main)

"""The README of a serving kit: how to start, ask, swap a version, watch."""

from __future__ import annotations

from collections.abc import Mapping

from san_tf.serving.server_files import GRPC_PORT, METRICS_PATH, POLL_SECONDS, REST_PORT


def readme(
    model: str, labels: Mapping[str, int], command: str, max_batch_size: int, gpu: bool = False
) -> str:
    """Return the README of a kit.

    Args:
        model: its name.
        labels: version by label.
        command: that wrote the kit, without labels.
        max_batch_size: images in one request at most.
        gpu: whether the server has one reserved.
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

{reserved}gRPC answers at port {GRPC_PORT}, REST at {REST_PORT}, both to this machine only: the server
knows neither TLS nor users, so put a proxy that does before it.

## Ask it

`serving_bytes` takes JPEG and PNG files, `serving_default` uint8 images of one size; both give `embedding`.

```sh
printf '{instance}' \\
  "$(base64 < photo.jpg | tr -d '\\n')" |
  curl -s -d @- {rest}/v1/models/{model}/labels/stable:predict
```

At most {max_batch_size} images a request. Requests that arrive together run together: a file that cannot
be decoded then fails the requests it shares a run with, so let clients look at what they send.

## Swap a version

Embeddings of two versions cannot be compared: a gallery has to be embedded again with the new one.

1. Export the new version into the model's folder, beside the old one (`.../1`, `.../2`). Nothing happens yet.
2. Load it under the label `canary`; the old one goes on as `stable`:
   `{command} --stable OLD --canary NEW`
   The server looks every {POLL_SECONDS} seconds.
3. When `curl {rest}/v1/models/{model}` says that both are AVAILABLE, and the canary is good:
   `{command} --stable NEW --canary NEW`. The old version is unloaded.
4. Back again: the same two steps with the numbers exchanged.

A label moves only to a version that is loaded, therefore two steps. In between, the log may say once that a
version is "not currently available for inference": `canary` moves at the next look.

## Watch

Prometheus metrics: `{rest}{METRICS_PATH}`. Logs: `docker compose logs -f`.
"""

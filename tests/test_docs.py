"""The guides tell the truth: examples compile, modules, names and flags exist, templates work."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
import shlex
from pathlib import Path

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from san_tf import FrameEncoder, load_encoder, open_gallery, registry
from san_tf.__main__ import COMMANDS, main
from san_tf.archives.files import FolderFiles
from san_tf.embedding import exported_encoder
from san_tf.embedding.tracks import read_tracks
from san_tf.models.layer_factory import LayerFactory
from san_tf.serving.encoder_export import export_encoder
from san_tf.synthesis import VideoConfig, video
from san_tf.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
SOURCE = "\n".join(path.read_text() for path in (ROOT / "san_tf").rglob("*.py"))
# Of other programs.
FOREIGN = {"--project-directory", "--no-deps", "--wait", "--detach", "--data-binary", "--rm"}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def named(page: str, start: str, holding: str = "") -> str:
    """The example that starts so."""
    all_blocks = blocks(ROOT / "docs" / page, "python")
    (block,) = (block for block in all_blocks if block.startswith(start) and holding in block)
    return block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_compile_and_import_what_exists(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "san_tf":
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
    # In the text: names of modules, and of what is in them.
    for name in set(re.findall(r"`(san_tf(?:\.\w+)+)[`(]", page.read_text())):
        pkgutil.resolve_name(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_flags_exist(page):
    text = page.read_text()
    for name in set(re.findall(r"python -m (san_tf[\w.]*\w)(?![\w.]*<)", text)):
        assert importlib.util.find_spec(name) is not None, name
    for flag in set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) - FOREIGN:
        field = flag[2:].replace("-", "_")
        # A field of a dataclass: with a default, or with its meaning below.
        of_recipe = rf'^    {field}: [^\n]+( = |\n    """)'
        known = f'"{flag}"' in SOURCE or re.search(of_recipe, SOURCE, re.MULTILINE)
        assert known, f"{flag} in {page.name}"
    for folder in set(re.findall(r"`((?:san_tf|tests|datasets|docs|experiments|benchmarks)/[\w./]+)`", text)):
        assert (ROOT / folder).exists(), folder


def test_the_example_of_frames_and_boxes(tmp_path, monkeypatch, capsys):
    frame = np.random.default_rng(0).integers(0, 256, (180, 240, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "frame.png"), frame)
    monkeypatch.chdir(tmp_path)
    room: dict = {}
    exec(named("deploy.md", "import cv2", "FrameEncoder"), room)
    printed = capsys.readouterr().out.splitlines()
    assert [line.rpartition("] ")[2] for line in printed] == [
        "embedded",
        "embedded",
        "lies outside the frame",
    ]
    person = frame[30:158, 150:214, ::-1].copy()
    np.testing.assert_allclose(room["embeddings"][1:2], load_encoder("synthetic").embed(person), atol=1e-5)
    assert -1 <= room["similarity"] <= 1
    # The names of the adapters, whose calls are tested in tests/embedding/test_tracker_adapters.py.
    for name in re.findall(r"encode\.(\w+)", (ROOT / "docs" / "deploy.md").read_text()):
        assert inspect.getdoc(getattr(room["encode"], name)), name


def test_the_example_of_people_in_videos(tmp_path, monkeypatch, capsys):
    """From a rendered video to people, with the commands of the guide; the video is shorter than theirs."""
    pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "saved_models").symlink_to(ROOT / "saved_models")
    short = VideoConfig("smoke", 2, people=1, strangers=1, seconds=14.0, fps=1, travel=(1.0, 2.0))
    monkeypatch.setattr(video, "VIDEOS", {"smoke": short})
    exec(named("deploy.md", "from san_tf.synthesis import synthetic_video"), {})
    text = (ROOT / "docs" / "deploy.md").read_text()
    part = text[text.index("\n## People in videos\n") : text.index("\n## A gallery\n")]
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    told = []
    for line in lines.replace("--fps 3", "--fps 1").splitlines():
        command = shlex.split(line, comments=True)
        if command:
            with pytest.raises(SystemExit) as left:
                main(command[1:])
            printed = capsys.readouterr()
            assert left.value.code == 0, printed.err
            told.append(printed.out)
    embedded, identified, listed, deleted = told
    assert "embeddings of" in embedded and "people.gallery:" in identified
    assert "camera" in listed and "deleted" in deleted.lower()
    assert Path("people.csv").read_text().startswith("key,camera,track,first,last,pid,known,similarity")
    # The live example, with a folder in place of the camera.
    boxes = read_tracks("video/camera1/gt/gt.txt")
    number = iter(range(1, 1000))

    def tracker(frame):
        now = next(number)
        here = [(one, box) for one, own in boxes.items() for box in own if box.frame == now]
        return (
            [(box.left, box.top, box.left + box.width, box.top + box.height) for _, box in here],
            [one for one, _ in here],
        )

    live = named("deploy.md", "from san_tf import FrameEncoder, TrackEncoder")
    live = live.replace("rtsp://camera/1", "video/camera1/img1").replace("encoder.onnx", "synthetic")
    exec(live, {"tracker": tracker})
    assert re.search(r"^door#\d+@\d+\.\d{3}\+\d+\.\d{3} 0 new$", capsys.readouterr().out, re.MULTILINE)


def _crop(path: Path, seed: int) -> None:
    """A crop in two colours of its own, coarsely patterned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (8, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    picture[: 64 if seed % 2 else 96] //= 1 + seed % 5
    cv2.imwrite(str(path), picture)


def test_the_commands_of_a_gallery(tmp_path, monkeypatch, capsys):
    """Every command of the guide from the first photograph to another encoder, in its order."""
    pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(
        exported_encoder, "ExportedEncoder", functools.cache(exported_encoder.ExportedEncoder)
    )
    (tmp_path / "saved_models").mkdir()
    image = keras.Input((32, 16, 3))
    embedding = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(image))
    network = keras.Model(image, {"embedding": embedding})
    export_encoder(network, tmp_path / "saved_models" / "market", (32, 16), version=1, warmup_batches=())
    for pid in (1, 2, 3):
        for camera in (1, 2):
            _crop(tmp_path / "crops" / f"{pid:04}_c{camera}s1_000000_00.jpg", 10 * pid + camera)
    for seed, name in enumerate(
        ("cameras/door/20260131_083000", "cameras/hall/2/20260131_090500", "more/0001")
    ):
        _crop(tmp_path / f"{name}.jpg", 50 + seed)
    _crop(tmp_path / "crop.jpg", 11)  # that of person 1 under camera 1
    text = (ROOT / "docs" / "deploy.md").read_text()
    part = text[text.index("\n## A gallery\n") : text.index("\n## A page for a gallery\n")]
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    commands = [shlex.split(line, comments=True) for line in lines.splitlines()]
    commands = [command[1:] for command in commands if command[:1] == ["san-tf"]]
    assert {command[1] for command in commands if command[0] == "gallery"} == {
        "add", "info", "list", "delete", "lift", "prune", "audit", "backup", "restore", "reembed", "check"
    }  # fmt: skip
    said: dict[str, str] = {}
    for command in commands:
        if "crops/2026-01-31" in command:
            _crop(tmp_path / "crops" / "2026-01-31" / "0004_c1s1_000000_00.jpg", 77)
        with pytest.raises(SystemExit) as left:
            main(command)
        told = capsys.readouterr()
        assert not left.value.code, (command, told.err)
        said[" ".join(command)] = told.out
    assert (tmp_path / "found.png").stat().st_size > 1000
    listed = next(told for command, told in said.items() if "list people.gallery" in command)
    assert "hall/2" in listed and "2026-01-31 08:30:00" in listed and "2 of 8 entries" in listed
    deletions = [command for command in said if " delete " in command and "--dry_run" not in command]
    numbers = {command: re.findall(r": (\d+) deleted, ", said[command]) for command in deletions}
    assert list(numbers.values()) == [["2"], ["1"], ["1"], ["1"], ["1"], ["1"]], numbers
    assert "1 of " in next(told for command, told in said.items() if "--dry_run" in command)
    with open_gallery(tmp_path / "people.gallery") as gallery:
        assert gallery.info.model.endswith("market/1")
        assert [entry.key for entry in gallery.entries()] == [
            "0001_c2s1_000000_00.jpg", "0003_c1s1_000000_00.jpg", "0003_c2s1_000000_00.jpg",
            "2026-01-31/0004_c1s1_000000_00.jpg", "more/0001.jpg",
        ]  # fmt: skip


def test_the_example_of_files_that_trackers_load(tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    (command,) = (block for block in blocks(ROOT / "docs" / "deploy.md", "sh") if "--form" in block)
    program, name, export, *rest = shlex.split(command)
    assert (program, name) == ("san-tf", "export-runtime")
    monkeypatch.chdir(tmp_path)
    run = importlib.import_module(COMMANDS[name][0]).main
    with pytest.raises(SystemExit) as left:
        run([str(ROOT / export), *rest])
    assert not left.value.code
    example = named("deploy.md", "# BoxMOT; with")
    files = sorted(set(re.findall(r"runtimes/[\w./]+\.onnx", example)))
    assert files == [f"runtimes/trackers/encoder.{form}.onnx" for form in ("normalized", "unit")]
    # What the packages make of the files is tested in tests/embedding/test_tracker_adapters.py.
    frame = np.random.default_rng(0).integers(0, 256, (180, 240, 3), np.uint8)
    wanted = load_encoder("synthetic").embed(frame[30:158, 150:214, ::-1].copy())
    for file in files:
        found = FrameEncoder(file)(frame, [[150, 30, 214, 158]])
        np.testing.assert_allclose(found.embeddings, wanted, atol=1e-4)


def test_the_template_of_a_loss():
    room: dict = {}
    exec(named("extend.md", '"""Compactness loss'), room)
    rng = np.random.default_rng(0)
    label, embedding = [0, 0, 1, 1, -1], rng.normal(size=(5, 3))
    total = 0.0
    for row in range(4):
        centre = embedding[[i for i in range(5) if label[i] == label[row]]].mean(axis=0)
        total += ((embedding[row] - centre) ** 2).sum()
    got = room["compactness_loss"](tf.constant(label), tf.constant(embedding, tf.float32))
    assert float(got) == pytest.approx(total / 4, rel=1e-5)
    assert float(room["compactness_loss"](tf.constant([-1, -1]), tf.ones((2, 3)))) == 0.0


def test_the_templates_of_what_is_registered(monkeypatch):
    monkeypatch.setattr(registry, "LOSSES", {})
    monkeypatch.setattr(registry, "BACKBONES", {})
    room: dict = {}
    exec(named("extend.md", '"""my_losses'), room)
    # Lengths 5 and 1, the third row unknown: (5 - 1)^2 and 0.
    told = registry.LOSSES["norm-penalty"](
        tf.constant([0, 1, -1]), tf.constant([[3.0, 4.0], [0.0, 1.0], [9.0, 9.0]]), 1.0
    )
    assert float(told) == pytest.approx(8.0)
    exec(named("extend.md", "import keras", "register_backbone"), room)
    maps = [tuple(stage.shape[1:3]) for stage in room["encoder"].output["stages"]]
    assert maps == [(32, 16), (16, 8), (8, 4), (8, 4)]


def test_the_templates_of_a_backbone():
    room: dict = {}
    exec(named("extend.md", "import keras", "Rescaling"), room)
    maps = [tuple(stage.shape[1:]) for stage in room["encoder"].output["stages"]]
    assert [size[:2] for size in maps[:3]] == [(32, 16), (16, 8), (8, 4)]
    stages = named("extend.md", "def plain_stages").split("BACKBONES", 1)[0]
    exec(stages, room)
    for last_stride, last in ((2, (4, 2)), (1, (8, 4))):
        made = room["plain_stages"](keras.Input((128, 64, 3)), last_stride, LayerFactory(seed=0))
        assert [tuple(stage.shape[1:3]) for stage in made] == [(32, 16), (16, 8), (8, 4), last]


def test_the_template_of_a_data_set(tmp_path):
    room: dict = {"__name__": "mybench_dataset_builder"}
    exec(named("extend.md", '"""mybench'), room)
    names, layout = room["NAMES"], room["LAYOUT"]
    assert names.parse(names.example) == (2, 0) and names.parse("-1_c4_000001.jpg") == (-1, 3)
    assert "MyBench" in layout.instructions
    for folder, name in zip(layout.parts, ("0001_c1_0.jpg", "0002_c1_0.jpg", "0002_c2_0.jpg"), strict=True):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).touch()
    # What TFDS hands to a builder is not needed to list its images.
    splits = room["Builder"]._sources(None, FolderFiles(tmp_path), tmp_path)
    found = {
        split: [(sample.pid, sample.camid) for source in sources for sample in source.samples]
        for split, sources in splits.items()
    }
    assert found == {"train": [(1, 0)], "query": [(2, 0)], "gallery": [(2, 1)]}


def test_the_version_is_the_same_in_code_citation_and_changelog():
    released = re.findall(
        r"^## \[(\d[\d.]*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    citation = (ROOT / "CITATION.cff").read_text()
    version, date = released[0]
    assert version == __version__
    assert f"\nversion: {version}\ndate-released: {date}\n" in citation
    dates = [date for _, date in released]
    assert dates == sorted(dates, reverse=True)


def test_the_commands_of_a_persons_answers(tmp_path, monkeypatch, capsys):
    """From a gallery through answers on the page to clusters and a calibration, as the guide says."""
    pytest.importorskip("faiss", reason="san-tf[gallery] is not installed")
    pytest.importorskip("pyarrow", reason="san-tf[parquet] is not installed")
    testclient = pytest.importorskip("fastapi.testclient", reason="san-tf[page] is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    rng = np.random.default_rng(0)
    for person in range(12):
        colors = rng.integers(0, 256, (8, 4, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        for number in range(6):
            noisy = np.clip(colors + rng.normal(0, 40, colors.shape), 0, 255).astype(np.uint8)
            path = tmp_path / "crops" / f"{person + 1:04}_c{number % 2 + 1}s1_{number:06}_00.jpg"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), noisy)

    def answer_all(application, server, ready):
        """Somebody who knows the people, in place of the server and its browser."""
        with testclient.TestClient(application, base_url="http://127.0.0.1:8642") as client:
            for _ in range(9):
                for pair in client.post("/api/pairs", json={}).json()["pairs"]:
                    first, second = (pair[side]["key"] for side in ("first", "second"))
                    same = "yes" if first[:4] == second[:4] else "no"
                    given = {"first": first, "second": second, "same": same}
                    assert client.post("/api/answers", json=given).status_code == 200

    monkeypatch.setattr("san_tf.page.server.serve", answer_all)
    text = (ROOT / "docs" / "deploy.md").read_text()
    part = text[
        text.index("\n## A few minutes of a person's time\n") : text.index("\n## Know what to trust\n")
    ]
    (block,) = re.findall(r"^```sh\n(.*?)^```$", part, re.DOTALL | re.MULTILINE)
    said = {}
    for line in block.splitlines():
        command = shlex.split(line, comments=True)[1:]
        if not command:
            continue
        # Training is tested elsewhere, and takes longer; any free port will do.
        command += {"adapt": ["--dry_run"], "serve-ui": ["--port", "0"]}.get(command[0], [])
        with pytest.raises(SystemExit) as left:
            main(command)
        told = capsys.readouterr()
        assert not left.value.code, (command, told.err)
        said[command[0]] = told.out
    answers = Path("answers.csv").read_text().splitlines()
    assert answers[0] == "first,second,same,answered" and len(answers) > 40
    assert "would be trained" in said["adapt"]
    assert "pairs of one person" in said["calibrate"] and Path("calibration.json").is_file()
    exec(named("deploy.md", "from pathlib import Path", "propose_pairs"), {})
    assert len(capsys.readouterr().out.splitlines()) == 5

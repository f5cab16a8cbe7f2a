"""What a wheel holds, and that the repository's files agree with each other."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_list_of_packages_is_the_tree(config):
    here = {path.parent.relative_to(ROOT) for path in (ROOT / "san_tf").rglob("__init__.py")}
    builders = {path.parent.relative_to(ROOT) for path in (ROOT / "datasets").glob("*/__init__.py")}
    expected = {".".join(path.parts) for path in here} | {
        f"san_tf.{'.'.join(path.parts)}" for path in builders
    }
    # The sample encoder, which a wheel brings too: files alone.
    expected.add("san_tf.saved_models")
    assert set(config["options"]["packages"].split()) == expected


def requirements(config) -> list[Requirement]:
    texts = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_every_dependency_has_an_upper_bound(config):
    open_ended = [
        str(requirement)
        for requirement in requirements(config)
        if not any(part.operator in ("<", "==", "<=") for part in requirement.specifier)
    ]
    assert open_ended == []


def test_the_lock_file_holds_what_setup_admits_and_all_that_the_tests_need(config):
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {
        canonicalize_name(name): version
        for name, version in (line.split("==") for line in lines if not line.startswith("#"))
    }
    wanted = config["options"]["install_requires"] + config["options.extras_require"]["test"]
    for line in wanted.splitlines():
        if line.strip() and not line.strip().startswith("#"):
            requirement = Requirement(line.strip())
            version = locked[canonicalize_name(requirement.name)]
            assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_datasets_is_no_package_of_its_own():
    # It would shadow Hugging Face's `datasets` for whoever works in the checkout.
    assert not (ROOT / "datasets" / "__init__.py").exists()


def test_every_builder_folder_is_complete(config):
    for builder in (ROOT / "datasets").iterdir():
        if not builder.is_dir() or builder.name.startswith((".", "_")):
            continue
        names = {path.name for path in builder.iterdir()}
        wanted = {
            f"{builder.name}_dataset_builder.py",
            "README.md",
            "CITATIONS.bib",
            "TAGS.txt",
            "__init__.py",
        }
        assert wanted <= names, builder.name
        assert f"san_tf.datasets.{builder.name}" in config["options.package_data"]


def test_the_body_asset_is_small_and_its_licence_beside_it():
    assets = ROOT / "san_tf" / "synthesis" / "assets"
    assert (assets / "body.npz").stat().st_size <= 2_000_000
    assert "CC0" in (assets / "LICENSE.CC0.txt").read_text()
    assert "MakeHuman" in (assets / "PROVENANCE.md").read_text()


def test_a_wheel_holds_all_files_of_the_page(config):
    patterns = config["options.package_data"]["san_tf.page"].split(", ")
    page = ROOT / "san_tf" / "page"
    others = {file for file in page.rglob("*.*") if file.suffix not in (".py", ".pyc")}
    assert len(others) >= 10
    assert {file for pattern in patterns for file in page.glob(pattern)} == others


def test_pictures_and_pages_that_the_readme_names_exist():
    text = re.sub(r"```.*?```", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target


def test_commands_that_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for module in set(re.findall(r"python -m san_tf\.experiments\.(\w+)", text)):
        assert (ROOT / "san_tf" / "experiments" / f"{module}.py").is_file(), module
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`?make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_a_wheel_brings_builders_recipes_and_the_sample_encoder(tmp_path):
    """What `pip install .` leaves on the disk, without the checkout."""
    copied = tmp_path / "src"
    copied.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copied)
    for name in ("san_tf", "datasets", "saved_models"):
        shutil.copytree(ROOT / name, copied / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "from setuptools import setup; setup()"
    built = [sys.executable, "-c", code, "-q", "build", f"--build-base={tmp_path}"]
    subprocess.run(built, cwd=copied, check=True, capture_output=True)
    lib = tmp_path / "lib"
    for name in ("synthetic", "people", "people_scratch"):
        shipped = [path for path in (ROOT / "saved_models" / name / "1").rglob("*") if path.is_file()]
        assert shipped
        for path in shipped:
            there = lib / "san_tf" / "saved_models" / path.relative_to(ROOT / "saved_models")
            assert there.read_bytes() == path.read_bytes()
    assert (lib / "san_tf/saved_models/painting/thin_resnet.weights.h5").is_file()
    assert (lib / "san_tf/experiments/recipes/photographs.yaml").is_file()
    assert (lib / "san_tf/datasets/market1501/market1501_dataset_builder.py").is_file()
    asked = "from san_tf.trusted import SHIPPED_MODELS as s; print(s, (s / 'synthetic/1').is_dir())"
    told = subprocess.run([sys.executable, "-c", asked], cwd=lib, capture_output=True, text=True, check=True)
    assert told.stdout.split() == [str(lib / "san_tf" / "saved_models"), "True"]

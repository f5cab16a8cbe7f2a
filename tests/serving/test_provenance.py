"""The commit noted in an export is that of this package's checkout, and of no other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import san_tf
from san_tf.serving.encoder_export import git_commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the package's folder, inside a repository that does not know it yet."""
    folder = tmp_path / "checkout" / "san_tf"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    git(folder.parent, "init", "--quiet")
    monkeypatch.setattr(san_tf, "__file__", str(folder / "__init__.py"))
    return folder


def test_commit_and_changes(package: Path) -> None:
    git(package, "add", ".")
    git(package, "commit", "--quiet", "-m", "first")
    commit = git(package, "rev-parse", "HEAD")
    assert len(commit) == 40
    assert git_commit() == commit
    (package.parent / "notes.txt").write_text("not the package's")
    (package / "new.txt").write_text("not tracked")
    assert git_commit() == commit
    (package / "__init__.py").write_text("changed = True\n")
    assert git_commit() == f"{commit}+changes"


def test_another_projects_repository_is_not_ours(package: Path) -> None:
    (package.parent / "other.txt").write_text("")
    git(package.parent, "add", "other.txt")
    git(package.parent, "commit", "--quiet", "-m", "other")
    assert git_commit() is None


def test_no_repository_and_no_git(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(package, "add", ".")
    assert git_commit() is None  # a repository without a commit
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None

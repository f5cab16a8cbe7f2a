"""Which source an export was made with: the git commit, where the package runs from a checkout."""

from __future__ import annotations

import subprocess
from pathlib import Path

import san_tf


def git_commit() -> str | None:
    """Return the commit of the checkout that this package runs from.

    Returns:
        40 hexadecimal digits, followed by `+changes` if a tracked file of the package differs from the
        commit; None for an installed package, or without git.

    Example:
        >>> git_commit()
        '8a1f0c7b6b0d6c1f6e1b6a5f0a9ad1d1f4f7b2c3+changes'
    """
    package = Path(san_tf.__file__).resolve().parent
    # An environment inside another project's checkout would give that project's commit: ask whether it is us.
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _git(package, "status", "--porcelain", "--untracked-files=no", "--", ".")
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if there is no git, no repository, or it refuses."""
    # Nothing is written into a repository that is only asked.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None

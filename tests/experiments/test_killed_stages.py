"""Kill -9 at random moments: the next start goes on by itself and ends as if nothing had been."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prepare", "texture-generator", "train", "export"])
def test_twenty_kills_change_nothing(tmp_path: Path, stage: str) -> None:
    here = Path(__file__).resolve()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent), str(here.parents[2])])}
    command = [sys.executable, str(here.with_name("killed_stages.py")), str(tmp_path), "20", "7", stage]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr
    assert re.search(rf"^{stage}: 20 kills, [1-9]\d* ends, each the undisturbed one", answer.stdout, re.M)

"""Machine code on disk: found again while nothing it was made of has changed, and never otherwise."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numba
import numpy as np
import pytest

from san_tf.compiled import KernelCache, NotCachable, compiled, source_digest

ROOT = Path(__file__).resolve().parents[1]

OUTER = """
    from san_tf.compiled import compiled
    from kernels_inner import inner

    @compiled
    def outer(x):
        return inner(x)
"""
INNER = """
    from san_tf.compiled import compiled
    from kernels_innermost import innermost

    @compiled
    def inner(x):
        return innermost(x) + 1.0
"""
INNERMOST = """
    import enum
    import numpy as np
    import kernels_numbers as numbers
    from kernels_numbers import FACTOR, PAIR, TABLE, Kind
    from san_tf.compiled import compiled

    @compiled
    def innermost(x):
        if x > 50:
            return x + PAIR[1][0]
        if x > 40:
            return x + Kind.SECOND.value
        if x > 30:
            return x + numbers.SHIFT
        if x > 20:
            return x + TABLE[1]
        return x * FACTOR
"""
NUMBERS = """
    import enum
    import numpy as np

    class Kind(enum.IntEnum):
        FIRST = 1
        SECOND = 2

    FACTOR = 2.0
    SHIFT = 3
    TABLE = np.array([4.0, 5.0])
    PAIR = (6, (7, 8))
"""
MODULES = {"outer": OUTER, "inner": INNER, "innermost": INNERMOST, "numbers": NUMBERS}


class Folder:
    """A folder of modules that is imported anew each time, as another process would."""

    def __init__(self, path: Path) -> None:
        self.path, self.sources = path, dict(MODULES)

    def edit(self, module: str, old: str, new: str) -> None:
        assert self.sources[module].count(old) == 1
        self.sources[module] = self.sources[module].replace(old, new)

    def outer(self):
        for name, source in self.sources.items():
            (self.path / f"kernels_{name}.py").write_text(textwrap.dedent(source))
            sys.modules.pop(f"kernels_{name}", None)
        for stale in (self.path / "__pycache__").glob("*.pyc"):
            stale.unlink()
        importlib.invalidate_caches()
        return importlib.import_module("kernels_outer").outer

    def entries(self) -> list[str]:
        return sorted(path.name for path in self.path.rglob("*.kernel"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Folder:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Folder(tmp_path)


def hits(dispatcher) -> int:
    return sum(dispatcher.stats.cache_hits.values())


def test_a_kernel_is_found_again(folder):
    first = folder.outer()
    assert first(1.0) == 3.0 and hits(first) == 0
    entries = folder.entries()
    again = folder.outer()
    assert again is not first
    assert again(1.0) == 3.0 and hits(again) == 1
    assert folder.entries() == entries and len(entries) == 3
    assert Path(again.stats.cache_path) == folder.path / "__pycache__"


def test_moved_lines_and_comments_change_nothing(folder):
    folder.outer()(1.0)
    folder.edit("innermost", "    @compiled", "    # A comment.\n\n    @compiled")
    again = folder.outer()
    assert again(1.0) == 3.0 and hits(again) == 1


@pytest.mark.parametrize(
    ("module", "old", "new", "x", "before", "after"),
    [
        ("inner", "+ 1.0", "- 1.0", 1.0, 3.0, 1.0),
        ("inner", "innermost(x) + 1.0", "-innermost(x) + 1.0", 1.0, 3.0, -1.0),
        ("innermost", "x * FACTOR", "x / FACTOR", 1.0, 3.0, 1.5),
        ("numbers", "FACTOR = 2.0", "FACTOR = 8.0", 1.0, 3.0, 9.0),
        ("numbers", "SHIFT = 3", "SHIFT = 5", 31.0, 35.0, 37.0),
        ("numbers", "[4.0, 5.0]", "[4.0, 7.0]", 21.0, 27.0, 29.0),
        ("numbers", "SECOND = 2", "SECOND = 9", 41.0, 44.0, 51.0),
        ("numbers", "(7, 8)", "(1, 8)", 51.0, 59.0, 53.0),
    ],
)
def test_an_edit_however_far_reaches_the_caller(folder, module, old, new, x, before, after):
    assert folder.outer()(x) == before
    folder.edit(module, old, new)
    assert folder.outer()(x) == after


def test_edits_leave_no_files_behind(folder):
    for factor in range(2, 6):
        folder.edit("numbers", f"FACTOR = {factor}.0", f"FACTOR = {factor + 1}.0")
        assert folder.outer()(1.0) == factor + 2
        assert len(folder.entries()) == 3


def test_what_numba_kept_before_and_what_is_old_goes(folder):
    folder.outer()(1.0)
    kept = folder.path / "__pycache__"
    (kept / "kernels_outer.outer-5.py311.nbi").touch()
    (kept / "another.outer-5.py311.nbi").touch()
    (kept / "gone.gone.0.0.0.kernel").touch()
    os.utime(kept / "gone.gone.0.0.0.kernel", (0, time.time() - 100 * 86400))
    assert folder.outer()(1) == 3.0  # another type: an entry more
    assert not (kept / "kernels_outer.outer-5.py311.nbi").exists()
    assert not (kept / "gone.gone.0.0.0.kernel").exists()
    assert (kept / "another.outer-5.py311.nbi").exists()
    assert len(folder.entries()) == 6


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_damaged_entries_are_compiled_anew(folder, damage):
    folder.outer()(1.0)
    for path in folder.path.rglob("*.kernel"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes({"cut": content[:-100], "flipped": content, "emptied": b""}[damage])
    again = folder.outer()
    assert again(1.0) == 3.0 and hits(again) == 0
    again = folder.outer()
    assert again(1.0) == 3.0 and hits(again) == 1


def test_another_numba_or_numpy_compiles_anew(folder, monkeypatch):
    from san_tf import compiled as module

    folder.outer()(1.0)
    for package in (numba, np):
        with monkeypatch.context() as patch:
            patch.setattr(package, "__version__", "0.1")
            module._environment.cache_clear()
            again = folder.outer()
            assert again(1.0) == 3.0 and hits(again) == 0
    module._environment.cache_clear()
    # Two environments in one checkout do not throw each other's entries away.
    assert len(folder.entries()) == 9


def read_only(path: Path, monkeypatch) -> None:
    """Make writing below a folder fail, for root as well, who may write anywhere."""
    write = KernelCache._write

    def refuse(self, target: Path, content: bytes) -> None:
        if target.is_relative_to(path):
            raise PermissionError(13, "Permission denied", str(target))
        write(self, target, content)

    monkeypatch.setattr(KernelCache, "_write", refuse)


def test_a_read_only_package_is_kept_in_the_users_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    read_only(tmp_path / "__pycache__", monkeypatch)
    folder.outer()(1.0)
    assert len(list((tmp_path / "home" / "san_tf").rglob("*.kernel"))) == 3
    again = folder.outer()
    assert again(1.0) == 3.0 and hits(again) == 1


def test_a_package_that_was_warmed_and_then_locked_serves_from_its_own_folder(folder, tmp_path, monkeypatch):
    folder.outer()(1.0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    read_only(tmp_path, monkeypatch)
    again = folder.outer()
    assert again(1.0) == 3.0 and hits(again) == 1


def test_where_nothing_can_be_written_a_process_compiles_for_itself(folder, tmp_path, monkeypatch):
    read_only(tmp_path, monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert folder.outer()(1.0) == 3.0
    folder.edit("numbers", "FACTOR = 2.0", "FACTOR = 8.0")
    assert folder.outer()(1.0) == 9.0
    assert folder.entries() == []


def test_without_a_home_nothing_is_written_into_the_working_folder(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert folder.outer()._cache.folders == [tmp_path / "__pycache__"]


def test_a_folder_that_was_named_is_the_only_one(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "chosen"))
    folder.outer()(1.0)
    assert len(list((tmp_path / "chosen").rglob("*.kernel"))) == len(folder.entries()) == 3


def test_a_constant_that_is_replaced_while_running_does_not_reach_the_disk(folder, monkeypatch):
    outer = folder.outer()
    assert outer(1.0) == 3.0
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["kernels_innermost"], "FACTOR", 100)
        assert outer(1) == 101
    assert folder.outer()(1) == 3


def test_threads_that_save_at_once_get_what_is_theirs(folder):
    # Each thread saves another type's entry, as processes do; none may get that of another.
    outers = [folder.outer() for _ in range(4)]
    arguments = [1.0, 1, np.float32(1), np.int16(1)]
    results = [None] * 4
    threads = [
        threading.Thread(target=lambda i=i: results.__setitem__(i, outers[i](arguments[i]))) for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [3.0] * 4
    again = folder.outer()
    assert [again(argument) for argument in arguments] == [3.0] * 4 and hits(again) == 4


TAKES_A_TUPLE = """
    from kernels_numbers import Span
    from san_tf.compiled import compiled

    @compiled
    def outer(spans):
        return spans[0].stop - spans[0].start
"""
MAKES_A_TUPLE = """
    from kernels_numbers import Span
    from san_tf.compiled import compiled

    @compiled
    def outer(x):
        span = Span(x, x + 2.0)
        return span.stop - span.start
"""
SPAN = """
    from typing import NamedTuple

    class Span(NamedTuple):
        start: float
        stop: float
"""


def test_fields_that_change_places_reach_a_kernel_that_takes_them(folder):
    # The kernel itself stays the same; numba's name of the argument's type shows no fields.
    folder.sources = {"outer": TAKES_A_TUPLE, "numbers": SPAN}

    def length() -> tuple[float, int]:
        outer = folder.outer()
        span = sys.modules["kernels_numbers"].Span(start=1.0, stop=4.0)
        return outer((span,)), hits(outer)

    assert length() == (3.0, 0)
    assert length() == (3.0, 1)
    fields = "        start: float\n        stop: float\n"
    folder.edit("numbers", fields, "        stop: float\n        start: float\n")
    assert length() == (3.0, 0)
    assert length() == (3.0, 1)


def test_fields_that_change_places_reach_a_kernel_that_makes_them(folder):
    folder.sources = {"outer": MAKES_A_TUPLE, "numbers": SPAN}
    assert folder.outer()(1.0) == 2.0
    again = folder.outer()
    assert again(1.0) == 2.0 and hits(again) == 1
    fields = "        start: float\n        stop: float\n"
    folder.edit("numbers", fields, "        stop: float\n        start: float\n")
    assert folder.outer()(1.0) == -2.0


def test_a_class_that_other_processes_cannot_import_is_compiled_by_each(folder, tmp_path):
    folder.sources = {"outer": TAKES_A_TUPLE, "numbers": SPAN}
    outer = folder.outer()

    class Span(NamedTuple):
        stop: float
        start: float

    assert outer((Span(start=1.0, stop=4.0),)) == 3.0
    assert folder.entries() == []


def plain(x):
    return x


STATE = [1.0]
LIMIT = 3.0


def test_what_cannot_be_told_from_process_to_process_is_refused():
    @compiled
    def calls_a_plain_function(x):
        return plain(x)

    @compiled
    def reads_a_list(x):
        return x + STATE[0]

    for kernel in (calls_a_plain_function, reads_a_list):
        with pytest.raises(NotCachable):
            source_digest(kernel)

    @compiled
    def reads_a_number(x):
        return x + LIMIT

    assert len(source_digest(reads_a_number)) == 64


def test_what_a_kernel_encloses_counts():
    def make(shift):
        @compiled
        def shifted(x):
            return x + shift

        return shifted

    assert source_digest(make(1)) == source_digest(make(1)) != source_digest(make(2))


def test_kernels_that_call_each_other_have_a_digest():
    @compiled
    def countdown(x):
        return 0 if x < 1 else countdown(x - 1)

    assert len(source_digest(countdown)) == 64


def kernels_of_the_package() -> dict[str, object]:
    found = {}
    for source in sorted((ROOT / "san_tf").rglob("*.py")):
        if "\n@compiled\n" in source.read_text():
            name = ".".join(source.relative_to(ROOT).with_suffix("").parts)
            module = importlib.import_module(name)
            found |= {f"{name}.{key}": value for key, value in vars(module).items()}
    return {name: value for name, value in found.items() if hasattr(value, "py_func")}


def test_every_kernel_of_the_package_is_kept_by_these_rules():
    kernels = kernels_of_the_package()
    assert len(kernels) > 40
    for name, kernel in kernels.items():
        assert isinstance(kernel._cache, KernelCache), name
        source_digest(kernel)


def test_nothing_in_the_package_is_compiled_by_other_rules():
    for source in (ROOT / "san_tf").rglob("*.py"):
        if source.name != "compiled.py":
            assert "import numba" not in source.read_text(), source
            assert "from numba" not in source.read_text(), source


def test_an_edit_of_the_distance_changes_what_calls_it(tmp_path):
    """The fault that was seen: a ranking stayed what it was although the distance was negated."""
    shutil.copytree(
        ROOT / "san_tf", tmp_path / "san_tf",
        ignore=shutil.ignore_patterns("__pycache__", "assets", "page", "synthesis", "wardrobe"),
    )  # fmt: skip
    # One kernel that calls it: the machine code of a whole ranking takes ten seconds to make.
    script = (
        "import numpy as np\n"
        "from san_tf.evaluation.ranking_kernels import measure_matches\n"
        "features, distances = np.array([[0.0], [1.0], [5.0]]), np.zeros(3)\n"
        "bounds, places = np.array([0, 3]), np.arange(3)\n"
        "measure_matches(features[:1], 0, features, 0, bounds, places, distances, False)\n"
        "print(distances.tolist())"
    )

    def ranking() -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", script]
        run = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return run.stdout.strip()

    # As the package was: the distance in a file of its own, and only that file is edited.
    callers = tmp_path / "san_tf" / "evaluation" / "ranking_kernels.py"
    before, name, after = callers.read_text().partition("def direct_distance(")
    body, decorator, rest = after.partition("@compiled")
    header = before.removesuffix("@compiled\n")
    distance = header + "@compiled\n" + name + body
    callers.write_text(header + "from san_tf.evaluation.distance import direct_distance\n" + decorator + rest)
    callee = tmp_path / "san_tf" / "evaluation" / "distance.py"
    callee.write_text(distance)
    assert ranking() == "[0.0, 1.0, 25.0]"
    assert distance.count("    return ") == 2
    callee.write_text(distance.replace("    return ", "    return 100.0 + "))
    assert ranking() == "[100.0, 101.0, 125.0]"

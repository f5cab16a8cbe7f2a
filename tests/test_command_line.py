"""What all commands share: whatever they print is shown by a terminal and obeyed by none."""

from __future__ import annotations

import ast
import io
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.progress import Progress
from rich.table import Table

from san_tf.__main__ import COMMANDS, main
from san_tf.command_line import Terminal, printable, run_as_command

PACKAGE = Path(__file__).resolve().parents[1] / "san_tf"
# A title for the window, a line up, right to left; brackets and colons that rich would take for its own.
HOSTILE = "a\x1b]0;title\x1b\\\x1b[1A\u202eb\x9b[red]c[/red]:dog:\udcff"
SHOWN = r"a\x1b]0;title\x1b\\x1b[1A\u202eb\x9b[red]c[/red]:dog:\udcff"


def test_a_name_is_shown_as_it_is():
    assert printable(HOSTILE) == SHOWN
    screen = io.StringIO()
    console = Terminal(file=screen, width=200)
    console.print(HOSTILE, markup=False)
    assert screen.getvalue() == f"{SHOWN}\n"


def test_tables_and_bars_obey_nothing_either():
    screen = io.StringIO()
    console = Terminal(file=screen, width=200, force_terminal=True, color_system=None)
    table = Table("name")
    table.add_row("a\x1b[2Jb")
    console.print(table)
    with Progress(console=console) as progress:
        progress.add_task("c\x1b[2Jd")
    # Cells are measured before, so that an escaped text may be cut; commands escape what they put there.
    assert r"a\x1b" in screen.getvalue() and r"c\x1b" in screen.getvalue()
    assert "\x1b[2J" not in screen.getvalue()


def test_warnings_obey_nothing_either(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    logger = logging.getLogger("san_tf.test_of_warnings")
    monkeypatch.setattr(logger, "propagate", False)  # else it is pytest that handles it
    with pytest.raises(SystemExit):
        run_as_command(lambda: logger.warning("%s is damaged", HOSTILE))
    assert capsys.readouterr().err == f"{SHOWN} is damaged\n"


def unescaped(path: Path) -> Iterator[int]:
    """Lines of a module that print what is neither fixed nor escaped, or to a console of rich's own."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)) if "print(" in text or "Console(" in text else ():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id == "Console":
            yield node.lineno
        if node.func.id == "print":
            for told in node.args:
                escaped = isinstance(told, ast.Call) and ast.unparse(told.func) in ("printable", "json.dumps")
                if not (escaped or isinstance(told, ast.Constant)):
                    yield node.lineno


# What these print is of this package: names of its commands and stages, numbers.
OWN = {"__main__.py", "training/callbacks/reports.py"}


def test_every_command_escapes_what_it_prints():
    found = {
        f"{name}:{line}"
        for path in PACKAGE.rglob("*.py")
        if (name := str(path.relative_to(PACKAGE))) not in OWN
        for line in unescaped(path)
    }
    assert found == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_tells_a_mistake_in_one_sentence(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        main([name, "--nonsense"])
    told = capsys.readouterr().err
    assert left.value.code == 2
    assert told.startswith("Error: ") and told.count("\n") == 1 and len(told) < 200

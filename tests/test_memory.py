"""The peak of memory: against what the process is known to have held."""

import subprocess
import sys

from san_tf.resources import peak_memory


def test_peak_counts_what_was_held_and_stays() -> None:
    """In a process of its own: another test's peak may be higher than anything held here."""
    program = (
        "from san_tf.resources import peak_memory\n"
        "before = peak_memory()\n"
        "held = bytearray(b'x') * 200_000_000\n"
        "during = peak_memory()\n"
        "del held\n"
        "print(before, during, peak_memory())\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, during, after = map(float, answer.stdout.split())
    assert 0.19 < during - before < 0.25
    assert after > 0.99 * during  # Linux counts a thread's pages in portions


def test_a_child_does_not_inherit_its_parents_peak() -> None:
    held = bytearray(b"x") * 300_000_000
    program = "from san_tf.resources import peak_memory; print(peak_memory())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert peak_memory() > len(held) / 1e9
    assert float(answer.stdout) < 0.2

"""`python -m san_tf.check`: tests in a minute or two how this machine can train.

It prints versions and devices, then trains a small SAN for three steps in each precision, and with XLA.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from san_tf.command_line import Parser, Terminal, run_as_command
from san_tf.start import import_tensorflow


def main(argv: Sequence[str] | None = None) -> None:
    """Print findings and trials; exit with 1 if float32 fails."""
    parser = Parser(
        prog="python -m san_tf.check",
        description="Show versions, devices and processor, and train a small SAN for three steps in float32, "
        "mixed_float16, mixed_bfloat16 and with XLA. Prints what works here, how fast, how far from float32, "
        "and what to use. The exit code is 0 unless float32 fails.",
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument("--no_xla", action="store_true", help="skip XLA, whose compiler takes longest")
    arguments = parser.parse_args(argv)
    # Before any other import of TensorFlow: this silences its notes, and GPUs take memory as needed.
    import_tensorflow()
    from san_tf.check.trial_steps import cases_here, check

    cases = [case for case in cases_here() if not (arguments.no_xla and case.xla)]
    if not check(Terminal(), cases):
        sys.exit(1)


if __name__ == "__main__":
    run_as_command(main)

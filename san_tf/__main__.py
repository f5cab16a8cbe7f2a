"""`san-tf COMMAND`, or `python -m san_tf COMMAND`: commands for a trained encoder."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from san_tf.command_line import run_as_command
from san_tf.errors import UserError
from san_tf.version import __version__

# Each command's module has its own `--help` and imports what it needs when it runs.
COMMANDS = {
    "embed": ("san_tf.embedding.embed_command", "photographs to a table of embeddings"),
    "adapt": ("san_tf.adaptation.adapt_command", "an encoder adapted to your cameras, without identities"),
    "evaluate": ("san_tf.evaluation.evaluate_command", "features of any toolkit to CMC and mAP, thresholds"),
    "calibrate": ("san_tf.evaluation.calibrate_command", "scores to probabilities, and thresholds to trust"),
    "gallery": ("san_tf.retrieval.gallery_command", "photographs or embeddings kept to be searched"),
    "search": ("san_tf.retrieval.search_command", "a person's other photographs in a gallery"),
    "tracks": ("san_tf.retrieval.tracks_command", "people in videos, and the same person across cameras"),
    "serve-ui": ("san_tf.page.page_command", "a local web page for a gallery"),
    "convert": ("san_tf.convert.__main__", "PyTorch checkpoints of the field to Keras weights, and back"),
    "kit": ("san_tf.serving.kit", "what TensorFlow Serving needs around an export"),
    "export-runtime": ("san_tf.embedding.runtime_command", "an export for LiteRT, ONNX and OpenVINO"),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command named by the first argument, with the other arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv and argv[0] in COMMANDS:
        command = importlib.import_module(COMMANDS[argv[0]][0]).main
        run_as_command(lambda: command(argv[1:]))
    run_as_command(lambda: _help(argv))


def _help(argv: Sequence[str]) -> None:
    if argv and argv[0] == "--version":
        print(__version__)
        return
    if argv and argv[0] not in ("-h", "--help"):
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}."
        raise UserError(f"There is no command {argv[0]}; {hint}")
    print("usage: san-tf COMMAND [--help] ...\n")
    for name, (_, what) in COMMANDS.items():
        print(f"  {name:15}{what}")
    print("\nTraining: python -m san_tf.experiments.<name> --help; see the README for the names.")


if __name__ == "__main__":
    main()

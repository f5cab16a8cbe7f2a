"""`python -m san_tf.convert CHECKPOINT --to WEIGHTS`: PyTorch checkpoints to Keras weights and back."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from san_tf.command_line import Parser, printable, run_as_command
from san_tf.errors import UserError
from san_tf.start import import_tensorflow

DESCRIPTION = """\
Convert a PyTorch checkpoint to Keras weights for build_encoder, or Keras weights of a SAN to a PyTorch
state dict.

Known checkpoints: ResNet-50/101 of torchvision, ResNet-50, ResNet-50-fc512 and OSNet of torchreid, BoT
ResNet-50 of fast-reid, encoder and decoder of the public SAN code. PyTorch is not needed, and no code in a
checkpoint is run.
"""


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="python -m san_tf.convert",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a .pth, .pth.tar, .pt or .safetensors file; or a SAN's .weights.h5, to convert it to PyTorch",
    )
    parser.add_argument(
        "--to",
        metavar="WEIGHTS",
        required=True,
        help="the file to write: .weights.h5, or .safetensors for PyTorch",
    )
    parser.add_argument(
        "--key",
        help="which state dict of the checkpoint, for example decoder_state_dict of the public SAN code",
    )
    parser.add_argument(
        "--drop_classifier",
        "--drop-classifier",
        action="store_true",
        help="leave out the identity classifier; the network gets a new, untrained one",
    )
    parser.add_argument(
        "--num_classes", "--num-classes", type=int, metavar="N", help="identities of that new classifier"
    )
    parser.add_argument(
        "--backbone_only",
        "--backbone-only",
        action="store_true",
        help="leave out everything behind the last feature map; the file then fits encoders with any head "
        "and number of identities, as pretrained weights of an experiment (--weights)",
    )
    parser.add_argument(
        "--stride_on",
        "--stride-on",
        choices=("1x1", "3x3"),
        help="for a ResNet: the convolution of a block that has the stride, if the file does not say; the "
        "default for a PyTorch checkpoint is 3x3, as in torchvision",
    )
    parser.add_argument(
        "--last_stride",
        "--last-stride",
        type=int,
        choices=(1, 2),
        help="for a ResNet: the stride of the last stage, if the file does not say; the default for a "
        "PyTorch checkpoint is that of the code it comes from",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the conversion that the command line asks for and report it."""
    arguments = _parse(argv)
    back = arguments.checkpoint.endswith(".weights.h5")
    others = (arguments.key, arguments.drop_classifier, arguments.num_classes, arguments.backbone_only)
    if back and any(others):
        raise UserError(
            "Converting to PyTorch takes --to alone, or with --stride_on and --last_stride if the file does "
            "not say them; leave the other flags out."
        )
    import_tensorflow()
    if back:
        _back(arguments)
    else:
        _forth(arguments)


def _forth(arguments: argparse.Namespace) -> None:
    from san_tf.convert.converter import convert_checkpoint

    done = convert_checkpoint(
        arguments.checkpoint,
        arguments.to,
        arguments.key,
        arguments.drop_classifier,
        arguments.num_classes,
        arguments.backbone_only,
        _facts(arguments),
    )
    _say(f"Recognised: {done.title}.")
    _say(f"Converted: {done.parameters} arrays, {done.numbers:,} numbers, each to exactly one place.")
    if done.dropped:
        _say(f"Left out as asked: {', '.join(done.dropped)}; new layers in their place are untrained.")
    _say(
        f"Agreement: {arguments.to}, read into an empty network, gives back {done.equal} of "
        f"{done.parameters} arrays bit by bit. Outputs were not compared, because that needs the model's own "
        "code; the tests of san_tf compare them."
    )
    for other in done.others:
        _say(f"The checkpoint also holds {other}: convert it with --key {other}.")
    _say(f"Use: {done.load}")


def _back(arguments: argparse.Namespace) -> None:
    from san_tf.convert.to_pytorch import convert_weights

    done = convert_weights(arguments.checkpoint, arguments.to, _facts(arguments))
    _say(f"Recognised: {done.network}.")
    _say(
        f"Converted: {done.arrays} arrays under the names of the public SAN code, for "
        "load_state_dict(strict=True)."
    )
    if done.last_stride is not None:
        _say(f"Build: the PyTorch network must have last_stride={done.last_stride}; its weights do not say.")
    _say(f"Use: model.load_state_dict(safetensors.torch.load_file({arguments.to!r}))")


def _say(text: str) -> None:
    # Keys of a checkpoint come from others and may hold control characters.
    print(printable(text))


def _facts(arguments: argparse.Namespace) -> dict[str, Any]:
    """The facts about the network that the command line states."""
    named = {"stride_on": arguments.stride_on, "last_stride": arguments.last_stride}
    return {name: value for name, value in named.items() if value is not None}


if __name__ == "__main__":
    run_as_command(main)

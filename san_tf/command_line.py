"""Common parts of all commands: errors in one sentence, safe output, argument parsing."""

from __future__ import annotations

import argparse
import difflib
import errno
import logging
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn

import simple_parsing
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from san_tf.errors import UserError

# Control characters (except tab and newline) and characters that change the writing direction. A lone
# surrogate is a byte of a path that is not UTF-8, and cannot be encoded.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Escape control characters that a terminal would execute instead of showing.

    File names, keys of a checkpoint and answers of a server are untrusted. They must not move the cursor, set
    a title or hide earlier output.

    Example:
        >>> printable("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Terminal(Console):
    """A console that applies `printable` to all text, also in tables and bars; it keeps its own colours.

    Names are shown literally: `:dog:` does not become an emoji, and numbers are not coloured.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "emoji": False, **settings})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Escape the text of every segment, except rich's own control segments."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


class _Printable(logging.Formatter):
    """Applies `printable` to log messages too, because they name files."""

    def format(self, record: logging.LogRecord) -> str:
        """Escape the text."""
        return printable(super().format(record))


# Flags of other toolkits, and their flags here; one flag there may be several here.
_SYNONYMS = {
    ("lr", "base_lr", "init_lr"): ("learning_rate",),
    ("wd",): ("weight_decay",),
    ("bs", "batch", "batch_size", "ims_per_batch"): ("identities_per_batch", "images_per_identity"),
    ("p", "num_ids"): ("identities_per_batch",),
    ("k", "num_instances", "num_instance"): ("images_per_identity",),
    ("gpu", "gpus", "num_gpus", "devices", "gpu_devices", "n_gpu", "distributed", "ddp"): ("strategy",),
    ("optim", "opt", "solver"): ("optimizer",),
    ("arch", "model", "net", "network", "architecture", "encoder"): ("backbone",),
    ("num_epochs", "max_epoch", "max_epochs", "n_epochs", "ep"): ("epochs",),
    ("out", "output", "output_dir", "save_dir", "log_dir", "logdir", "run_dir", "logs", "dir"): ("workdir",),
    ("root", "data_root", "data_path", "datasets_dir"): ("data_dir", "manual_dir"),
    ("data", "source", "sources", "train_set"): ("dataset",),
    ("target", "targets", "test_set"): ("test",),
    ("height", "width", "size", "img_size", "imgsz", "input_size", "resolution"): ("image_size",),
    ("cfg", "config_file", "recipe", "yaml"): ("config",),
    ("fp16", "bf16", "amp", "half", "mixed_precision", "dtype"): ("precision",),
    ("xla", "jit"): ("jit_compile",),
    ("label_smoothing", "label_smooth", "ls"): ("smoothing",),
    ("random_erasing", "random_erase", "rea", "reprob"): ("erasing",),
    ("color_jitter", "colour_jitter"): ("jitter",),
    ("triplet_margin",): ("margin",),
    ("tta", "flip_test", "test_flip"): ("flip_average",),
    ("scheduler", "lr_scheduler", "sched"): ("schedule",),
    ("warmup", "warm_up", "warmup_steps"): ("warmup_epochs",),
    ("steps", "stepsize", "lr_steps"): ("milestones",),
    ("gamma", "lr_decay"): ("milestone_factor",),
    ("pretrained", "checkpoint", "load_weights", "init"): ("weights",),
    ("dist_metric", "distance", "dist"): ("metric",),
    ("eval", "evaluate", "eval_only", "evaluate_only", "test_only", "mode", "only"): ("stage",),
    ("re_ranking", "reranking", "re_rank"): ("rerank",),
    ("ema_decay", "momentum_ema"): ("ema",),
    ("grad_accum", "accumulate", "gradient_accumulation"): ("accumulation",),
    ("clip", "clipnorm", "clip_grad", "grad_clip", "clip_gradients", "max_grad_norm"): ("clip_norm",),
    ("freeze", "freeze_backbone", "freeze_iters", "fixbase_epoch", "fixbase_epochs"): ("freeze_epochs",),
    ("gem", "gem_pooling", "pool", "pool_layer", "global_pool"): ("pooling",),
    ("ibn", "with_ibn", "ibn_a"): ("backbone",),
    ("autoaug", "autoaugment", "do_autoaug", "aa"): ("auto_augment",),
    ("gray", "grey", "greyscale", "random_grayscale", "random_gray"): ("grayscale",),
    ("mix_style", "domain_mix"): ("mixstyle",),
    ("gaussian_blur", "random_blur"): ("blur",),
    ("fourier", "fact", "ampmix", "amp_mix", "apr", "fda"): ("amplitude_mix",),
    ("jpeg_compression", "jpeg_artefacts", "jpeg_artifacts"): ("jpeg",),
    ("camera_norm", "camera_normalization", "camera_mean"): ("camera_bias_removal",),
    ("arcface", "cosface", "cls_layer", "arc_margin"): ("classifier",),
    ("circle", "circle_loss", "metric_loss"): ("triplet",),
    ("center", "centre", "center_loss", "centre_loss", "lambda_center", "center_weight"): ("lambda_centre",),
    ("sync_bn", "syncbn"): ("synchronized_batch_norm",),
    ("neck", "bnneck"): ("head",),
    ("resnet50", "resnet101", "thin_resnet", "osnet", "osnet_x1_0", "efficientnet_lite0"): ("backbone",),
    ("random_state", "rng"): ("seed",),
}
# Least similarity (difflib's ratio) of a name with a typing error.
_SLIP = 0.75


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that a misspelt name may mean.

    Names of other toolkits come first (`lr` is `learning_rate`), then typing errors, then names that contain
    the given one.

    Args:
        name: the given name; case and dashes do not matter.
        known: all known names.

    Example:
        >>> nearest("lr", ["folder", "learning_rate"]), nearest("rate", ["learning_rate", "epochs"])
        (['learning_rate'], ['learning_rate'])
    """
    plain = {item.lower().replace("-", "_"): item for item in known}
    asked = name.lower().replace("-", "_").strip("_")
    if asked in plain:
        return [plain[asked]]
    for names, meant in _SYNONYMS.items():
        if asked in names and (found := [plain[item] for item in meant if item in plain]):
            return found
    if len(asked) < 3:
        return []
    if near := difflib.get_close_matches(asked, plain, 1, _SLIP):
        return [plain[near[0]]]
    within = [item for item in plain if f"_{asked}_" in f"_{item}_" or f"_{item}_" in f"_{asked}_"]
    if not within:
        # One word of a longer name, with a typing error or incomplete.
        words = {word for item in plain for word in item.split("_") if len(word) > 2}
        begun = [word for word in words if word.startswith(asked)]
        meant_words = begun or difflib.get_close_matches(asked, sorted(words), 1, _SLIP)
        within = [item for item in plain if set(item.split("_")) & set(meant_words)]
    return [plain[item] for item in within[:3]]


class Parser(simple_parsing.ArgumentParser):
    """An argument parser whose errors are one sentence with the next step, not a page of usage.

    Flags cannot be abbreviated: an abbreviation could mean another flag in the next release.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"allow_abbrev": False, **settings})

    def format_help(self) -> str:
        """Return the help, with plain group names: `data`, not `DataRecipe ['recipe.data']`.

        The group `run` has the options that say where and how a command runs.
        """
        for group in self._action_groups:
            if found := re.fullmatch(r"\w+ \['(?:\w+\.)*(\w+)'\]", group.title or ""):
                group.title = "run" if found[1] == "options" else found[1]
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` instead of printing the usage."""
        if message.startswith("unrecognized arguments: "):
            flag = message.removeprefix("unrecognized arguments: ").split()[0]
            shown = [
                option
                for option, action in self._option_string_actions.items()
                if option.startswith("--") and action.help != argparse.SUPPRESS
            ]
            near = nearest(flag.split("=")[0].lstrip("-"), [option[2:] for option in shown])
            meant = " or ".join(f"--{name}" for name in near)
            hint = f"did you mean {meant}?" if near else "see --help for all of them."
            message = f"There is no flag {flag}; {hint}"
        else:
            message = re.sub(r"'([^']{50})[^']{10,}'", r"'\1...'", message)
            message = f"{message[0].upper()}{message[1:]}; see --help."
        raise UserError(message)


def run_as_command(action: Callable[[], None]) -> NoReturn:
    """Run `action` and exit with 0; print a user's mistake as one sentence and exit with 2.

    If the reader of the output ends first, as `head` does, exit silently with 141, like other programs.
    """
    for stream in (sys.stdout, sys.stderr):
        # File names may contain any bytes, and terminals may use any encoding.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())
    try:
        try:
            action()
        except OSError as error:
            _tell_output(error)
            raise
        except SystemExit as left:
            if isinstance(left.__context__, BrokenPipeError):  # rich exits with 1
                sys.exit(141)
            raise
        finally:
            _flush_output()
    except UserError as error:
        # One line, even if a file name contains a newline.
        told = str(error).replace("\n", "\\n")
        print(printable(f"Error: {told}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        told = str(interrupt) or "Stopped; the same command resumes from here."
        print(printable(f"\n{told}"), file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _flush_output() -> None:
    """Write buffered output, and report if it cannot be written."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError as error:
        _tell_output(error)
        raise


def _tell_output(error: OSError) -> None:
    """If `error` is about standard output, exit (its reader has ended) or raise a sentence."""
    if isinstance(error, BrokenPipeError) and _has_no_reader():
        _forget_output()
        sys.exit(141)
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and error.filename is None:
        _forget_output()
        raise UserError(f"The output cannot be written ({error.strerror}); free some space.") from error


def _has_no_reader() -> bool:
    """Whether standard output is a pipe without reader; a broken connection raises the same error."""
    poll = select.poll()
    poll.register(1, select.POLLOUT)
    try:
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except OSError:
        return False


def _forget_output() -> None:
    """Discard unwritten output; Python would try to write it again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

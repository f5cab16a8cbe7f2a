"""Evaluates features of any toolkit: `python -m san_tf.evaluate --query Q.npz --gallery G.npz`.

It needs neither TensorFlow nor a compiler, and reads galleries larger than the memory.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simple_parsing import DashVariant

from san_tf.command_line import Parser, Terminal, run_as_command
from san_tf.errors import UserError
from san_tf.evaluation.options import CalibrationOptions, Measures, Preparation

if TYPE_CHECKING:
    # These import NumPy and Numba, which `--help` and wrong flags should not wait for.
    from san_tf.evaluation.assessment import Assessment, Say
    from san_tf.evaluation.feature_set import FeatureSet

_EPILOG = (
    "Files: .npz with `features` (N, D), `pids` (N,) and `camids` (N,); .npy features with a .csv of the "
    "same name (columns pid, camid); .parquet with columns features, pids, camids. The pid -1 is junk, the "
    "camid -1 is unknown; camids may be missing. Distances are squared Euclidean, or 1 - cosine similarity."
)


@dataclass(frozen=True)
class Files:
    """What is read and written."""

    query: list[str]
    """Query features; one file per model. The embeddings of several models are concatenated."""
    gallery: list[str] = field(default_factory=list)
    """Gallery features, one file per model; optional for the protocol `vehicleid`."""
    weights: list[float] = field(default_factory=list)
    """Weights of several models; equal by default."""
    against: list[str] = field(default_factory=list)
    """Query and gallery file of a second run on the same images, to compare with."""
    figures: str | None = None
    """A folder to draw figures in."""
    json: bool = False
    """Print the result as JSON, and nothing else."""

    def check(self, protocol: str) -> None:
        """Raise `UserError` if the files do not go together."""
        if not self.gallery and protocol != "vehicleid":
            raise UserError("--gallery is missing; name the gallery's features.")
        if self.gallery and len(self.gallery) != len(self.query):
            raise UserError(
                f"There are {len(self.query)} query files and {len(self.gallery)} gallery files; give one of "
                "each per model."
            )
        if self.weights and len(self.weights) != len(self.query):
            raise UserError(
                f"--weights has {len(self.weights)} numbers for {len(self.query)} models; give one per model."
            )
        if self.against and len(self.against) != (2 if self.gallery else 1):
            raise UserError("--against needs two files: the second run's query and gallery.")


@dataclass(frozen=True)
class Options:
    """The whole command line."""

    files: Files
    preparation: Preparation
    measures: Measures
    calibration: CalibrationOptions


def parse(argv: Sequence[str] | None = None) -> Options:
    """Read the command line.

    Raises:
        UserError: an unknown flag or an impossible value.
    """
    parser = Parser(
        prog="python -m san_tf.evaluate",
        description="Evaluate features of any toolkit: CMC, mAP, mINP and more.",
        usage="%(prog)s --query Q.npz --gallery G.npz [--json] [--rerank] [further flags]",
        add_option_string_dash_variants=DashVariant.UNDERSCORE,
        epilog=_EPILOG,
    )
    for name, kind in (
        ("files", Files),
        ("preparation", Preparation),
        ("measures", Measures),
        ("calibration_options", CalibrationOptions),
    ):
        parser.add_arguments(kind, dest=name)
    arguments = parser.parse_args(argv)
    options = Options(
        arguments.files, arguments.preparation, arguments.measures, arguments.calibration_options
    )
    options.preparation.check()
    options.measures.check()
    options.calibration.check()
    options.files.check(options.measures.protocol)
    _check_calibration(options)
    return options


def _check_calibration(options: Options) -> None:
    wanted = options.calibration.calibrate or options.calibration.calibration
    if not wanted:
        return
    prepared = options.preparation
    if prepared.camera_bias_removal or prepared.database_augmentation or prepared.query_expansion:
        raise UserError(
            "A calibration compares two embeddings on their own; leave camera-bias removal, expansion and "
            "augmentation out."
        )
    if options.measures.protocol == "vehicleid":
        raise UserError("The protocol vehicleid has no fixed pairs to calibrate; use the protocol partial.")


def read(files: Sequence[str], weights: Sequence[float], role: str) -> FeatureSet:
    """Read the features of one model, or concatenate those of several.

    Args:
        files: one file per model.
        weights: one per model; empty for equal weights.
        role: "query" or "gallery".

    Raises:
        UserError: a file that cannot be used, or files of different images.
    """
    import numpy as np

    from san_tf.evaluation.feature_files import read_features
    from san_tf.evaluation.feature_set import concatenated

    sets = [read_features(name, role) for name in files]
    for name, item in zip(files[1:], sets[1:], strict=True):
        first = sets[0]
        if not (np.array_equal(item.pids, first.pids) and np.array_equal(item.camids, first.camids)):
            raise UserError(
                f"{name} does not describe the images of {files[0]}: pids or camids differ; give files of "
                "the same images."
            )
    if len(sets) == 1:
        return sets[0]
    return sets[0].with_features(concatenated([item.features for item in sets], list(weights) or None))


def evaluate(options: Options, say: Say) -> tuple[dict[str, Assessment], dict[str, Any]]:
    """Evaluate the files that the command line names.

    Args:
        options: the command line.
        say: called with the name of the next step.

    Returns:
        The results of each run by name, and the report that `--json` prints.

    Raises:
        UserError: files or values that cannot be used.
    """
    from san_tf.evaluation.assessment import assess, differences
    from san_tf.evaluation.embedding_steps import prepared
    from san_tf.evaluation.significance import as_dict

    files, measures = options.files, options.measures
    pairs = {"features": (files.query, files.gallery, files.weights)}
    if files.against:
        pairs = {"first": pairs["features"], "second": (files.against[:1], files.against[1:], [])}
    runs: dict[str, Assessment] = {}
    report: dict[str, Any] = {}
    for name, (query_files, gallery_files, weights) in pairs.items():
        say("Reading")
        query = read(query_files, weights, "query")
        gallery = read(gallery_files, weights, "gallery") if gallery_files else query
        say("Preparing")
        query, gallery = prepared(query, gallery, options.preparation)
        runs[name] = assess(query, gallery, measures, say)
        scores = runs[name].as_dict(measures.far)
        if name == "second":
            report["against"] = scores
            continue
        report.update(scores)
        report["metric"] = measures.metric
        report["images"] = {"query": len(query), "gallery": len(gallery) if gallery_files else 0}
        report["dimensions"] = int(query.features.shape[1])
        if options.calibration.calibrate or options.calibration.calibration:
            say("Calibrating")
            report["calibration"] = _calibrate(options, query, gallery)
    if files.against:
        say("Comparing the runs")
        report["difference"] = as_dict(differences(runs["first"], runs["second"], measures))
    if files.figures:
        say("Drawing")
        from san_tf.evaluation.assessment_report import draw

        report["figures"] = draw(runs, report, files.figures)
    return runs, report


def _calibrate(options: Options, query: FeatureSet, gallery: FeatureSet) -> dict[str, Any]:
    from san_tf.evaluation.calibration import Calibration
    from san_tf.evaluation.calibration_fit import fit_calibration, reliability
    from san_tf.evaluation.protocols import features_distances

    asked, measures = options.calibration, options.measures
    distances = features_distances(query, gallery, measures.metric)
    normalized = options.preparation.normalize or measures.metric == "cosine"
    if asked.calibrate:
        fitted = fit_calibration(
            distances,
            query,
            gallery,
            measures.metric,
            normalized,
            asked.method,
            asked.prior,
            measures.protocol,
            seed=measures.seed,
            strict=asked.strict,
        )
        fitted.save(asked.calibrate)
        return {"file": asked.calibrate, **fitted.to_dict()}
    stored = Calibration.load(str(asked.calibration))
    if (stored.metric, stored.normalized) != (measures.metric, normalized):
        wanted = f"--metric {stored.metric}{' --normalize' if stored.normalized else ''}"
        raise UserError(f"{asked.calibration} was fitted to other distances; give {wanted}.")
    kept = reliability(stored, distances, query, gallery, measures.protocol)
    return {"file": asked.calibration, **kept.as_dict()}


def main(argv: Sequence[str] | None = None) -> None:
    """Parse, evaluate, print: `python -m san_tf.evaluate`."""

    def action() -> None:
        options = parse(argv)
        # Progress goes to standard error: standard output may be piped.
        screen = Terminal(stderr=True)

        def say(text: str) -> None:
            if screen.is_terminal:
                screen.print(f"{text} ...", style="dim", markup=False)

        try:
            runs, report = evaluate(options, say)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("Stopped; start again with the same command.") from None
        if options.files.json:
            print(json.dumps(report, allow_nan=False))
        else:
            from san_tf.evaluation.assessment_report import show

            show(runs, report, options.measures, Terminal())

    run_as_command(action)


if __name__ == "__main__":
    main()

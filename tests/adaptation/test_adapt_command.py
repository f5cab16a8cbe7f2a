"""`san-tf adapt` on rendered people by cameras that the encoder has not seen, and its mistakes."""

import json
import shutil

import numpy as np
import pytest

from san_tf import build_encoder, load_encoder
from san_tf.__main__ import main
from san_tf.adaptation.adapt_command import _answers, read_crops, records_of
from san_tf.adaptation.start_encoder import trainable_encoder
from san_tf.data.records import Records
from san_tf.errors import UserError
from san_tf.evaluation.feature_set import FeatureSet
from san_tf.evaluation.protocols import evaluate_protocol
from san_tf.models.preset_folder import save_to_preset
from san_tf.models.san import SAN  # noqa: F401  # what a preset may hold
from san_tf.retrieval.name_reader import NameReader
from san_tf.serving.encoder_export import export_encoder
from san_tf.synthesis import generator
from san_tf.synthesis.crop_plans import ReidConfig

# People of a street that nobody trained on, by two cameras.
STREET = ReidConfig(
    "adapted_street", 14, 2, train_images=112, queries=4, gallery_images=8, distractors=0, junk=0,
    cameras=2, image_height=64, seed=77, appearances=2.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    folder = generator.export_market(
        STREET, tmp_path_factory.mktemp("street") / "market", processes=0, progress=False
    )
    return folder / "bounding_box_train"


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    """The backbone that learnt to paint rendered people, for small images."""
    encoder = build_encoder("thin_resnet", (64, 32, 3), 1, "bnneck", weights="painting", seed=0)
    return save_to_preset(encoder, tmp_path_factory.mktemp("start") / "painting")


def run(*arguments):
    with pytest.raises(SystemExit) as left:
        main(["adapt", *map(str, arguments)])
    return left.value.code


def across_cameras(encoder, records):
    """mAP of one camera asking the other."""
    features = encoder.embed(list(records.images))
    sides = [
        FeatureSet(features[records.camids == c], records.pids[records.camids == c], np.full(
            np.count_nonzero(records.camids == c), c)) for c in np.unique(records.camids)
    ]  # fmt: skip
    return evaluate_protocol(*sides).mAP


def test_an_encoder_learns_a_street_that_it_has_not_seen(crops, preset, tmp_path, capsys):
    mixed = tmp_path / "crops"
    shutil.copytree(crops, mixed)
    one = sorted(mixed.iterdir())[0]
    (mixed / f"copy_{one.name}").write_bytes(one.read_bytes())
    (mixed / "0001_c1s1_999999_00.jpg").write_bytes(one.read_bytes()[:300])
    (mixed / "notes.txt").write_text("not a crop")
    asked = (mixed, "--model", preset, "--rounds", 2, "--epochs", 3, "--k1", 8, "--learning_rate", 1e-3)
    assert run(*asked, "--out", tmp_path / "dry", "--dry_run") == 0
    told = capsys.readouterr().out
    assert "112 crops, 2 cameras; 1 copies left out" in told and "nothing was written" in told
    assert "Left out: 1 crops (is damaged" in told and ".txt: 1" in told
    assert not (tmp_path / "dry").exists()

    out = tmp_path / "adapted"
    assert run(*asked, "--out", out) == 0
    told = capsys.readouterr().out
    assert "start: " in told and "round 2: " in told and "silhouette" in told
    report = json.loads((out / "adaptation.json").read_text())
    states, kept = report["states"], report["kept"]
    records = Records.from_folder(crops)
    before, after = (across_cameras(load_encoder(str(path)), records) for path in (preset, out / "preset"))
    purity = [state["purity"] * state["gathered"] for state in states]
    assert kept > 0 and after > before + 0.02, (before, after, states)
    assert purity[kept] > purity[0], states
    # The export is the same encoder, with its mirror image.
    features = load_encoder(str(out / "saved_model")).embed(list(records.images[:2]))
    mirrored = load_encoder(str(out / "preset")).embed(list(records.images[:2]))
    assert (np.sum(features * mirrored, axis=1) > 0.9).all()
    # The preset is a start of its own.
    assert trainable_encoder(out / "preset").output["embedding"].shape[-1] == 192


def test_cameras_and_identities_of_a_table_and_of_folders(crops, tmp_path):
    files = sorted(crops.iterdir())[:4]
    rows = [f"{path},{who},{where}" for path, who, where in zip(files, "abab", (1, 1, 2, 2), strict=True)]
    (tmp_path / "crops.csv").write_text("path,identity,camera\n" + "\n".join(rows) + "\n")
    found = read_crops([str(tmp_path / "crops.csv")], NameReader(), None)
    assert found.cameras == [1, 1, 2, 2]
    assert found.pids[0] == found.pids[2] != found.pids[1] == found.pids[3] and min(found.pids) > 0
    for number, path in enumerate(files):
        place = tmp_path / "site" / ("door" if number < 3 else "hall") / f"x{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    found = read_crops([str(tmp_path / "site")], NameReader(folders=True), None)
    assert found.cameras[0] == found.cameras[1] == found.cameras[2] != found.cameras[3]
    assert found.pids == [-1] * 4
    assert read_crops([str(tmp_path / "site")], NameReader(), None).cameras == [-1] * 4


def test_starts_that_can_be_trained_and_those_that_cannot(preset, tmp_path):
    encoder = trainable_encoder(preset)
    export_encoder(encoder, tmp_path / "mine", (64, 32), trainable=True, warmup_batches=())
    encoder.save_weights(tmp_path / "mine.weights.h5")
    for start in (tmp_path / "mine", tmp_path / "mine" / "1", tmp_path / "mine.weights.h5", encoder):
        again = trainable_encoder(start)
        for ours, theirs in zip(again.layers, encoder.layers, strict=True):
            if ours.name != "classifier":
                for value, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
                    np.testing.assert_array_equal(value, expected)
    assert trainable_encoder("painting").input.shape[1:] == (128, 64, 3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("epochs: 3\n")
    (tmp_path / "net.onnx").write_bytes(b"x")
    for start, sentence in (
        ("synthetic", "is an export, whose folded weights cannot be trained further; give a preset folder"),
        ("nowhere", "There is no encoder nowhere; give a preset folder"),
        (tmp_path / "empty", "is not an encoder; give a preset folder"),
        (tmp_path / "run", "has no encoder yet in its folder weights"),
        (tmp_path / "net.onnx", "is not a weights file"),
    ):
        with pytest.raises(UserError, match=sentence) as caught:
            trainable_encoder(start)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere", "--model", "x", "--out", "new"), "nowhere does not exist"),
        ((".", "--model", "x", "--out", "file"), "file is a file; name a folder"),
        ((".", "--model", "x", "--out", "new", "--rounds", "0"), "--rounds"),
        ((".", "--out", "new"), "--model"),
        ((".", "--model", "nothing", "--out", "new"), "There is no encoder nothing"),
        ((".", "--model", "x", "--out", "new", "--camera_pattern", "("), "not a regular expression"),
        ((".", "--model", "x", "--out", "new", "--distance", "2"), "lies between 0 and 0.95"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert run(*arguments) == 2
    told = capsys.readouterr().err
    assert sentence in told and told.startswith("Error: ") and told.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_the_encoder_for_photographs_can_be_adapted():
    rng = np.random.default_rng(0)
    half = rng.integers(0, 256, (4, 16, 4, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    # Of equal halves, because the export averages over the mirror image.
    images = np.concatenate([half, half[:, :, ::-1]], axis=2)
    served = load_encoder("people_scratch").embed(images)
    further = load_encoder(trainable_encoder("people_scratch")).embed(images)
    np.testing.assert_allclose(further, served, atol=2e-3)  # float16 kernels, folded norms
    assert np.abs(served[0] - served[1]).max() > 0.02


def test_answers_about_copies_and_damaged_crops_are_understood(records, tmp_path):
    images = list(records.images[:4])
    for number, content in enumerate([*images, images[0], b"damaged"]):
        (tmp_path / f"{number}.png").write_bytes(content)
    crops = read_crops([str(tmp_path)], NameReader(), None)
    records_of(crops)
    assert crops.duplicates == 1 and crops.copies == {str(tmp_path / "4.png"): str(tmp_path / "0.png")}
    answers = tmp_path / "answers.csv"
    answers.write_text(
        "first,second,same\n4.png,1.png,yes\n2.png,0.png,no\n5.png,0.png,no\n0.png,4.png,yes\n"
    )
    found = _answers(str(answers), crops)
    assert (found.first.tolist(), found.second.tolist(), found.same.tolist()) == (
        [0, 0],
        [1, 2],
        [True, False],
    )

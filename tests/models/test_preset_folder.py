import inspect
import json
import warnings

import keras
import numpy as np
import pytest

from san_tf.errors import UserError
from san_tf.models import (
    SAN,
    LossWeights,
    ModelCard,
    build_decoder,
    build_encoder,
    preset_folder,
    save_to_preset,
)
from san_tf.models import (
    preset_folder as hub,
)
from san_tf.models.presets import PRESETS, card_of

SHAPE = (32, 16, 3)
CARD = {
    "description": "A network of a test.",
    "licence": "cc-by-4.0",
    "weights": "Random, seed 1.",
    "training_data": "None at all.",
    "scores": {"Nowhere-1 rank-1": 12.5},
    "measured": "Guessed.",
}
IMAGES = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)


def network(seed=1, num_classes=4, **arguments):
    encoder = build_encoder("thin_resnet", SHAPE, num_classes, weights=None, seed=seed, **arguments)
    decoder = build_decoder([x.shape for x in encoder.output["stages"]], (8, 6, 6, 4, 4), seed=seed)
    return SAN(encoder, decoder, LossWeights(1.0, 0.5, 0.25, 0.125), margin=0.5, smoothing=0.0, seed=7)


@pytest.fixture(scope="module")
def san():
    """With moving statistics that are not those of the start."""
    model = network()
    rng = np.random.default_rng(3)
    model.set_weights([w + 0.1 * rng.random(w.shape) for w in model.get_weights()])
    return model


@pytest.fixture
def folder(san, tmp_path):
    return san.save_to_preset(tmp_path / "mine", CARD)


def assert_equal(a, b):
    for x, y in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_san_comes_back_to_the_bit(san, folder):
    again = SAN.from_preset(str(folder))
    for part in ("encoder", "decoder"):
        assert_equal(getattr(san, part), getattr(again, part))
    assert {k: v for k, v in again.get_config().items() if k not in ("encoder", "decoder")} == {
        k: v for k, v in san.get_config().items() if k not in ("encoder", "decoder")
    }
    np.testing.assert_array_equal(again(IMAGES)["texture"], san(IMAGES)["texture"])
    assert_equal(build_encoder.from_preset(str(folder)), san.encoder)
    names = {path.name for path in folder.iterdir()}
    assert (
        names == {"config.json", "encoder.safetensors", "decoder.safetensors", "README.md"} == set(hub.FILES)
    )


def test_float16_halves_the_kernels_and_rounds_them(san, folder, tmp_path):
    half = san.save_to_preset(tmp_path / "half", CARD, weights="float16")
    for part in ("encoder", "decoder"):
        network = getattr(san, part)
        # Two bytes less for each number of a kernel; the headers differ by less than a hundredth.
        saved = 2 * sum(weight.size for weight in network.get_weights() if weight.ndim > 1)
        sizes = [(where / f"{part}.safetensors").stat().st_size for where in (folder, half)]
        assert abs(sizes[0] - sizes[1] - saved) < sizes[0] / 100
    again = SAN.from_preset(str(half))
    for part in ("encoder", "decoder"):
        for x, y in zip(getattr(san, part).get_weights(), getattr(again, part).get_weights(), strict=True):
            assert y.dtype == x.dtype
            np.testing.assert_array_equal(y, x.astype(np.float16).astype(x.dtype) if x.ndim > 1 else x)


def test_float16_refuses_weights_beyond_it(tmp_path):
    large = network()
    large.encoder.get_layer("stem_conv").kernel.assign(np.full((3, 3, 3, 32), 65_520.0))
    with pytest.raises(UserError, match="stem_conv/kernel is not finite, or too large for float16"):
        save_to_preset(large, tmp_path / "x", weights="float16")
    with pytest.raises(UserError, match="float32 or float16, not 'int8'"):
        save_to_preset(large, tmp_path / "x", weights="int8")
    assert not list(tmp_path.iterdir())


def test_the_classifier_of_the_training_identities_can_stay_behind(san, folder, tmp_path):
    body = san.save_to_preset(tmp_path / "body", CARD, classifier=False)
    assert "without its classifier" in (body / "README.md").read_text()
    assert json.loads((body / "config.json").read_text())["encoder"]["num_classes"] == 1
    sizes = [(where / "encoder.safetensors").stat().st_size for where in (folder, body)]
    classes, features = san.encoder.output["logits"].shape[1], san.encoder.output["embedding"].shape[1]
    assert classes > 1 and abs(sizes[0] - sizes[1] - 4 * (classes - 1) * features) < 200
    encoder = build_encoder.from_preset(str(body), num_classes=classes)
    np.testing.assert_array_equal(encoder(IMAGES)["embedding"], san.encoder(IMAGES)["embedding"])
    np.testing.assert_array_equal(SAN.from_preset(str(body))(IMAGES)["texture"], san(IMAGES)["texture"])
    # The network itself keeps its classifier.
    assert san.encoder(IMAGES)["logits"].shape == (len(IMAGES), classes)


def test_an_encoder_alone_and_the_baseline_made_of_it(san, tmp_path):
    folder = save_to_preset(san.encoder, tmp_path / "encoder", ModelCard(**CARD))
    assert not (folder / "decoder.safetensors").exists()
    assert_equal(build_encoder.from_preset(str(folder)), san.encoder)
    baseline = SAN.from_preset(str(folder))
    assert baseline.decoder is None
    # What came from a preset can be saved again.
    again = save_to_preset(baseline, tmp_path / "again")
    assert_equal(build_encoder.from_preset(str(again)), san.encoder)


def test_other_identities_keep_all_but_the_classifier(san, folder):
    other = SAN.from_preset(str(folder), num_classes=9, seed=5)
    assert other.encoder.output["logits"].shape == (None, 9)
    np.testing.assert_array_equal(other.encoder(IMAGES)["embedding"], san.encoder(IMAGES)["embedding"])
    np.testing.assert_array_equal(other(IMAGES)["texture"], san(IMAGES)["texture"])
    start = build_encoder("thin_resnet", SHAPE, 9, weights=None, seed=5)
    np.testing.assert_array_equal(
        other.encoder.get_layer("classifier").get_weights()[0], start.get_layer("classifier").get_weights()[0]
    )


def test_another_image_size_and_no_weights(san, folder):
    larger = build_encoder.from_preset(str(folder), input_shape=(64, 32, 3))
    assert_equal(larger, san.encoder)
    assert larger.output["stages"][3].shape[1:3] == (4, 2)
    fresh = build_encoder.from_preset(str(folder), load_weights=False, seed=1)
    assert_equal(fresh, build_encoder("thin_resnet", SHAPE, 4, weights=None, seed=1))


def test_somebody_elses_backbone_by_name_brings_its_preprocessing(tmp_path):
    encoder = build_encoder("keras:MobileNet", (32, 32, 3), 3, weights=None, seed=1)
    encoder.get_layer("input_adapter").set_weights([2.0 * np.eye(3), np.ones(3)])
    again = build_encoder.from_preset(str(save_to_preset(encoder, tmp_path / "mobile")))
    assert_equal(encoder, again)


def test_the_card_says_all_of_it(folder):
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\n") and "# mine" in text
    for statement in (*[v for v in CARD.values() if isinstance(v, str)], "| Nowhere-1 rank-1 | 12.5 |"):
        assert statement in text
    assert "32 x 16" in text and "0.485" in text and "thin_resnet" in text
    config = json.loads((folder / "config.json").read_text())
    assert config["card"] == CARD and config["normalization"]["mean"] == [0.485, 0.456, 0.406]


def test_saving_replaces_a_preset_and_nothing_else(san, folder, tmp_path):
    other = network(seed=2, num_classes=3)
    other.save_to_preset(folder)
    assert_equal(SAN.from_preset(str(folder)), other)
    assert "Not described." in (folder / "README.md").read_text()
    precious = tmp_path / "photos"
    precious.mkdir()
    (precious / "a.jpg").write_bytes(b"x")
    with pytest.raises(UserError, match="not a preset"):
        san.save_to_preset(precious)
    assert [path.name for path in precious.iterdir()] == ["a.jpg"]


def test_what_cannot_be_described_or_used_is_not_saved(san, tmp_path):
    with pytest.raises(UserError, match="not built by build_encoder"):
        save_to_preset(keras.Model.from_config(san.encoder.get_config()), tmp_path / "x")
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1.0)(image)
    for _ in range(5):
        x = keras.layers.Conv2D(4, 3, 2, "same")(x)
    with pytest.raises(UserError, match="given as an object"):
        save_to_preset(build_encoder(keras.Model(image, x), (32, 32, 3), 3), tmp_path / "x")
    broken = network()
    broken.encoder.get_layer("stem_conv").kernel.assign(np.full((3, 3, 3, 32), np.nan))
    with pytest.raises(UserError, match="stem_conv/kernel is not finite"):
        save_to_preset(broken, tmp_path / "x")
    with pytest.raises(UserError, match="has no 'author'"):
        save_to_preset(san, tmp_path / "x", {"author": "me"})
    with pytest.raises(UserError, match="scores of a model card must be numbers by name"):
        save_to_preset(san, tmp_path / "x", {"scores": {"rank-1": "high"}})
    assert not list(tmp_path.iterdir())


def change(folder, **values):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("sha256", None)  # somebody's own config
    for key, value in values.items():
        part, _, name = key.partition("__")
        if name:
            config[part][name] = value
        else:
            config[part] = value
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"version": 3}, "format version 3.*upgrade"),
        ({"version": "1"}, "no format version"),
        ({"format": "keras"}, "not the config of a preset"),
        ({"code": "import os"}, "unknown entry 'code'"),
        ({"normalization": {"mean": [0, 0, 0]}}, "another normalisation"),
        ({"encoder__weights": "/etc/passwd"}, "encoder has no 'weights'"),
        ({"encoder__preprocessing": "os.system"}, "encoder has no 'preprocessing'"),
        ({"decoder__stage_shapes": [[1]]}, "decoder has no 'stage_shapes'"),
        ({"san__encoder": {"class_name": "Lambda"}}, "san has no 'encoder'"),
        ({"encoder__backbone": "keras:../../x"}, "no '../../x'"),
        ({"encoder__backbone": "os.system"}, "Unknown backbone 'os.system'"),
        ({"encoder__backbone": ["resnet50"]}, "backbone must be a value like"),
        ({"encoder__num_classes": "4"}, "num_classes must be a value like"),
        ({"encoder__num_classes": True}, "num_classes must be a value like"),
        ({"encoder__num_classes": 10**12}, "num_classes must be a value like"),
        ({"encoder__input_shape": [32, 16]}, "input_shape must be a value like"),
        ({"encoder__input_shape": [33, 16, 3]}, "input_shape must be"),
        ({"decoder__widths": [8, 6, 6, 4, "4"]}, "widths must be a value like"),
        ({"san__margin": "wide"}, "margin must be a value like"),
        ({"san__smoothing": 2.0}, "smoothing must lie"),
        ({"encoder": None}, "encoder must hold named values"),
        ({"card": {"description": 3}}, "description of a model card must be text"),
        ({"encoder__head": "fc512"}, "encoder.safetensors does not hold the weights of the encoder"),
        ({"encoder__num_classes": 5}, "encoder.safetensors does not hold"),
        ({"decoder__widths": [8, 6, 6, 4, 8]}, "decoder.safetensors does not hold"),
    ],
)
def test_a_config_that_says_what_cannot_be_is_refused(folder, values, word):
    change(folder, **values)
    with pytest.raises(UserError, match=word) as error:
        SAN.from_preset(str(folder))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"encoder__num_classes": 1_000_000}, r"num_classes asks for size 1000000 of classifier.*\(192, 4\)"),
        ({"decoder__widths": [1_000_000, 6, 6, 4, 4]}, "widths asks for size 1000000 of reduce_conv"),
        ({"decoder__widths": [8, 6, 6, 4, 1_000_000]}, "widths asks for size 1000000 of up4_conv"),
        ({"decoder__final_kernel": 9999}, "final_kernel asks for size 9999 of final_conv"),
        ({"decoder__palette": 1_000_000}, "palette asks for size 1000000 of final_conv"),
        ({"decoder__sketch": 1_000_000}, "sketch asks for size 1000000 of sketch_hidden"),
    ],
)
def test_sizes_are_compared_before_a_network_of_gigabytes_is_built(folder, values, word, monkeypatch):
    change(folder, **values)
    monkeypatch.setattr(preset_folder, "registered", lambda name: lambda **_: pytest.fail(f"{name} built"))
    with pytest.raises(UserError, match=word):
        SAN.from_preset(str(folder), load_weights=False)
    if "encoder__num_classes" in values:
        with pytest.raises(UserError, match=word):
            build_encoder.from_preset(str(folder))


def test_a_flipped_number_in_the_config_is_told(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"margin": 0.5', '"margin": 0.7'))
    with pytest.raises(UserError, match=r"config\.json is damaged or was changed"):
        SAN.from_preset(str(folder))
    # The card is free to be written anew.
    path.write_text(path.read_text().replace('"margin": 0.7', '"margin": 0.5').replace("Guessed", "Measured"))
    assert SAN.from_preset(str(folder)).margin == 0.5


def test_a_flipped_bit_in_the_weights_is_told(san, folder):
    path = folder / "encoder.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 64
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"encoder\.safetensors is damaged: model/\S+ is not as it was"):
        build_encoder.from_preset(str(folder))


def test_another_form_is_refused_and_another_size_is_there_on_purpose(san, folder):
    with pytest.raises(UserError, match="with last_stride=1, not 2; leave last_stride out"):
        build_encoder.from_preset(str(folder), last_stride=2)
    change(folder, encoder__last_stride=2, encoder__input_shape=[32, 32, 3])
    with pytest.raises(
        UserError, match=r"input_shape=\[32, 16, 3\], and encoder_thin_resnet has input_shape="
    ):
        build_encoder.from_preset(str(folder))
    change(folder, encoder__last_stride=1, encoder__input_shape=[32, 16, 3])
    larger = SAN.from_preset(str(folder), input_shape=(64, 32, 3))
    assert larger.encoder.input_shape == (None, 64, 32, 3)
    assert_equal(larger.encoder, san.encoder)  # the classifier too
    assert_equal(larger.decoder, san.decoder)


def test_damaged_folders_are_named(folder, tmp_path):
    with pytest.raises(
        UserError, match=r"There is no preset 'san_huge'.*san_resnet50_paper.*san_light.*hf://"
    ):
        SAN.from_preset("san_huge")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty is not a preset: it has no config.json"):
        build_encoder.from_preset(str(tmp_path / "empty"))
    whole = (folder / "encoder.safetensors").read_bytes()
    (folder / "encoder.safetensors").write_bytes(whole[:1000])
    with pytest.raises(UserError, match=r"encoder.safetensors"):
        build_encoder.from_preset(str(folder))
    (folder / "encoder.safetensors").unlink()
    with pytest.raises(UserError, match=r"lacks encoder.safetensors"):
        build_encoder.from_preset(str(folder))
    for text in ("{", "[]", "[" * 100_000, "\xff"):
        (folder / "config.json").write_bytes(text.encode("latin1"))
        with pytest.raises(UserError, match=r"config.json"):
            build_encoder.from_preset(str(folder))


# --- named presets ---


@pytest.mark.parametrize("name", ["san_light", "san_efficientnet_lite0"])
def test_a_named_preset_builds_without_weights_and_its_card_is_written(name, tmp_path):
    encoder = build_encoder.from_preset(name, 3, load_weights=False, seed=1, input_shape=(32, 32, 3))
    arguments = PRESETS[name]["encoder"] | {"num_classes": 3, "weights": None, "input_shape": (32, 32, 3)}
    assert encoder.output["logits"].shape == (None, 3)
    assert_equal(encoder, build_encoder(**arguments, seed=1))
    save_to_preset(encoder, tmp_path / name, card_of(name))
    assert card_of(name).description in (tmp_path / name / "README.md").read_text()


def test_build_encoder_is_still_the_function_it_was():
    assert build_encoder.__name__ == "build_encoder" and "SA-Enc" not in (build_encoder.__doc__ or "")
    assert list(inspect.signature(build_encoder).parameters)[:3] == ["backbone", "input_shape", "num_classes"]


# --- the hub ---


def test_a_preset_on_the_hub_is_fetched_whole_and_only_its_files(san, folder, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    fetched = SAN.from_preset("hf://somebody/a-network")
    for part in ("encoder", "decoder"):
        assert_equal(getattr(fetched, part), getattr(san, part))
    build_encoder.from_preset("hf://somebody/a-network@v1.0")
    files = list(hub.FILES)
    assert asked == [("somebody/a-network", None, files), ("somebody/a-network", "v1.0", files)]


def test_offline_the_hub_is_one_sentence(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"^hf://somebody/a-network could not be fetched \(") as error:
        SAN.from_preset("hf://somebody/a-network")
    assert "\n" not in str(error.value)


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'san-tf\[hub\]'"):
        SAN.from_preset("hf://somebody/a-network")


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://name",
        "hf://../x",
        "hf://a/..",
        "hf://a/b/c",
        "hf://a/b@../c",
        "hf:///etc/passwd",
        "hf://a/b\n",
    ],
)
def test_what_is_no_address_reaches_nobody(address, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="not an address on the hub"):
        SAN.from_preset(address)


def test_a_preset_of_an_older_version_calls_the_lambdas_weights(san, folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["san"]["weights"] = config["san"].pop("loss_weights")
    del config["sha256"]
    path.write_text(json.dumps(config))
    assert SAN.from_preset(str(folder), load_weights=False).loss_weights == san.loss_weights


def test_a_named_preset_says_how_many_identities_it_takes():
    with pytest.warns(UserWarning, match="751 identities, those of Market-1501; give num_classes") as told:
        encoder = build_encoder.from_preset("san_light", seed=0)
    assert encoder.output["logits"].shape == (None, 751)
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_encoder.from_preset("san_light", num_classes=3)

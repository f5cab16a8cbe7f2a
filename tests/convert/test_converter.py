"""Conversion as a whole, without PyTorch: names, counts, what does not match, the command, and back."""

from __future__ import annotations

import importlib
import zlib

import h5py
import numpy as np
import pytest
from checkpoint_writer import legacy_checkpoint, tensor, zip_checkpoint
from safetensors import safe_open

from san_tf.convert.__main__ import main
from san_tf.convert.architectures import (
    DECODER,
    Architecture,
    bnneck_names,
    decoder_names,
    head_names,
    osnet_names,
    recognise,
    resnet_names,
)
from san_tf.convert.converter import _as_stated, convert_checkpoint
from san_tf.convert.to_pytorch import convert_weights, to_state_dict, write_state_dict
from san_tf.convert.weight_map import assign
from san_tf.errors import UserError
from san_tf.models import build_decoder, build_encoder
from san_tf.models.osnet import OSNETS
from san_tf.torch_files.checkpoint import read_checkpoint
from san_tf.torch_files.state_dict import find_state_dict, read_state_dict
from san_tf.torch_files.tensors import PickledArray

# Arrays, trainable numbers and CRC-32 of the sorted names and shapes of the peers' own state dicts of 751
# classes, without counts of batches; computed once with their code.
PEERS = {
    "resnet50": (267, 25_046_831, 23637023),
    "resnet101": (522, 44_038_959, 4280100211),
    "resnet50_fc512": (273, 24_943_407, 3320301191),
    "osnet_x1_0": (487, 2_554_771, 3032602612),
    "osnet_x0_75": (487, 1_671_017, 1017867706),
    "osnet_x0_5": (487, 1_015_297, 3095382458),
    "osnet_x0_25": (487, 587_127, 3250418397),
    "osnet_ibn_x1_0": (489, 2_555_795, 49026966),
    "osnet_ain_x1_0": (477, 2_554_771, 3846864634),
    "osnet_ain_x0_75": (477, 1_671_017, 983115983),
    "osnet_ain_x0_5": (477, 1_015_297, 1543075203),
    "osnet_ain_x0_25": (477, 587_127, 1675887312),
    "fast-reid": (270, 25_050_176, 3820228953),
}


def architecture_of(name):
    if name.startswith("osnet"):
        names = osnet_names(name) | head_names("fc512")
        return Architecture(name, {"backbone": name, "head": "fc512"}, names, 751)
    if name == "fast-reid":
        names = resnet_names("resnet50", "backbone.") | bnneck_names()
        return Architecture(name, {"backbone": "resnet50", "head": "bnneck"}, names, 751)
    head = "fc512" if name.endswith("fc512") else "plain"
    backbone = name.removesuffix("_fc512")
    names = resnet_names(backbone) | head_names(head)
    return Architecture(name, {"backbone": backbone, "head": head}, names, 751)


@pytest.fixture(scope="module", autouse=True)
def built_once():
    """Converters build equal networks once, and each use begins with the initial weights again.

    To build an OSNet takes longer than all the rest of a conversion.
    """
    built, build = {}, Architecture.build

    def build_or_reset(self, num_classes=None, seed=0):
        key = (repr(self.encoder), num_classes or self.num_classes, seed)
        if key not in built:
            model = build(self, num_classes, seed)
            built[key] = model, model.get_weights()
        model, initial = built[key]
        model.set_weights(initial)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Architecture, "build", build_or_reset)
        yield


QUICK = ("resnet50_fc512", "osnet_x0_25", "osnet_ibn_x1_0", "osnet_ain_x0_25", "fast-reid")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in PEERS]
)
def test_names_shapes_and_counts_are_the_peers(name):
    arrays, numbers, crc = PEERS[name]
    architecture = architecture_of(name)
    counterparts = architecture.counterparts(architecture.build())
    assert len(counterparts) == arrays
    trained = [pair for pair in counterparts if "running" not in pair.name]
    assert sum(int(np.prod(pair.torch_shape)) for pair in trained) == numbers
    lines = sorted((pair.name, pair.torch_shape) for pair in counterparts)
    assert zlib.crc32("\n".join(f"{name} {shape}" for name, shape in lines).encode()) == crc


def test_ibn_and_gem_are_recognised_by_the_names_of_their_peers():
    """IBN-Net and fast-reid: `bn1` of layers 1 to 3 has `IN` and `BN`; fast-reid's exponent is `p`."""
    backbone, head = resnet_names("resnet50_ibn", "backbone."), bnneck_names()
    form = {"backbone": "resnet50_ibn", "head": "bnneck", "stride_on": "3x3", "pool_padding": "end"}
    form |= {"last_stride": 1, "pooling": "gem"}
    names = backbone | head | {"pool": "heads.pool_layer"}
    network = Architecture("fast-reid", form, names, 7)
    pairs = {pair.name: pair.torch_shape for pair in network.counterparts(network.build())}
    for block, half in (("layer1.2", 32), ("layer2.0", 64), ("layer3.5", 128)):
        at = f"backbone.{block}.bn1"
        assert pairs[f"{at}.IN.weight"] == pairs[f"{at}.IN.bias"] == pairs[f"{at}.BN.running_var"] == (half,)
        assert f"{at}.weight" not in pairs and f"{at}.IN.running_mean" not in pairs
    assert pairs["backbone.layer4.0.bn1.running_mean"] == (512,)
    assert pairs["heads.pool_layer.p"] == (1,)
    # Thirteen blocks, in each gain and shift of an instance norm more; and the exponent.
    assert len(pairs) == PEERS["fast-reid"][0] + 2 * 13 + 1

    def zeros(*shape):
        array = PickledArray()
        array.values = np.zeros(shape, np.float32)
        return array

    tensors = {name: zeros(*shape) for name, shape in pairs.items()}
    found = recognise(tensors, "x.pth")
    assert (found.encoder, found.names, found.num_classes) == (form, names, 7)
    assert "heads.pool_layer.p" in found.head_names
    of_ibn_net = {
        name.removeprefix("backbone."): tensors[name] for name in tensors if name.startswith("backbone.")
    }
    of_ibn_net["fc.weight"] = zeros(1000, 2048)
    found = recognise(of_ibn_net, "x.pth")
    assert found.title == "resnet50_ibn of IBN-Net" and found.encoder["backbone"] == "resnet50_ibn"


def test_no_table_gives_one_name_twice():
    tables = [resnet_names("resnet50") | head_names("fc512"), decoder_names()]
    for table in [*tables, *(osnet_names(name) for name in OSNETS)]:
        assert len(set(table.values())) == len(table)


# --- one small network all the way ---
def random_weights(name, seed=0):
    rng = np.random.default_rng(seed)
    architecture = architecture_of(name)
    counterparts = architecture.counterparts(architecture.build(num_classes=5))
    return {pair.name: rng.uniform(0.1, 0.2, pair.torch_shape).astype(np.float32) for pair in counterparts}


@pytest.fixture(scope="module")
def weights():
    return random_weights("osnet_x0_25")


def save(weights, path, wrap=lambda tensors: tensors, write=zip_checkpoint):
    path.write_bytes(
        write(wrap({name: tensor(value, str(i)) for i, (name, value) in enumerate(weights.items())}))
    )
    return path


def test_a_checkpoint_of_a_trainer_becomes_weights_for_build_encoder(weights, tmp_path, capsys):
    def wrap(tensors):
        counts = {"module.conv1.bn.num_batches_tracked": tensor(np.array([9]), "count")}
        decoder = {"up9.weight": tensor(np.ones(2, np.float32), "d")}
        named = {f"module.{name}": value for name, value in tensors.items()}
        return {"state_dict": named | counts, "decoder_state_dict": decoder, "epoch": 3}

    path = save(weights, tmp_path / "osnet.pth.tar-3", wrap, legacy_checkpoint)
    to = tmp_path / "new" / "osnet.weights.h5"
    main([str(path), "--to", str(to)])
    said = capsys.readouterr().out
    assert "osnet_x0_25 of torchreid" in said and "487 arrays" in said and "gives back 487 of 487" in said
    assert "also holds decoder_state_dict: convert it with --key decoder_state_dict" in said
    assert f"backbone='osnet_x0_25', head='fc512', num_classes=5, weights={str(to)!r}" in said
    assert [item.name for item in to.parent.iterdir()] == [to.name]

    encoder = build_encoder("osnet_x0_25", (64, 32, 3), 5, "fc512", weights=to)
    kernel = encoder.get_layer("conv3_block1_stream3_2_point").get_weights()[0]
    theirs = weights["conv3.0.conv2c.1.conv1.weight"]  # third stream, second light convolution
    assert kernel.shape == (1, 1, 24, 24) and kernel[0, 0, 3, 5] == theirs[5, 3, 0, 0]
    depthwise = encoder.get_layer("conv2_block2_stream4_4_depth").get_weights()[0]
    assert depthwise[0, 2, 7, 0] == weights["conv2.1.conv2d.3.conv2.weight"][7, 0, 0, 2]
    dense = encoder.get_layer("fc").get_weights()[0]
    assert dense[100, 7] == weights["fc.0.weight"][7, 100]
    np.testing.assert_array_equal(
        encoder.get_layer("transition3_bn").get_weights()[3], weights["conv3.2.0.bn.running_var"]
    )


def test_what_does_not_match_is_listed_and_nothing_is_written(weights, tmp_path):
    to = tmp_path / "o.weights.h5"
    broken = dict(weights)
    broken["conv9.weight"] = np.ones(3, np.float32)
    broken["optimizer.momentum"] = np.ones(3, np.float32)
    del broken["conv4.1.gate.fc2.bias"]
    broken["fc.0.bias"] = np.ones(7, np.float32)
    with pytest.raises(UserError) as error:
        convert_checkpoint(save(broken, tmp_path / "a.pth"), to)
    message = str(error.value)
    assert "without a place: conv9.weight, optimizer.momentum" in message
    assert "missing: conv4.1.gate.fc2.bias" in message
    assert "of another shape: fc.0.bias is (7,) instead of (512,)" in message
    assert not to.exists() and not [item for item in tmp_path.iterdir() if ".tmp" in item.name]


def test_broken_values_and_long_lists(weights):
    architecture = architecture_of("osnet_x0_25")
    model = architecture.build(num_classes=5)
    before = model.get_weights()
    counterparts = architecture.counterparts(model)
    tensors = {name: PickledArray(value) for name, value in weights.items()}
    nan = tensors | {"fc.1.weight": PickledArray(np.full(512, np.nan, np.float32))}
    with pytest.raises(UserError, match=r"not finite: fc\.1\.weight"):
        assign(counterparts, nan, "x")
    few = {name: value for name, value in tensors.items() if "conv4" not in name}
    with pytest.raises(UserError, match=r"missing: .* and \d+ more"):
        assign(counterparts, few, "x")
    # A file without a classifier, as people pass on for feature extraction.
    headless = {name: value for name, value in tensors.items() if not name.startswith("classifier")}
    with pytest.raises(UserError, match=r"missing: classifier\.weight, classifier\.bias"):
        assign(counterparts, headless, "x")
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assign(counterparts, headless, "x", dropped=architecture.classifier_names)
    np.testing.assert_array_equal(model.get_layer("fc").get_weights()[1], weights["fc.0.bias"])


def test_the_classifier_is_dropped_only_when_asked(weights, tmp_path, capsys):
    path, to = save(weights, tmp_path / "osnet.pth"), tmp_path / "o.weights.h5"
    with pytest.raises(UserError, match="add --drop_classifier"):
        convert_checkpoint(path, to, num_classes=9)
    main([str(path), "--to", str(to), "--drop-classifier", "--num-classes", "9"])
    assert "Left out as asked: classifier.weight, classifier.bias" in capsys.readouterr().out
    encoder = build_encoder("osnet_x0_25", (64, 32, 3), 9, "fc512", weights=to)
    kernel, bias = encoder.get_layer("classifier").get_weights()
    assert kernel.shape == (512, 9) and 0.005 < kernel.std() < 0.02 and not bias.any()


def test_half_precision_is_widened(weights, tmp_path):
    halves = {name: value.astype(np.float16) for name, value in weights.items()}
    path = tmp_path / "osnet.safetensors"
    importlib.import_module("safetensors.numpy").save_file(halves, path)
    tensors = find_state_dict(read_checkpoint(path), path)
    architecture = recognise(tensors, path)
    counterparts = architecture.counterparts(architecture.build())
    assign(counterparts, tensors, path)
    for pair in counterparts:
        np.testing.assert_array_equal(pair.to_torch(), halves[pair.name].astype(np.float32))


def test_mistakes_on_the_command_line_are_sentences(weights, tmp_path):
    path = save({"a": np.ones(2, np.float32)}, tmp_path / "a.pth")
    cases = {
        r"must be named \*\.weights\.h5": [path, "--to", tmp_path / "a.h5"],
        "not of a known network": [path, "--to", tmp_path / "a.weights.h5"],
        "--to; see --help": [path],
        "has no state dict called 'b'": [path, "--to", tmp_path / "a.weights.h5", "--key", "b"],
        "takes --to alone": ["a.weights.h5", "--to", "b.safetensors", "--key", "x"],
        r"a\.weights\.h5 does not exist": [tmp_path / "a.weights.h5", "--to", tmp_path / "b.safetensors"],
    }
    for words, arguments in cases.items():
        with pytest.raises(UserError, match=words):
            main([str(argument) for argument in arguments])


def test_a_backbone_alone_serves_any_head(weights, tmp_path, capsys):
    headless = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    path, to = save(headless, tmp_path / "osnet.pth"), tmp_path / "backbone.weights.h5"
    main([str(path), "--to", str(to), "--backbone_only"])
    said = capsys.readouterr().out
    # 487 - fc 2 - its norm 4 - classifier 2
    assert "479 arrays" in said and "gives back 479 of 479" in said and "fc.1.running_var" in said
    assert f"build_encoder(backbone='osnet_x0_25', weights={str(to)!r})" in said
    encoder = build_encoder("osnet_x0_25", (64, 32, 3), 9, "bnneck", weights=to)
    np.testing.assert_array_equal(encoder.get_layer("conv5_bn").get_weights()[1], weights["conv5.bn.bias"])
    assert not encoder.get_layer("neck_bn").get_weights()[1].any()
    with pytest.raises(UserError, match="omit --drop_classifier"):
        convert_checkpoint(path, to, drop_classifier=True, backbone_only=True)


# --- telling networks apart ---
def shapes_only(names):
    return {name: PickledArray(np.zeros(shape, np.float32)) for name, shape in names.items()}


def test_owners_are_told_apart():
    stages = {
        f"layer{i}.{j}.conv{k}.weight": (1,)
        for i, n in enumerate((3, 4, 6, 3), 1)
        for j in range(n)
        for k in (1, 3)
    }
    stem = {"conv1.weight": (64, 3, 7, 7)} | stages
    torchvision = recognise(shapes_only(stem | {"fc.weight": (1000, 2048)}), "x")
    torchreid = recognise(shapes_only(stem | {"classifier.weight": (751, 2048)}), "x")
    san = recognise(shapes_only(stem | {"fc.0.weight": (512, 2048), "classifier.weight": (7, 512)}), "x")
    assert (torchvision.title, torchvision.num_classes) == ("resnet50 of torchvision", 1000)
    assert (torchreid.title, torchreid.num_classes) == ("resnet50 of torchreid", 751)
    assert san.encoder["last_stride"] == 1 and torchreid.encoder["last_stride"] == 2
    fast = {f"backbone.{name}": shape for name, shape in stem.items()}
    old = shapes_only(fast | {"heads.classifier.weight": (9, 2048), "heads.bnneck.0.bias": (2048,)})
    old["pixel_mean"] = PickledArray(np.array([123.675, 116.28, 103.53], np.float32).reshape(1, 3, 1, 1))
    bot = recognise(old, "x")
    assert bot.num_classes == 9 and bot.encoder["pool_padding"] == "end" and bot.encoder["head"] == "bnneck"
    assert {"heads.weight", "heads.bottleneck.0.bias"} < old.keys() and "pixel_mean" not in old
    old["pixel_std"] = PickledArray(np.full((1, 3, 1, 1), 255, np.float32))
    with pytest.raises(UserError, match=r"another normalisation \(pixel_std\)"):
        recognise(old, "x")
    with pytest.raises(UserError, match="only ResNet-50"):
        recognise(shapes_only({"conv1.weight": (1,), "layer4.0.conv1.weight": (1,)}), "x")
    with pytest.raises(UserError, match="not in torchreid's zoo"):
        recognise(shapes_only({"conv1.conv.weight": (7, 3, 7, 7), "conv5.conv.weight": (1,)}), "x")


# --- back ---
def test_san_networks_go_back_bit_by_bit(tmp_path):
    encoder = build_encoder("resnet50", (64, 32, 3), 11, "fc512", weights=None, stride_on="3x3", seed=1)
    path, to = tmp_path / "e.weights.h5", tmp_path / "e.safetensors"
    encoder.save_weights(path)
    main([str(path), "--to", str(to)])
    state = read_state_dict(to)
    assert len(state) == 273 and state["classifier.weight"].shape == (11, 512)
    done = convert_checkpoint(to, tmp_path / "again.weights.h5")
    assert done.equal == 273 and done.title.startswith("resnet50_fc512")
    again = build_encoder(
        "resnet50", (64, 32, 3), 11, "fc512", weights=tmp_path / "again.weights.h5", stride_on="3x3", seed=2
    )
    for a, b in zip(encoder.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    # The file says which form of ResNet it is for; another would give other features without a word.
    with pytest.raises(UserError, match=r"stride_on='3x3', and encoder_resnet50 has stride_on='1x1'"):
        build_encoder("resnet50", (64, 32, 3), 11, "fc512", weights=tmp_path / "again.weights.h5")


def test_another_network_in_pytorch_is_refused_or_told(tmp_path, capsys):
    encoder = build_encoder("resnet50", (64, 32, 3), 3, weights=None)  # stride_on="1x1", as the recipes
    path, to = tmp_path / "e.weights.h5", tmp_path / "e.safetensors"
    encoder.save_weights(path)
    refused = r"stride_on='1x1', and the public SAN code has stride_on='3x3'"
    with pytest.raises(UserError, match=refused):
        main([str(path), "--to", str(to)])
    with pytest.raises(UserError, match=refused):
        write_state_dict(encoder, to)
    with pytest.raises(UserError, match="has stride_on='1x1', not '3x3'"):
        main([str(path), "--to", str(to), "--stride_on", "3x3"])
    # A file of a former version does not say; nothing is guessed.
    with h5py.File(path, "a") as file:
        del file["san_tf"]
    with pytest.raises(UserError, match=r"does not say which convolutions .*--stride_on"):
        main([str(path), "--to", str(to)])
    assert not to.exists()
    main([str(path), "--to", str(to), "--stride_on", "3x3", "--last_stride", "2"])
    assert "must have last_stride=2" in capsys.readouterr().out
    # What the file states comes back with it.
    with safe_open(to, framework="numpy") as file:
        assert file.metadata() == {
            "format": "pt",
            "stride_on": "3x3",
            "pool_padding": "both",
            "last_stride": "2",
        }


def test_what_a_file_states_is_believed_more_than_its_names(tmp_path):
    """Names are those of torchreid's ResNet-50 of last stride 2; the file says otherwise."""
    names = resnet_names("resnet50") | head_names("plain")
    resnet = Architecture("resnet50 of torchreid", {"stride_on": "3x3", "last_stride": 2}, names, 5)
    path = tmp_path / "a.safetensors"
    stated = {"stride_on": "1x1", "last_stride": "1", "pool_padding": "round", "other": "x"}
    importlib.import_module("safetensors.numpy").save_file({"a": np.ones(2, np.float32)}, path, stated)
    assert _as_stated(resnet, path, {}).encoder == {"stride_on": "1x1", "last_stride": 1}
    with pytest.raises(UserError, match="has last_stride=1, not 2"):
        _as_stated(resnet, path, {"last_stride": 2})
    pth = tmp_path / "a.pth"
    assert _as_stated(resnet, pth, {"last_stride": 1}).encoder == {"stride_on": "3x3", "last_stride": 1}
    with pytest.raises(UserError, match="has no stride_on to choose"):
        _as_stated(DECODER, pth, {"stride_on": "1x1"})


def test_a_decoder_that_paints_otherwise_is_refused(tmp_path):
    shapes = [(8, 4, 256), (4, 2, 512), (2, 1, 1024), (2, 1, 2048)]
    decoder = build_decoder(shapes, skips=True, seed=1)  # the paper's borders and tanh
    decoder.save_weights(tmp_path / "d.weights.h5")
    with pytest.raises(UserError, match="variant='paper', and the public SAN code has variant='official'"):
        convert_weights(tmp_path / "d.weights.h5", tmp_path / "d.safetensors")
    with pytest.raises(UserError, match="variant='paper', and the public SAN code has variant='official'"):
        to_state_dict(decoder)


def test_the_decoder_goes_back_bit_by_bit(tmp_path):
    shapes = [(64, 32, 256), (32, 16, 512), (16, 8, 1024), (16, 8, 2048)]
    decoder = build_decoder(shapes, skips=True, variant="official", seed=1)
    path, to = tmp_path / "d.weights.h5", tmp_path / "d.safetensors"
    decoder.save_weights(path)
    assert convert_weights(path, to) == ("decoder", 74, None)
    done = convert_checkpoint(to, tmp_path / "again.weights.h5")
    assert done.title == "decoder of the public SAN code" and done.equal == 74
    again = build_decoder(shapes, skips=True, variant="official", seed=2)
    again.load_weights(tmp_path / "again.weights.h5")
    for a, b in zip(decoder.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_networks_the_public_code_has_not_are_refused(tmp_path):
    light = build_encoder("thin_resnet", (64, 32, 3), 7, weights=None)
    with pytest.raises(UserError, match="not a network of the public SAN code"):
        to_state_dict(light)
    light.save_weights(tmp_path / "light.weights.h5")
    with pytest.raises(UserError, match="holds no ResNet encoder"):
        convert_weights(tmp_path / "light.weights.h5", tmp_path / "l.safetensors")
    with pytest.raises(UserError, match=r"must be named \*\.safetensors"):
        write_state_dict(light, tmp_path / "light.pth")
    with h5py.File(tmp_path / "empty.weights.h5", "w"):
        pass
    with pytest.raises(UserError, match="holds no ResNet encoder"):
        convert_weights(tmp_path / "empty.weights.h5", tmp_path / "l.safetensors")

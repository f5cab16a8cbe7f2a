"""The reader of checkpoints against what PyTorch writes, and against what it does not."""

from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
from checkpoint_writer import Call, Global, Store, legacy_checkpoint, tensor, zip_checkpoint, zip_of

from san_tf.errors import UserError
from san_tf.torch_files import read_checkpoint, read_state_dict

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 3, 2, 2)).astype(np.float32)


def raw(data, tmp_path, name="model.pth"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


# --- what PyTorch writes ---
def test_a_state_dict_comes_back_in_order_and_bit_by_bit(write):
    bias = RNG.normal(size=4).astype(np.float32)
    path = write({"conv.weight": tensor(KERNEL, "0"), "conv.bias": tensor(bias, "1")})
    weights = read_state_dict(path)
    assert list(weights) == ["conv.weight", "conv.bias"]
    np.testing.assert_array_equal(weights["conv.weight"], KERNEL)
    np.testing.assert_array_equal(weights["conv.bias"], bias)
    assert weights["conv.bias"].flags.writeable


@pytest.mark.parametrize("code", ["f4", "f8", "f2", "i8", "i4", "i2", "i1", "u1", "b1", "c8", "c16"])
def test_every_type_is_read(write, code):
    values = np.arange(-3, 3).astype(code).reshape(2, 3)
    array = read_checkpoint(write({"a": tensor(values, "0")}))["a"].array()
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


def test_bfloat16_is_the_upper_half_of_float32(write):
    # 0x3F80 is 1, 0xC049 is -3.140625 = -(2 + 1 + 9/64), 0x7F80 is infinity.
    halves = np.array([0x3F80, 0xC049, 0x7F80], np.uint16)
    stored = tensor(halves, "0", storage=Store("0", halves, "BFloat16Storage"))
    array = read_checkpoint(write({"a": stored}))["a"].array()
    assert array.dtype == np.float32 and array.tolist() == [1.0, -3.140625, np.inf]


def test_types_without_a_storage_of_their_own(tmp_path):
    values = np.array([1, 2, 60000], np.uint16)
    storage = Store("0", values, "UntypedStorage", numel=6)
    arguments = (storage, 0, (3,), (1,), False, Call(Global("collections", "OrderedDict"), ()))
    rebuilt = Call(Global("torch._utils", "_rebuild_tensor_v3"), (*arguments, Global("torch", "uint16")))
    array = read_checkpoint(raw(zip_checkpoint({"a": rebuilt}), tmp_path))["a"].array()
    assert array.dtype == np.uint16 and array.tolist() == [1, 2, 60000]


def test_big_endian_files_are_read(tmp_path):
    for data in (
        zip_checkpoint({"a": tensor(KERNEL, "0")}, "big"),
        legacy_checkpoint({"a": tensor(KERNEL, "0")}, False),
    ):
        array = read_checkpoint(raw(data, tmp_path))["a"].array()
        assert array.dtype.isnative
        np.testing.assert_array_equal(array, KERNEL)


def test_views_share_a_storage(write):
    base = np.arange(24, dtype=np.float32)
    whole = Store("0", base)
    value = {
        "whole": tensor(base, "0"),
        "transposed": tensor(base, "0", storage=whole, shape=(6, 4), strides=(1, 6)),
        # base.reshape(4, 6)[1:3, 2:5]
        "inner": tensor(base, "0", storage=whole, offset=8, shape=(2, 3), strides=(6, 1)),
        "number": tensor(base, "0", storage=whole, offset=23, shape=(), strides=()),
        "none": tensor(base, "0", storage=whole, offset=24, shape=(0, 3), strides=(3, 1)),
    }
    read = {name: stored.array() for name, stored in read_checkpoint(write(value)).items()}
    np.testing.assert_array_equal(read["transposed"], base.reshape(4, 6).T)
    np.testing.assert_array_equal(read["inner"], [[8, 9, 10], [14, 15, 16]])
    assert read["number"] == 23 and read["none"].shape == (0, 3)


def test_old_views_of_storages(tmp_path):
    base = np.arange(10, dtype=np.float32)
    view = Store("0", base, numel=10, view=("7", 4, 3))
    value = {"a": tensor(base, "0", storage=view, shape=(3,), strides=(1,))}
    assert read_checkpoint(raw(legacy_checkpoint(value), tmp_path))["a"].array().tolist() == [4, 5, 6]
    value = {"a": tensor(base, "0", storage=view, shape=(4,), strides=(1,))}
    with pytest.raises(UserError, match="does not fit its storage of 3"):
        read_checkpoint(raw(legacy_checkpoint(value), tmp_path))


def test_what_trainers_put_beside_the_weights(write):
    def dtype(code, order):
        return Call(Global("numpy", "dtype"), (code, False, True), (3, order, None, None, None, -1, -1, 0))

    latin = Call(Global("_codecs", "encode"), (struct.pack("<d", 0.9605).decode("latin-1"), "latin1"))
    array = Call(
        Global("numpy.core.multiarray", "_reconstruct"),
        (Global("numpy", "ndarray"), (0,), b"b"),
        (1, (2, 3), dtype("i4", "<"), True, np.arange(6, dtype="<i4").tobytes()),
    )
    value = {
        "state_dict": Call(
            Global("collections", "OrderedDict"), ([["a", tensor(KERNEL, "0")]],), {"_metadata": {}}
        ),
        "optimizer": {"state": {0: {"step": 7}}, "param_groups": [{"lr": 3e-4, "params": [0]}]},
        "milestones": Call(Global("collections", "Counter"), ({40: 1, 90: 1},)),
        "rank1": Call(Global("numpy.core.multiarray", "scalar"), (dtype("f8", "<"), latin)),
        "count": Call(Global("numpy._core.multiarray", "scalar"), (dtype("i2", ">"), b"\x01\x02")),
        "cmc": array,
        "options": Call(Global("argparse", "Namespace"), (), {"lr": 0.1, "names": ["market"]}),
        "epoch": 60,
        "size": Call(Global("torch", "Size"), ((4, 3),)),
        "device": Call(Global("torch", "device"), ("cuda", 0)),
        "big": 2**70,
    }
    read = read_checkpoint(write(value))
    assert read["rank1"] == 0.9605 and read["count"] == 258 and read["epoch"] == 60 and read["big"] == 2**70
    assert read["options"] == {"lr": 0.1, "names": ["market"]} and read["milestones"] == {40: 1, 90: 1}
    assert read["optimizer"]["state"] == {0: {"step": 7}} and read["size"] == (4, 3)
    np.testing.assert_array_equal(read["cmc"].array(), [[0, 2, 4], [1, 3, 5]])  # Fortran's order
    assert list(read_state_dict(write(value))) == ["a"]


def test_wrappers_and_prefixes_are_taken_off(write):
    weights = {
        "module.a": tensor(KERNEL, "0"),
        "module.bn.num_batches_tracked": tensor(np.int64([5])[0:1], "1"),
    }
    path = write({"state_dict": weights, "decoder_state_dict": {"b": tensor(KERNEL, "2")}, "epoch": 1})
    assert list(read_state_dict(path)) == ["a"]
    assert list(read_state_dict(path, key="decoder_state_dict")) == ["b"]
    with pytest.raises(UserError, match=r"called 'ema'; it has state_dict, decoder_state_dict, epoch"):
        read_state_dict(path, key="ema")
    for nothing in ({"epoch": 1}, [1, 2], {"state_dict": {"a": 1}}):
        with pytest.raises(UserError, match="state dict"):
            read_state_dict(write(nothing))


def test_safetensors(tmp_path):
    safetensors_numpy = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "model.safetensors"
    safetensors_numpy.save_file({"a": KERNEL, "b": np.arange(3)}, path)
    weights = read_state_dict(path)
    np.testing.assert_array_equal(weights["a"], KERNEL)
    assert weights["b"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        read_checkpoint(path)


# --- what is not a checkpoint ---
def test_files_that_are_none_are_named(tmp_path):
    cases = {
        "is empty": b"",
        "not a PyTorch checkpoint": b"hello, this is not a checkpoint at all",
        "not of torch.save": pickle.dumps({"a": 1}),
        "no data.pkl": zip_of({"notes.txt": b"hello"}),
        "TorchScript": zip_of({"m/data.pkl": b"N.", "m/constants.pkl": b"N."}),
        "tar file": b"\0" * 257 + b"ustar" + b"\0" * 300,
    }
    for words, data in cases.items():
        with pytest.raises(UserError, match=words):
            read_checkpoint(raw(data, tmp_path))
    with pytest.raises(UserError, match="No such file"):
        read_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_flipped_bits_in_a_tensor_are_found(tmp_path):
    data = bytearray(zip_checkpoint({"a": tensor(KERNEL, "0")}))
    data[data.index(KERNEL.tobytes()) + 5] ^= 1
    with pytest.raises(UserError, match="damaged at storage 0"):
        read_checkpoint(raw(data, tmp_path))["a"].array()

"""The reader of checkpoints against what attackers write and what damaged disks make of it."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import sys
import time
import zipfile

import numpy as np
import pytest
from checkpoint_writer import Store, legacy_checkpoint, pickled, tensor, zip_checkpoint, zip_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import numpy as safetensors_numpy

from san_tf.errors import UserError
from san_tf.torch_files import checkpoint as module
from san_tf.torch_files import pickle_machine, read_checkpoint, read_state_dict

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(4, 3, 2, 2)).astype(np.float32)


def raw(data, tmp_path, name="model.pth"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


class Payload:
    """Runs `os.mkdir` when unpickled: proved by `pickle` itself before the reader sees it."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_payload_is_named_and_never_run(tmp_path, protocol):
    trap = tmp_path / "trap"
    code = pickle.dumps({"weight": Payload(trap)}, protocol)
    pickle.loads(code)
    assert trap.is_dir()  # the payload works ...
    trap.rmdir()
    packed = zip_of({"model/data.pkl": code})
    head = legacy_checkpoint({})[: -len(pickled({}, {}) + pickled([], {}))]
    for data in (packed, head + code + pickled([], {}), code):
        with pytest.raises(UserError, match=r"'(posix|nt).mkdir'.* Nothing was run"):
            read_checkpoint(raw(data, tmp_path))
        assert not trap.exists()  # ... and is not run


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(X\x01\x00\x00\x001tR.",
        b"(X\x01\x00\x00\x001ibuiltins\neval\n.",  # INST
        b"(cbuiltins\neval\nX\x01\x00\x00\x001o.",  # OBJ
        b"\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",  # STACK_GLOBAL
        b"\x8c\x08builtins\x94\x8c\x04eval\x94h\x00h\x01\x93)\x81.",  # by way of the memo, NEWOBJ
        b"cbuiltins\neval\n)}\x92.",  # NEWOBJ_EX
        b"ccollections\nOrderedDict.__init__.__globals__\n.",
        b"ctorch._utils\n_rebuild_tensor_v2.__globals__\n.",
        b"cbuiltins\ngetattr\n.",
        b"ctorch.nn.modules.container\nSequential\n)\x81}b.",
        b"cyacs.config\nCfgNode\n)\x81.",
    ],
)
def test_names_outside_the_table_are_refused_however_they_are_spelt(tmp_path, code):
    packed = zip_of({"model/data.pkl": code})
    with pytest.raises(UserError, match=r"Python would have to run '(builtins|collections|torch|yacs)"):
        read_checkpoint(raw(packed, tmp_path))


def test_a_module_that_a_pickle_names_is_not_even_imported(tmp_path):
    code = b"cantigravity\nfly\n)R."
    assert "antigravity" not in sys.modules
    with pytest.raises(UserError, match=r"'antigravity\.fly'"):
        read_checkpoint(raw(zip_of({"model/data.pkl": code}), tmp_path))
    assert "antigravity" not in sys.modules


IMPOSSIBLE = {
    "offset": {"offset": 1},
    "shape": {"shape": (5, 3, 2, 2)},
    "stride": {"strides": (12, 4, 2, 2)},
    "huge": {"shape": (2**62,), "strides": (0,)},
    "zero strides": {"shape": (10**6, 10**6), "strides": (0, 0)},
    "negative stride": {"strides": (-12, 4, 2, 1)},
    "negative offset": {"offset": -1},
    "negative shape": {"shape": (-4, 3, 2, 2)},
    "rank": {"shape": (1,) * 70, "strides": (1,) * 70},
    "strides missing": {"strides": (1,)},
    "float": {"offset": 0.0},
    "true": {"offset": True},
    "no storage": {"storage": [1.0]},
    "claims more": {
        "storage": Store("0", KERNEL.reshape(-1), numel=10**12),
        "shape": (10**12,),
        "strides": (1,),
    },
    "other type": {"storage": Store("0", KERNEL.reshape(-1), "DoubleStorage")},
}


NOTHING = np.zeros(0, np.float32)


@pytest.mark.parametrize("shape", [(0, 2**62, 2**62), (2**62, 0), (0,) + (2**20,) * 4])
def test_nothing_beside_huge_sizes_is_refused(write, shape):
    stored = tensor(NOTHING, "0", shape=shape, strides=(1,) * len(shape))
    with pytest.raises(UserError, match="which no array can have"):
        read_state_dict(write({"a": stored}))


def test_a_stride_that_is_never_gone_may_be_any_number(write):
    stored = tensor(KERNEL, "0", shape=(1, 48, 1), strides=(2**62, 1, 2**62))
    array = read_state_dict(write({"a": stored}))["a"]
    np.testing.assert_array_equal(array, KERNEL.reshape(1, 48, 1))


def memory_of(arrays):
    """Bytes of the memory behind arrays, shared ones once."""
    starts = [(array.__array_interface__["data"][0], array.nbytes) for array in arrays]  # contiguous ones
    total, end = 0, 0
    for low, size in sorted(set(starts)):
        total += max(0, low + size - max(low, end))
        end = max(end, low + size)
    return total


@pytest.mark.parametrize("kind", ["", "BFloat16Storage"])
def test_names_of_one_storage_share_its_memory(tmp_path, kind):
    values = np.arange(2**18).astype(np.uint16 if kind else np.float32)
    storages = [Store(str(key), values, kind) for key in range(2)]
    # Two storages by turns, so that to keep the last one is not enough.
    value = {f"n{i}": tensor(values, "0", storage=storages[i % 2]) for i in range(2000)}
    path = raw(zip_checkpoint(value), tmp_path)
    assert path.stat().st_size < 4 * 2**20
    arrays = read_state_dict(path)
    assert len(arrays) == 2000
    assert memory_of(arrays.values()) <= 2 * 2**20
    wanted = (values.astype(np.uint32) << 16).view(np.float32) if kind else values
    for array in list(arrays.values())[:3]:
        np.testing.assert_array_equal(array, wanted)


def test_overlapping_stretches_that_must_be_converted_are_bounded(tmp_path):
    storage = Store("0", np.zeros(2**18, np.uint16), "BFloat16Storage")
    shifted = {
        f"n{i}": tensor(NOTHING, "0", storage=storage, offset=i, shape=(2**17,), strides=(1,))
        for i in range(500)
    }
    with pytest.raises(UserError, match="overlap"):
        read_state_dict(raw(zip_checkpoint(shifted), tmp_path))


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_tensors_that_reach_out_of_their_storage_are_refused(write, name):
    with pytest.raises(UserError, match="damaged or not a PyTorch checkpoint"):
        read_checkpoint(write({"a": tensor(KERNEL, "0", **IMPOSSIBLE[name])}))


def test_zip_bombs_are_refused_unread(tmp_path):
    value = {"a": tensor(np.zeros(10**6, np.float32), "0")}
    bomb = zip_checkpoint(value, compression=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 10_000
    with pytest.raises(UserError, match="is compressed"):
        read_checkpoint(raw(bomb, tmp_path))


def test_entries_that_share_their_bytes_are_refused(tmp_path):
    # Many entries of the directory that point to one stretch of the file.
    data = zip_checkpoint({"a": tensor(np.zeros(4096, np.float32), "0")})
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entries = data[start:end]
    one = entries[entries.index(b"model/data/0") - 46 :][: 46 + len("model/data/0")]
    more = b"".join(one.replace(b"data/0", b"data/%d" % index) for index in range(1, 9))
    fields = list(struct.unpack("<4s4H2IH", data[end:]))
    fields[3] += 8
    fields[4] += 8
    fields[5] += len(more)
    packed = data[:start] + entries + more + struct.pack("<4s4H2IH", *fields)
    with pytest.raises(UserError, match=r"damaged"):
        read_checkpoint(raw(packed, tmp_path))


def test_a_pickle_too_long_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(pickle_machine, "MAX_OPCODES", 1000)
    with pytest.raises(UserError, match="too long"):
        read_checkpoint(raw(zip_checkpoint([0] * 1001), tmp_path))
    monkeypatch.setattr(module, "MAX_PICKLE", 1000)
    with pytest.raises(UserError, match="too long"):
        read_checkpoint(raw(zip_checkpoint("x" * 1000), tmp_path))


def test_nested_keys_are_not_hashed(tmp_path):
    # t1 = (t0, t0), t2 = (t1, t1), ...: hash(t60) would take 2**60 steps.
    code = b")" + b"2\x86" * 60
    packed = zip_of({"model/data.pkl": b"}(" + code + b"Nu."})
    with pytest.raises(UserError, match="tuple as the key"):
        read_checkpoint(raw(packed, tmp_path))


NEST = b")" + b"2\x86" * 60  # t1 = (t0, t0), t2 = (t1, t1), ...: walking t60 takes 2**60 steps
LONG = b"(" + b"K\x00" * 100_000 + b"l"  # a list of 100,000 numbers
TEXT = b"X" + struct.pack("<I", 100_000) + b"x" * 100_000
STORAGE = b"X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04"
TEXT_AS_SHAPE = b"(" + STORAGE + b"tQq\x00ctorch._utils\n_rebuild_tensor_v2\nq\x01" + TEXT + b"q\x02" + b"]("
ORDERED = b"ccollections\nOrderedDict\n"


@pytest.mark.parametrize(
    "code",
    [
        b"cnumpy\ndtype\n" + NEST + b"\x85R.",  # hashed or printed
        b"ctorch\ndevice\n" + NEST + b"\x85R.",  # printed
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + NEST + b"X\x03\x00\x00\x00cpuK\x04tQ.",
        ORDERED + b"(" + NEST + b"N\x86l\x85R.",
        NEST + b"(" + b"Nu.",
        # One long list, gone through a hundred thousand times.
        LONG + b"q\x000" + (b"ctorch\nSize\n" + b"h\x00\x85R0") * 100_000 + b"N.",
        b"X"
        + struct.pack("<I", 10**6)
        + b"x" * 10**6
        + b"q\x000"
        + (b"c_codecs\nencode\nh\x00\x85R0") * 10**5
        + b"N.",
        # Products of numbers of a million digits.
        b"\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".",
        # Numbers that all hash to 0: multiples of 2**61 - 1.
        b"}("
        + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(1, 50_000))
        + b"u.",
        b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(30_000)) + b"u.",
        # One long list as the name of a storage, and in one, a hundred thousand times.
        LONG[:-1] + b"tq\x000" + b"h\x00Q0" * 100_000 + b"N.",
        b"(" + STORAGE + LONG + b"tq\x000" + b"h\x00Q0" * 100_000 + b"N.",
        # A text as a shape: eight bytes a letter, twelve thousand times.
        TEXT_AS_SHAPE + b"h\x01(h\x00K\x00h\x02h\x02tR" * 12_000 + b"e.",
        b"ctorch\nSize\n" + TEXT + b"\x85R.",
        # Places of the memo that all hash to 0.
        b"N" + b"".join(b"p%d\n" % (i * (2**61 - 1)) for i in range(1, 30_000)) + b".",
    ],
    ids=[
        *("dtype", "device", "storage", "pairs", "key", "list", "text", "digits", "collisions", "numbers"),
        *("long name", "long view", "text as a shape", "size of a text", "memo"),
    ],
)
def test_work_without_end_is_refused_at_once(tmp_path, code):
    start = time.process_time()
    with pytest.raises(UserError, match="damaged or not a PyTorch checkpoint"):
        read_checkpoint(raw(zip_of({"model/data.pkl": code}), tmp_path))
    assert time.process_time() - start < 10


@pytest.mark.parametrize("opcode", [b"]", b"}", b"\x8f", b"("])
def test_small_things_without_end_are_refused(tmp_path, monkeypatch, opcode):
    monkeypatch.setattr(pickle_machine, "MAX_WORK", 1 << 20)
    with pytest.raises(UserError, match="too much work"):
        read_checkpoint(raw(zip_of({"model/data.pkl": opcode * 5000 + b"."}), tmp_path))


# --- damage ---
SAMPLES = [
    writer({"state_dict": {"a": tensor(KERNEL, "0"), "b": tensor(np.arange(4), "1")}, "epoch": 3})
    for writer in (zip_checkpoint, legacy_checkpoint)
]


@settings(max_examples=600, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path, data):
    sample = bytearray(data.draw(st.sampled_from(SAMPLES)))
    # The head and the pickle are where damage is interesting; bytes of tensors take any value.
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(sample) - 1))
        sample[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        sample = sample[: data.draw(st.integers(0, len(sample)))]
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(sample)))
        sample[place:place] = data.draw(st.binary(max_size=8))
    path = raw(bytes(sample), tmp_path)
    try:
        arrays = read_state_dict(path)
    except UserError:
        return
    assert sum(array.nbytes for array in arrays.values()) <= 8 * len(sample)


@settings(max_examples=600, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    code=st.lists(
        st.sampled_from([bytes([b]) for b in b"().0125]}NtauebRQJKMXcq\x85\x86\x88\x94h\x81\x8c\x93gpj"])
        | st.binary(max_size=3)
        | st.sampled_from(
            [
                b"ccollections\nOrderedDict\n",
                b"ctorch._utils\n_rebuild_tensor_v2\n",
                b"cnumpy\ndtype\n",
                b"cnumpy.core.multiarray\nscalar\n",
                b"ctorch\nFloatStorage\n",
                b"ctorch\nSize\n",
            ]
        ),
        max_size=40,
    )
)
def test_random_programs_are_read_or_refused_and_nothing_else(tmp_path, code):
    path = raw(zip_of({"model/data.pkl": b"".join(code) + b"."}), tmp_path)
    with contextlib.suppress(UserError):
        read_checkpoint(path)


def test_mutated_safetensors_are_read_or_refused_and_nothing_else(tmp_path):
    """A seeded fuzz of the header."""
    random = np.random.default_rng(0)
    sound = safetensors_numpy.save({"a": KERNEL, "b": np.arange(3), "h": KERNEL.astype(np.float16)})
    header = 8 + int.from_bytes(sound[:8], "little")
    numbers = [b"0", b"-1", b"4611686018427387904", b"1e9", b"null", b"[]"]
    refused = 0
    for _ in range(400):
        content = bytearray(sound)
        for _ in range(random.integers(1, 4)):
            place = int(random.integers(0, header))
            change = random.integers(0, 4)
            if change == 0:
                content[place] = int(random.integers(0, 256))
            elif change == 1:
                del content[place : place + int(random.integers(1, 9))]
            elif change == 2:
                content[place : place + 1] = numbers[random.integers(len(numbers))]
            else:
                content[place:place] = content[place // 2 : place // 2 + 20]
        path = raw(bytes(content), tmp_path, "model.safetensors")
        try:
            read_state_dict(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1000
    assert refused > 300


def test_a_safetensors_shape_that_no_array_can_have(tmp_path):
    header = b'{"a":{"dtype":"F32","shape":[0,9223372036854775807,4],"data_offsets":[0,0]}}'
    path = raw(struct.pack("<Q", len(header)) + header, tmp_path, "model.safetensors")
    with pytest.raises(UserError, match="damaged"):
        read_state_dict(path)

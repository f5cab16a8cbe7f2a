"""CUHK03 out of its HDF5 file, against a naive reading of it."""

from __future__ import annotations

import pickle

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
from benchmark_copies import DATASETS, cut

from san_tf.archives.files import DamagedFileError, FolderFiles
from san_tf.errors import UserError
from san_tf.layouts.cuhk03_images import Cuhk03Images
from san_tf.layouts.cuhk03_protocols import classic_split, new_protocol

DUMMY = DATASETS / "cuhk03" / "dummy_data"
MAT = DUMMY / "cuhk03_release" / "cuhk-03.mat"
PROTOCOL = "cuhk03_new_protocol_config_labeled.mat"


def naive_images(boxes):
    """Every image by its name, as MATLAB would index: images{pair}{person, shot}."""
    images = {}
    with h5py.File(MAT) as file:
        for pair, cell in enumerate(file[boxes][0], 1):
            for person, shots in enumerate(file[cell][:].T, 1):
                for shot, reference in enumerate(shots, 1):
                    array = file[reference][:].T
                    if array.ndim == 3:
                        images[f"{pair}_{person:03d}_{1 if shot <= 5 else 2}_{shot:02d}.png"] = array
    return images


@pytest.mark.parametrize("boxes", ["labeled", "detected"])
def test_images_are_those_of_the_file_without_loss(boxes):
    expected = naive_images(boxes)
    images = pickle.loads(pickle.dumps(Cuhk03Images(MAT, boxes)))
    assert images.paths() == sorted(expected) and len(expected) == 32
    for name, array in expected.items():
        decoded = cv2.imdecode(np.frombuffer(images.read(name), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(decoded, array)
        assert decoded.shape == (16, 8, 3)
    assert not images.has("1_001_1_03.png")  # an empty cell


def test_new_protocol():
    protocol = scipy.io.loadmat(DUMMY / PROTOCOL)
    splits = new_protocol(Cuhk03Images(MAT, "labeled"), FolderFiles(DUMMY), PROTOCOL)
    for split, ((_, samples),) in splits.items():
        index = protocol[f"{split}_idx"].ravel().astype(int) - 1
        names = [str(protocol["filelist"][i, 0][0]) for i in index]
        assert [sample.filename for sample in samples] == [sample.path for sample in samples] == names
        assert [sample.pid for sample in samples] == [int(protocol["labels"][i, 0]) for i in index]
        assert [sample.camid for sample in samples] == [int(protocol["camId"][i, 0]) - 1 for i in index]
    assert [len(source.samples) for (source,) in splits.values()] == [24, 4, 4]


@pytest.mark.parametrize("number", [1, 2, 20])
def test_classic_split(number):
    images = Cuhk03Images(MAT, "detected")
    with h5py.File(MAT) as file:
        tested = {(int(a), int(b)) for a, b in file[file["testsets"][0, number - 1]][:].T}
    assert tested == set(images.test_sets()[number - 1]) and len(images.test_sets()) == 20
    splits = classic_split(images, number)
    people = {
        split: {tuple(map(int, s.path.split("_")[:2])) for s in source.samples}
        for split, (source,) in splits.items()
    }
    assert people["query"] == people["gallery"] == tested
    # All but those tested of the three pairs: 3 + 2 + 1 people, two of them tested.
    assert people["train"] == {(1, 1), (1, 2), (2, 2), (3, 1)}
    for (source,) in splits.values():
        for sample in source.samples:
            assert sample.camid == int(sample.path.split("_")[2]) - 1
    pids = {s.pid: tuple(s.path.split("_")[:2]) for (source,) in splits.values() for s in source.samples}
    assert len(pids) == len(set(pids.values())) == 6 and min(pids) >= 1
    with pytest.raises(UserError, match="has 20 test sets, so there is no number 21"):
        classic_split(images, 21)


def test_other_files_in_its_place(tmp_path):
    mat = tmp_path / "cuhk-03.mat"
    for content in (b"", b"not HDF5" * 1000, MAT.read_bytes()[:-5000]):
        mat.write_bytes(content)
        with pytest.raises(
            UserError, match=r"cuhk-03\.mat is not the HDF5 file of CUHK03, or was not copied"
        ):
            Cuhk03Images(mat, "labeled")
    mat.unlink()
    with h5py.File(mat, "w") as file:
        file["labeled"] = h5py.ExternalLink(str(MAT), "labeled")
    with pytest.raises(UserError, match="is not the HDF5 file of CUHK03"):
        Cuhk03Images(mat, "labeled")


def test_images_that_are_none(tmp_path):
    mat = tmp_path / "cuhk-03.mat"
    mat.write_bytes(MAT.read_bytes())
    with h5py.File(mat, "r+") as file:
        cell = file[file["labeled"][0, 0]]
        references = cell[:]
        references[0, 0] = file.create_dataset("wide", (3, 5000, 4), np.uint8).ref
        references[1, 0] = file.create_dataset("floats", (3, 8, 16), np.float32).ref
        (tmp_path / "secret").write_bytes(bytes(384))
        references[5, 0] = file.create_dataset(
            "elsewhere", (3, 8, 16), np.uint8, external=[(str(tmp_path / "secret"), 0, 384)]
        ).ref
        cell[:] = references
    images = Cuhk03Images(mat, "labeled")
    for name in ("1_001_1_01.png", "1_001_1_02.png", "1_001_2_06.png"):
        with pytest.raises(DamagedFileError, match="is not an array of at most 4096x4096 bytes"):
            images.read(name)
    assert images.read("1_001_2_07.png") == Cuhk03Images(MAT, "labeled").read("1_001_2_07.png")


def test_arrays_of_other_files_and_of_absurd_size(tmp_path):
    """What would read another file, or ask for gigabytes that a small file declares."""
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.full((3, 8, 16), 7, np.uint8)
    elsewhere = h5py.VirtualLayout((3, 8, 16), np.uint8)
    elsewhere[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (3, 8, 16))
    mat = tmp_path / "virtual.mat"
    mat.write_bytes(MAT.read_bytes())
    with h5py.File(mat, "r+") as file:
        cell = file[file["labeled"][0, 0]]
        references = cell[:]
        references[0, 0] = file.create_virtual_dataset("virtual", elsewhere).ref
        cell[:] = references
    with pytest.raises(DamagedFileError, match="is not an array of at most 4096x4096 bytes"):
        Cuhk03Images(mat, "labeled").read("1_001_1_01.png")
    for number, (name, shape) in enumerate(
        {"labeled": (2_000_000_000, 1), "testsets": (2_000_000_000, 1), "cell": (10, 200_000_000)}.items()
    ):
        mat = tmp_path / f"huge{number}.mat"
        mat.write_bytes(MAT.read_bytes())
        with h5py.File(mat, "r+") as file:
            huge = file.create_dataset("huge", shape, h5py.ref_dtype, chunks=(1, 1))
            if name == "cell":
                references = file["labeled"][:]
                references[0, 0] = huge.ref
                file["labeled"][:] = references
            else:
                del file[name]
                file[name] = huge
        assert mat.stat().st_size < 2**20
        with pytest.raises(UserError, match="is not the HDF5 file of CUHK03"):
            Cuhk03Images(mat, "labeled").test_sets()


def test_a_protocol_that_declares_billions_of_cells(tmp_path):
    good = {key: value for key, value in scipy.io.loadmat(DUMMY / PROTOCOL).items() if key[0] != "_"}
    scipy.io.savemat(tmp_path / PROTOCOL, good, do_compression=False)
    content = bytearray((tmp_path / PROTOCOL).read_bytes())
    shape = np.array(good["filelist"].shape, np.int32).tobytes()
    place = content.index(shape)
    content[place : place + 8] = np.array([2**31 - 1, 1], np.int32).tobytes()
    (tmp_path / PROTOCOL).write_bytes(content)
    with pytest.raises(UserError, match="is not the new protocol of CUHK03"):
        new_protocol(Cuhk03Images(MAT, "labeled"), FolderFiles(tmp_path), PROTOCOL)


def test_damaged_protocols(tmp_path):
    images, place = Cuhk03Images(MAT, "labeled"), FolderFiles(tmp_path)
    for share in (0.0, 0.3, 0.9):
        (tmp_path / PROTOCOL).write_bytes((DUMMY / PROTOCOL).read_bytes())
        cut(tmp_path / PROTOCOL, share)
        with pytest.raises(UserError, match="is damaged or is not the new protocol of CUHK03; copy it again"):
            new_protocol(images, place, PROTOCOL)
    good = {key: value for key, value in scipy.io.loadmat(DUMMY / PROTOCOL).items() if key[0] != "_"}
    for key, value in (
        ("train_idx", good["train_idx"] + 1000),
        ("query_idx", np.zeros((3, 1))),
        ("labels", good["labels"][1:]),
        ("filelist", np.array([["wrong.png"]] * 32, object)),
    ):
        scipy.io.savemat(tmp_path / PROTOCOL, {**good, key: value})
        with pytest.raises(UserError, match="is not the new protocol of CUHK03"):
            new_protocol(images, place, PROTOCOL)
    names = good["filelist"].copy()
    names[3, 0] = np.array(["1_843_1_01.png"])
    scipy.io.savemat(tmp_path / PROTOCOL, {**good, "filelist": names})
    with pytest.raises(UserError, match=r"1 of the 32 images of .* are not in .*, first 1_843_1_01\.png"):
        new_protocol(images, place, PROTOCOL)

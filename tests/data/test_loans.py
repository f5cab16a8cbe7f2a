import numpy as np

from san_tf.data.transforms import ArrayLender


def address(array):
    return array.__array_interface__["data"][0]


def test_arrays_begin_where_tensorflow_takes_them_as_they_are():
    lender = ArrayLender()
    for shape in ((3, 5), (7,), (64, 8, 8, 3)):
        array = lender.lend(shape)
        assert (array.shape, array.dtype, address(array) % 64) == (shape, np.float32, 0)


def test_memory_is_lent_again_only_when_nobody_holds_it():
    lender = ArrayLender()
    first, second = lender.lend((4, 4)), lender.lend((4, 4))
    assert address(first) != address(second)
    first[:], second[:] = 1.0, 2.0
    view, place = first[1:].reshape(-1), address(first)
    del first
    third = lender.lend((2, 8))  # as many bytes
    third[:] = 3.0
    assert (view == 1.0).all()
    assert address(third) != place
    del view
    assert address(lender.lend((2, 8))) == place
    assert (second == 2.0).all()


def test_kept_memory_is_bounded():
    lender = ArrayLender()
    many = [lender.lend((8,)) for _ in range(20)]
    del many
    assert sum(map(len, lender._free.values())) == 8

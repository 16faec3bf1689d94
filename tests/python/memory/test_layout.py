"""Element types, shapes and strides: codes as the protocol has them, and pieces that cover a tensor exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import rdmatensor as rt
from rdmatensor.memory.layout import (
    DTYPES,
    NBYTES_MAX,
    as_dtype,
    as_shape,
    contiguous_runs,
    contiguous_strides,
    dtype_of_code,
    is_contiguous,
    run_offsets,
)


def test_codes_run_on_from_one_and_every_other_is_refused() -> None:
    assert [dtype.code for dtype in DTYPES] == list(range(1, len(DTYPES) + 1))
    assert all(dtype_of_code(dtype.code) is dtype for dtype in DTYPES)
    for code in (0, -1, len(DTYPES) + 1, 255):
        with pytest.raises(rt.InvalidArgument, match=f"code {code}"):
            dtype_of_code(code)


def test_sizes_and_names_are_those_of_numpy_where_it_has_the_type() -> None:
    for dtype in DTYPES:
        if dtype.numpy is not None:
            assert (dtype.numpy.name, dtype.numpy.itemsize) == (dtype.name, dtype.itemsize)
    without = {dtype.name for dtype in DTYPES if dtype.numpy is None}
    assert {"bfloat16", "complex32", "float8_e5m2"} <= without
    assert not {"bool", "uint8", "int64", "float16", "float64", "complex128"} & without


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("float32", "float32"),
        ("bfloat16", "bfloat16"),
        ("torch.float8_e5m2", "float8_e5m2"),
        (np.float16, "float16"),
        (np.dtype("i4"), "int32"),
        (float, "float64"),
        (bool, "bool"),
        ("<u2", "uint16"),
        (np.longlong, "int64"),
        (DTYPES[12], "bfloat16"),
    ],
)
def test_an_element_type_has_many_spellings(given: object, name: str) -> None:
    assert as_dtype(given).name == name
    assert as_dtype(given) is as_dtype(name)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("float31", "is no element type"),
        (None, "is no element type"),
        (object, "is no element type"),
        ("S8", "is no element type"),
        ("M8[s]", "is no element type"),
        (np.dtype("f4,i4"), "is no element type"),
        (np.longdouble, "is no element type"),
        ([], "is no element type"),
        (">f4", r"other byte order: convert it with .astype\('<f4'\)"),
    ],
)
def test_a_value_that_is_no_element_type_is_refused_with_the_reason(given: object, why: str) -> None:
    with pytest.raises(rt.InvalidArgument, match=why):
        as_dtype(given)


def test_a_shape_is_checked_before_anything_is_computed_with_it() -> None:
    byte, wide = as_dtype("uint8"), as_dtype("complex128")
    assert as_shape(5, byte) == (5,)
    assert as_shape([np.int64(2), 3], byte) == (2, 3)
    assert as_shape((), byte) == ()
    assert as_shape((1,) * 16, byte) == (1,) * 16
    assert as_shape((NBYTES_MAX,), byte) == (NBYTES_MAX,)
    assert as_shape((NBYTES_MAX, NBYTES_MAX, 0), byte) == (NBYTES_MAX, NBYTES_MAX, 0)
    for shape, why in [
        ((1,) * 17, "rank 17 is over the limit of 16"),
        ((-1,), "negative"),
        ((NBYTES_MAX + 1,), "2\\^63 - 1 bytes"),
        ((NBYTES_MAX + 1, 0), "2\\^63 - 1 bytes"),
        ((1 << 32, 1 << 31), "2\\^63 - 1 bytes"),
    ]:
        with pytest.raises(rt.InvalidArgument, match=why):
            as_shape(shape, wide)
    for shape in ("12", (1.5,), None, 2.0, ((1,),)):
        with pytest.raises(TypeError, match="whole numbers"):
            as_shape(shape, byte)  # type: ignore[arg-type]


@st.composite
def views(draw: st.DrawFn) -> np.ndarray:
    """A strided look into an array whose values are the offsets of its bytes."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    base = np.arange(max(int(np.prod(shape)), 1) if 0 not in shape else 0, dtype=np.int32).reshape(shape)
    for axis in range(base.ndim):
        step = draw(st.sampled_from([1, 1, 2, -1]))
        base = base[(slice(None),) * axis + (slice(draw(st.integers(0, 1)), None, step),)]
    if draw(st.booleans()):
        base = base.transpose(draw(st.permutations(range(base.ndim))))
    if draw(st.booleans()):
        base = np.broadcast_to(base, (draw(st.integers(0, 2)), *base.shape))
    return base


@given(views())
def test_the_pieces_of_a_strided_tensor_are_its_elements_in_order(view: np.ndarray) -> None:
    run, shape, strides = contiguous_runs(view.shape, view.strides, view.itemsize)
    found = []
    for offset in run_offsets(shape, strides):
        piece = as_strided(view.reshape(-1)[:0] if run == 0 else _from(view, offset), (run // 4,), (4,))
        found += piece.tolist()
    assert found == view.ravel().tolist()
    if is_contiguous(view.shape, view.strides, 4):
        assert (run, shape) == ((view.nbytes, ()) if view.size else (0, (0,)))
    assert is_contiguous(view.shape, view.strides, 4) == view.flags.c_contiguous


def _from(view: np.ndarray, offset: int) -> np.ndarray:
    """The elements of the view's memory from an offset of its first element on."""
    base = view
    while isinstance(base.base, np.ndarray):
        base = base.base
    flat = base.reshape(-1)
    start = view.__array_interface__["data"][0] - flat.__array_interface__["data"][0] + offset
    return flat[start // 4 :]


@given(st.lists(st.integers(0, 5), max_size=6).map(tuple))
def test_contiguous_strides_are_contiguous(shape: tuple[int, ...]) -> None:
    strides = contiguous_strides(shape, 8)
    assert is_contiguous(shape, strides, 8)
    if 0 not in shape:
        assert strides == np.empty(shape, np.float64).strides

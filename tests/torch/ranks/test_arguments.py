"""Wrong arguments are refused before anything is sent, as over Gloo; arguments that Gloo takes give the same."""

from __future__ import annotations

import arguments
import pytest
import regions
import torch
from ranks import Ranks
from test_operations import same


@pytest.mark.parametrize(
    ("what", "why"), [("freed", "has no memory"), ("shrunk", "has no memory"), ("expanded", "share one place")]
)
def test_tensors_without_a_place_of_their_own_are_refused_everywhere(ranks: Ranks, what: str, why: str) -> None:
    for found in ranks.run(arguments.refused, 2, what):
        for name, said in found.items():
            assert why in said[-1], f"{name}: {said}"
            assert {"RuntimeError", "InvalidArgument", "ValueError"} < set(said), f"{name}: {said}"


def test_wrong_arguments_are_runtime_errors_that_say_where(ranks: Ranks) -> None:
    for found in ranks.run(arguments.wrong, 2):
        for name, said in found.items():
            call, words = name.split(" ", 1)
            assert {"RuntimeError", "InvalidArgument", "ValueError"} < set(said), f"{name}: {said}"
            assert call in said[-1] and words in said[-1], f"{name}: {said}"


@pytest.mark.parametrize("size", [2, 3])
def test_unusual_arguments_give_what_gloo_gives(ranks: Ranks, size: int) -> None:
    same(ranks.run(arguments.unusual, size), ranks.run(arguments.unusual, size, backend="gloo"), f"over {size}")


@pytest.mark.parametrize("count", [5, 40_000])
@pytest.mark.parametrize("size", [2, 3])
def test_inputs_may_lie_in_outputs(ranks: Ranks, size: int, count: int) -> None:
    for found in ranks.run(arguments.in_place, size, count):
        assert found == [True] * len(found)


@pytest.mark.parametrize("access", [None, regions.READ, regions.WRITE], ids=["ordinary", "read", "write"])
@pytest.mark.parametrize("size", [2, 3])
def test_the_minimum_with_nan_is_that_of_torch_wherever_tensors_lie(
    ranks: Ranks, size: int, access: int | None
) -> None:
    assert ranks.run(arguments.nan, size, access) == [[]] * size


def test_strided_inference_tensors_are_outputs(ranks: Ranks) -> None:
    found = ranks.run(arguments.inference, 2)
    assert found[0] == [[0.5] * 4, [0.0] * 3, [1.0] * 3]
    assert found[1] == [[5.0] * 4, [6.0] * 4, [0.5] * 4, [0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("two roots", ("root 0", "root 1")),
        ("gather and scatter", ("gather", "scatter")),
        ("reduce and broadcast", ("reduce", "broadcast")),
    ],
)
def test_members_that_wait_in_different_calls_are_told_both(ranks: Ranks, what: str, words: tuple[str, str]) -> None:
    for said in ranks.run(arguments.different, 2, what):
        assert "RuntimeError" in said, said
        assert "do not agree" in said[-1] and all(word in said[-1] for word in words), said


def test_a_disagreement_is_an_error_of_ours_and_of_torch(ranks: Ranks) -> None:
    found = ranks.run(arguments.different, 2, "two roots")
    assert any({"DisagreementError", "InvalidArgument", "DistBackendError"} < set(said) for said in found), found
    assert all("DistBackendError" in said for said in found), found
    assert torch.distributed.DistBackendError in rdmatensor_error().__mro__


def rdmatensor_error() -> type[Exception]:
    from rdmatensor.torch.errors import DisagreementError

    return DisagreementError

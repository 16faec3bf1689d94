"""`rdmatensor devices`: what it says, for people and as JSON."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

import rdmatensor as rt
from rdmatensor.cli import devices, main


def limits(**changes: int) -> rt.Limits:
    fields = {field.name: False if field.type in (bool, "bool") else 1 for field in dataclasses.fields(rt.Limits)}
    return rt.Limits(**{**fields, **changes})


def found() -> list[rt.ProviderInfo]:
    card = rt.DeviceInfo(
        name="card0", state="port 1 active", limits=limits(message_size_max=1 << 30, orders_writes=True)
    )
    return [
        rt.ProviderInfo(provider="fast", viable=True, why_not="", devices=[card]),
        rt.ProviderInfo(provider="gone", viable=False, why_not="its library is missing: install it", devices=[]),
        rt.ProviderInfo(provider="bare", viable=True, why_not="", devices=[]),
    ]


def gpu() -> rt.GpuInfo:
    return rt.GpuInfo(
        device="cuda:0",
        name="Card",
        pci="0000:17:00.0",
        nbytes=16 << 30,
        driver="11.6",
        compute_capability=(7, 5),
        shares=True,
        dma_buf=False,
        peer_direct=True,
        visibility="flush",
        why_not="its driver is old",
    )


def test_a_usable_device_is_one_object_with_its_limits() -> None:
    card = devices.as_objects(found())[0]
    assert (card["provider"], card["device"], card["viable"], card["why_not"]) == ("fast", "card0", True, "")
    assert card["limits"]["message_size_max"] == 1 << 30
    assert set(card["limits"]) == {field.name for field in dataclasses.fields(rt.Limits)}


def test_a_provider_that_cannot_be_used_is_an_object_that_says_why() -> None:
    gone = devices.as_objects(found())[1]
    assert (gone["device"], gone["viable"], gone["limits"]) == (None, False, None)
    assert gone["why_not"] == "its library is missing: install it"


def test_a_provider_without_a_device_is_not_viable() -> None:
    bare = devices.as_objects(found())[2]
    assert not bare["viable"]
    assert bare["why_not"]


def test_people_read_the_same() -> None:
    text = devices.as_text(found())
    assert "fast://  usable" in text
    assert "card0: port 1 active" in text
    assert "messages up to 1 GiB" in text
    assert "gone://  not usable: its library is missing: install it" in text


def test_gpus_are_objects_of_their_own_or_one_that_says_why() -> None:
    assert devices.gpus_as_objects([], "no driver: install it") == [{"gpu": None, "why_not": "no driver: install it"}]
    card = devices.gpus_as_objects([gpu()], "")[0]
    assert (card["gpu"], card["nbytes"], card["dma_buf"]) == ("cuda:0", 16 << 30, False)
    assert "provider" not in card


def test_people_read_the_ways_to_a_gpus_memory() -> None:
    assert devices.gpus_as_text([], "no driver: install it") == "GPUs  none: no driver: install it"
    text = " ".join(devices.gpus_as_text([gpu()], "").split())
    assert "cuda:0: Card, 16 GiB, at 0000:17:00.0" in text
    assert "reached by a descriptor, through nvidia_peermem; a NIC's bytes are seen after a flush" in text
    assert "not all ways: its driver is old" in text


def test_the_command_says_what_there_is_of_gpus(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    entries = [entry for entry in json.loads(capsys.readouterr().out) if "gpu" in entry]
    assert entries
    assert all(entry["gpu"] or entry["why_not"] for entry in entries)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1 KiB"), (8 << 20, "8 MiB"), (1 << 63, "8 EiB")],
)
def test_sizes_are_shown_in_the_largest_unit(count: int, text: str) -> None:
    assert devices.size(count) == text


def test_the_command_lists_every_provider_of_this_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    objects = [entry for entry in json.loads(capsys.readouterr().out) if "provider" in entry]
    assert [info.provider for info in rt.providers()] == list(dict.fromkeys(entry["provider"] for entry in objects))
    assert all({"provider", "device", "viable", "why_not", "limits"} <= set(entry) for entry in objects)
    assert all(entry["viable"] or entry["why_not"] for entry in objects)
    assert any(entry["viable"] for entry in objects if entry["provider"] == "shm")


def test_the_command_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rdmatensor", "devices"], capture_output=True, text=True, timeout=900, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "shm://  usable" in done.stdout


def test_a_closed_pipe_is_not_an_error() -> None:
    command = f"{sys.executable} -m rdmatensor devices --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=900, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unknown_command_names_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["device"])
    assert end.value.code == 2
    assert "devices" in capsys.readouterr().err

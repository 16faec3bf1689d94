"""Device URLs: what is taken apart, and what is refused with the right way to write it."""

from __future__ import annotations

import pytest

import rdmatensor as rt
from rdmatensor.settings.url import DeviceUrl


def test_a_url_names_provider_device_and_options() -> None:
    url = DeviceUrl.parse(
        "verbs://mlx5_0?queues=4&gid=3&wait=spin&timeout=1.5&traffic_class=106&qps_per_peer=2&pollers=1"
    )
    assert url == DeviceUrl("verbs", "mlx5_0", 4, 2, 1, "spin", 1.5, "gid=3&traffic_class=106")


@pytest.mark.parametrize("text", ["shm://", "auto://", "sim://", "verbs://"])
def test_a_scheme_alone_is_enough(text: str) -> None:
    assert DeviceUrl.parse(text) == DeviceUrl(text[:-3])


def test_names_and_values_are_unquoted() -> None:
    assert DeviceUrl.parse("sim://party%20one?world=a%20b") == DeviceUrl("sim", "party one", arguments="world=a b")


@pytest.mark.parametrize("text", ["", "shm", "shm:", "tcp://x", "SHM://", "://", "verbs//x"])
def test_an_unknown_scheme_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(rt.InvalidArgument, match="verbs://, shm://, sim://, auto://"):
        rt.Device(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("shm://?queues=x", "queues is a whole number"),
        ("shm://?queues=-1", "queues is a whole number"),
        ("shm://?queues=4&queues=4", "queues is given twice"),
        ("shm://?queues", "not an option"),
        ("shm://?=4", "not an option"),
        ("shm://?timeout=soon", "timeout is a number"),
        ("shm://?timeout=nan", "timeout"),
        ("shm://?wait=maybe", "adaptive, spin, yield, block"),
        ("auto://mlx5_0", "name its provider"),
        ("shm://a/b", "cannot be a device's name"),
        ("shm://" + "x" * 64, "cannot be a device's name"),
        ("verbs://" + "x" * 256, "cannot be a device's name"),
        ("sim://?world=a%26b", "cannot hold"),
        ("shm://?queues=1000", "queues"),
        ("shm://?pollers=1000", "pollers"),
    ],
)
def test_a_bad_option_is_refused_with_its_name(text: str, why: str) -> None:
    with pytest.raises(rt.InvalidArgument, match=why):
        rt.Device(text)


@pytest.mark.parametrize("url", ["shm://?colour=red", "sim://?colour=red"])
def test_an_option_that_the_provider_does_not_know_is_refused_by_name(url: str) -> None:
    with pytest.raises(rt.InvalidArgument, match="colour"):
        rt.Device(url)


def test_a_url_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match="text"):
        rt.Device(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{"queues": -1}, {"qps_per_peer": 1.5}, {"pollers": "2"}, {"wait": "never"}, {"timeout": -1}]
)
def test_a_bad_keyword_is_refused_like_a_bad_option(options: dict[str, object]) -> None:
    with pytest.raises(rt.InvalidArgument):
        rt.Device("shm://", **options)  # type: ignore[arg-type]


def test_a_device_has_the_settings_of_its_url() -> None:
    with rt.Device("shm://?queues=3&qps_per_peer=2&timeout=7") as device:
        assert (device.queues, device.qps_per_peer) == (3, 2)
        assert device.timeout_ns == 7_000_000_000


def test_auto_says_what_it_took_and_why_not_the_others() -> None:
    with rt.Device() as device:
        assert device.provider in ("verbs", "shm")
        if device.provider == "shm":
            assert set(device.why) == {"verbs"}
            assert len(device.why["verbs"]) > 20


def test_a_provider_that_is_not_there_is_an_error_that_names_the_cause() -> None:
    for info in rt.providers():
        if not info.viable:
            with pytest.raises(rt.ProviderUnavailable) as caught:
                rt.Device(f"{info.provider}://")
            assert info.why_not in str(caught.value)


def test_a_device_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(rt.ProviderUnavailable, match="nosuch0"):
        rt.Device("shm://nosuch0")

"""The providers and devices of this machine, and the reasons against the unusable ones."""

from __future__ import annotations

from dataclasses import dataclass

from rdmatensor import _core
from rdmatensor.errors import RdmaError
from rdmatensor.limits import Limits

__all__ = ["DeviceInfo", "ProviderInfo", "command", "providers"]


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device that can be opened."""

    name: str
    """The name for the URL; "" where the provider has just one device."""
    state: str
    """A line for people: port, speed, chosen address."""
    limits: Limits


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """A way to move bytes, and its devices on this machine."""

    provider: str
    """The provider's name, which is also the URL's scheme."""
    viable: bool
    why_not: str
    """The missing requirement and how to get it; "" when the provider can be used."""
    devices: tuple[DeviceInfo, ...]


def providers() -> list[ProviderInfo]:
    """Every provider of this build, including the unusable ones, with the reason."""
    return [_look(provider) for provider in _core.provider_names()]


def _look(provider: str) -> ProviderInfo:
    why_not = _core.provider_why_not(provider)
    devices: tuple[DeviceInfo, ...] = ()
    if not why_not:
        try:
            devices = tuple(DeviceInfo(*entry) for entry in _core.provider_list(provider))
        except RdmaError as error:
            why_not = error.why
    return ProviderInfo(provider, not why_not, why_not, devices)


def command(provider: str, text: str) -> str:
    """Sends a provider a text command and returns its reply; `sim` takes its fault plans this way."""
    return _core.provider_command(provider, text)

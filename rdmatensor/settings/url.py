"""The URL that names a device: `verbs://mlx5_0?queues=4`, `shm://`, `sim://?seed=7`, `auto://`."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

from rdmatensor.errors import InvalidArgument

__all__ = ["SCHEMES", "DeviceUrl"]

SCHEMES = ("verbs", "shm", "sim", "auto")
_NAME_SIZES = {"verbs": 255}
"""The bytes that a name may have, where it may be a list of names."""
_COUNTS = ("queues", "qps_per_peer", "pollers")


@dataclass(frozen=True, slots=True)
class DeviceUrl:
    """A parsed device URL. A field is None where the URL does not give it."""

    scheme: str
    name: str = ""
    """The device's name, or for verbs several names with commas; "" lets the provider choose."""
    queues: int | None = None
    qps_per_peer: int | None = None
    pollers: int | None = None
    wait: str | None = None
    timeout: float | None = None
    arguments: str = ""
    """The rest of the query, which goes to the provider."""

    @classmethod
    def parse(cls, text: str) -> DeviceUrl:
        """Parses a URL; InvalidArgument names the error and the correct form."""
        if not isinstance(text, str):
            raise TypeError(f"a device URL is text, as in 'shm://', not {type(text).__name__}")
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in SCHEMES:
            known = ", ".join(f"{known}://" for known in SCHEMES)
            raise InvalidArgument("open a device", repr(text), f"a device URL begins with one of {known}")
        name, _, query = rest.partition("?")
        name = unquote(name).rstrip("/")
        if "/" in name or "#" in query or len(name.encode()) > _NAME_SIZES.get(scheme, 63) or not name.isprintable():
            raise InvalidArgument(
                "open a device", repr(text), f"{name!r} cannot be a device's name; write {scheme}://NAME?option=value"
            )
        if scheme == "auto" and name:
            raise InvalidArgument(
                "open a device", repr(text), f"auto:// chooses a device by itself; for {name!r} name its provider"
            )
        values, arguments = cls._query(text, query)
        return cls(scheme, name, arguments="&".join(arguments), **values)  # type: ignore[arg-type]

    @staticmethod
    def _query(text: str, query: str) -> tuple[dict[str, object], list[str]]:
        values: dict[str, object] = {}
        arguments: list[str] = []
        seen: set[str] = set()
        for part in filter(None, query.split("&")):
            key, equals, value = (unquote(piece) for piece in part.partition("="))
            if not key or not equals:
                raise InvalidArgument(
                    "open a device", repr(text), f"{part!r} is not an option: write ?key=value&key=value"
                )
            if key in seen:
                raise InvalidArgument("open a device", repr(text), f"{key} is given twice")
            seen.add(key)
            if key in _COUNTS:
                values[key] = _count(text, key, value)
            elif key == "wait":
                values[key] = value
            elif key == "timeout":
                values[key] = _seconds(text, value)
            elif "&" in key + value or "=" in key or not (key + value).isprintable():
                raise InvalidArgument(
                    "open a device",
                    repr(text),
                    f"the value of {key!r} cannot hold '&', '=' in the key, or control characters",
                )
            else:
                arguments.append(f"{key}={value}")
        return values, arguments


def _count(text: str, key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 9:
        raise InvalidArgument("open a device", repr(text), f"{key} is a whole number, not {value!r}")
    return int(value)


def _seconds(text: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidArgument("open a device", repr(text), f"timeout is a number of seconds, not {value!r}") from None

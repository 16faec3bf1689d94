"""The soft-RoCE devices of the emulated machine."""

from __future__ import annotations

import os

DEVICES = [name for name in os.environ.get("RDMATENSOR_RXE_DEVICES", "").split(",") if name]

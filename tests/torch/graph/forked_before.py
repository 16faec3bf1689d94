"""Imported by the process from which those of forked.py come: what they need is made before, once."""

from __future__ import annotations

import mortals
import torch.distributed.checkpoint  # noqa: F401

mortals.plans()

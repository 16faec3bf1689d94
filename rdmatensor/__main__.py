"""`python -m rdmatensor`, the same as the command `rdmatensor`."""

from __future__ import annotations

import sys

from rdmatensor.cli import main

sys.exit(main())

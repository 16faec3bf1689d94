"""`python tests/mutants`: see mutate.py."""

import sys

from mutate import main

sys.exit(main(sys.argv[1:]))

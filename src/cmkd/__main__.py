"""`python -m cmkd`."""

import sys

from cmkd.cli import main

sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""`python -m pyrnn`: the command line."""

import sys

from pyrnn.cli import main

if __name__ == "__main__":
    sys.exit(main())

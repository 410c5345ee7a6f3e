"""`python -m kvgpu`."""

import sys

from kvgpu.cli import main

if __name__ == "__main__":
    sys.exit(main())

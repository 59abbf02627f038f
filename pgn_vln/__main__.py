"""`python -m pgn_vln`, and so `accelerate launch -m pgn_vln` and `torchrun -m pgn_vln`, is the command `pgn`."""

import sys

from pgn_vln.cli import main

if __name__ == "__main__":
    sys.exit(main())

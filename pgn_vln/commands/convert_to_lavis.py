"""`pgn convert to-lavis DIR`: vision tower and Q-Former of a PGN checkpoint as a .pth of LAVIS."""

from pgn_vln.commands.convert_to_original import POSITIONAL, Arguments
from pgn_vln.convert.export import to_lavis

__all__ = ["POSITIONAL", "Arguments", "run"]


def run(args: Arguments):
    """Convert, and say what became of every tensor."""
    print(to_lavis(args.dir, args.out))
    print(f"wrote {args.out}; next: pgn convert inspect {args.out}")

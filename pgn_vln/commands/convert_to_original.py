"""`pgn convert to-original DIR`: a PGN checkpoint as a .pth of the original system."""

from dataclasses import dataclass, field

from pgn_vln.convert.export import to_original

POSITIONAL = "dir"


@dataclass
class Arguments:
    """Arguments of `pgn convert to-original` and `pgn convert to-lavis`."""

    dir: str = field(metadata={"help": "Folder of a PGN checkpoint."})
    out: str = field(metadata={"help": "File to write; it must not exist yet."})


def run(args: Arguments):
    """Convert, and say what became of every tensor."""
    print(to_original(args.dir, args.out))
    print(f"wrote {args.out}; next: pgn convert inspect {args.out}")

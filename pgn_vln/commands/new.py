"""`pgn new`: write an untrained tiny PGN."""

from dataclasses import dataclass, field
from pathlib import Path

from pgn_vln.tiny import build_tiny


@dataclass
class Arguments:
    """Arguments of `pgn new`."""

    out: str = field(metadata={"help": "Folder to write; it must not exist yet."})
    image_size: int | None = field(default=None, metadata={"help": "Side of a frame, pixels; default 64."})
    seed: int = field(default=0, metadata={"help": "Seed of the random weights."})


def run(args: Arguments):
    """Build tokenizer, processor and random weights."""
    build_tiny(Path(args.out), args.seed, args.image_size)
    print(f"wrote {args.out}: an untrained tiny PGN with its tokenizer, processor and code")
    print(f"next: accelerate launch train_grounding.py recipes/grounding_tiny.yaml --model_name_or_path {args.out}")

"""`pgn convert inspect PATH`: what is in a file or folder of weights."""

from dataclasses import dataclass, field

from pgn_vln.convert.inspection import inspect_weights
from pgn_vln.io import strict_json

POSITIONAL = "path"


@dataclass
class Arguments:
    """Arguments of `pgn convert inspect`."""

    path: str = field(metadata={"help": "A .pth, .pt, .bin or .safetensors file, or a folder."})
    tensors: bool = field(default=False, metadata={"help": "A line for every tensor, too."})
    json: bool = field(default=False, metadata={"help": "Everything as JSON instead."})


def run(args: Arguments):
    """Print kind, parts, shapes, dtypes."""
    found = inspect_weights(args.path)
    if args.json:
        print(strict_json(found.to_dict(), indent=2))
        return
    for line in found.lines(args.tensors):
        print(line)

"""`pgn convert from-original FILE`: a .pth of the original system becomes a PGN checkpoint."""

from dataclasses import dataclass, field

from pgn_vln.commands.convert_from_parts import WritingArguments
from pgn_vln.convert.original import convert_original

POSITIONAL = "file"


@dataclass(kw_only=True)
class Arguments(WritingArguments):
    """Arguments of `pgn convert from-original`."""

    file: str = field(metadata={"help": "The .pth: vision_frontend.*, pangu_proj.*, llm.*."})
    llm: str = field(metadata={"help": "Folder of the language model it was trained from: configuration, tokenizer."})
    rename: list[str] = field(
        default_factory=list,
        metadata={"help": "Rules 'PATTERN=>REPLACEMENT' (regular expressions) for tensors with other names."},
    )
    lora_alpha: float | None = field(default=None, metadata={"help": "Scale of LoRA tensors, where there are some."})


def run(args: Arguments):
    """Convert, and say what became of every tensor."""
    print(convert_original(args.file, args.llm, args.out, args.options(), args.rename, args.lora_alpha))
    print(f"wrote {args.out}; conversion.json in it names every tensor")
    print(f"next: pgn evaluate vln --model {args.out}")

"""`pgn convert from-parts`: a language model, a vision tower and a Q-Former become one PGN checkpoint."""

import re
from dataclasses import dataclass, field

import torch

from pgn_vln.convert.parts import Options, convert_parts

DTYPES = {"keep": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(kw_only=True)
class WritingArguments:
    """What every conversion to PGN takes."""

    out: str = field(metadata={"help": "Folder to write; it must not exist yet."})
    dtype: str = field(
        default="keep", metadata={"help": f"{', '.join(DTYPES)}; keep leaves every tensor as it is in its source."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Side of a frame, pixels; the position embedding is resized. Default: as is."}
    )
    vision_heads: int | None = field(
        default=None, metadata={"help": "Attention heads of the vision tower, where its width (not 1408) hides them."}
    )
    qformer_heads: int | None = field(
        default=None, metadata={"help": "Attention heads of the Q-Former, where its width (not 768) hides them."}
    )
    history_frames: int | None = field(default=None, metadata={"help": "Past frames the navigator remembers."})
    max_shard_size: str = field(default="2GB", metadata={"help": "Of a file of weights; it bounds the memory too."})

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} is not known; choose one of {', '.join(DTYPES)}")
        if not re.fullmatch(r"[1-9]\d*(\.\d+)?[KMGT]B", self.max_shard_size):
            raise ValueError(f"max_shard_size={self.max_shard_size!r} is no size; expected one like 500MB or 2GB")

    def options(self) -> Options:
        """For the converter."""
        return Options(
            dtype=DTYPES[self.dtype],
            image_size=self.image_size,
            vision_heads=self.vision_heads,
            qformer_heads=self.qformer_heads,
            history_frames=self.history_frames,
            max_shard_size=self.max_shard_size,
        )


@dataclass(kw_only=True)
class Arguments(WritingArguments):
    """Arguments of `pgn convert from-parts`."""

    llm: str = field(metadata={"help": "Folder of a causal language model, with its tokenizer."})
    vision: str | None = field(
        default=None, metadata={"help": "eva_vit_g.pth, a LAVIS .pth, or a folder of a Hugging Face BLIP-2."}
    )
    qformer: str | None = field(
        default=None, metadata={"help": "The same; a file that holds both parts needs to be named once."}
    )


def run(args: Arguments):
    """Convert, and say what became of every tensor."""
    print(convert_parts(args.llm, args.vision, args.qformer, args.out, args.options()))
    print(f"wrote {args.out}; conversion.json in it names every tensor")
    print(f"next: pgn convert inspect {args.out}")

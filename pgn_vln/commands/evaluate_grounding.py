"""`pgn evaluate grounding`: what a checkpoint can name in houses that no training has seen."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState

from pgn_vln.evaluation.grounding import ask_model, draw_questions, markdown_table, summarise, write_section
from pgn_vln.io import write_json_atomic
from pgn_vln.navigation.views import HouseViews
from pgn_vln.training.loading import load_model
from pgn_vln.versions import package_versions


@dataclass
class Arguments:
    """Arguments of `pgn evaluate grounding`."""

    model: str = field(metadata={"help": "Folder or Hub name of a PGN checkpoint."})
    split: str = field(default="test", metadata={"help": "train, val or test."})
    levels: list[str] = field(
        default_factory=lambda: ["one_room", "two_rooms"], metadata={"help": "Levels of the houses, in turn."}
    )
    houses: int = field(default=200, metadata={"help": "How many houses."})
    views_per_house: int = field(default=5, metadata={"help": "Views of each; up to two questions a view."})
    seed: int = field(default=0, metadata={"help": "Another seed, other houses."})
    out: str | None = field(default=None, metadata={"help": "JSON to write; default MODEL/grounding_SPLIT.json."})
    card: bool = field(default=False, metadata={"help": "Put the table into MODEL/README.md too."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU where there is an accelerator."})


def run(args: Arguments):
    """Ask, compare, print the table."""
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())
    model, processor = load_model(args.model)
    model.to(state.device).eval()
    views = HouseViews(
        tuple(args.levels),
        args.split,
        args.views_per_house,
        seed=args.seed,
        image_size=model.config.vision_config.image_size,
        hfov_degrees=model.config.navigation["hfov_degrees"],
    )
    try:
        questions = list(draw_questions(views, args.houses))
    finally:
        views.close()
    summary = summarise(ask_model(model, processor, questions))
    settings = {"split": args.split, "levels": args.levels, "houses": args.houses, "seed": args.seed}
    out = Path(args.out or Path(args.model) / f"grounding_{args.split}.json")
    write_json_atomic(out, {"settings": settings, "versions": package_versions(), **summary})
    command = f"pgn evaluate grounding --model {args.model} --split {args.split} --houses {args.houses}"
    table = markdown_table(summary)
    if args.card:
        write_section(Path(args.model) / "README.md", f"Measured by `{command}`:\n\n{table}")
    print(table)
    print(f"wrote {out}")

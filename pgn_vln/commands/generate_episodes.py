"""`pgn episodes generate`: expert episodes in built-in houses, in the trajectory format."""

from dataclasses import dataclass, field

from modeling_pgn.prompting_pgn import action_names
from pgn_vln.navigation.generate import generate_episodes


@dataclass
class Arguments:
    """Arguments of `pgn episodes generate`."""

    level: str = field(metadata={"help": "one_room, two_rooms or house."})
    split: str = field(metadata={"help": "train, val or test; no house is in two of them."})
    episodes: int = field(metadata={"help": "How many, the first ones of the split."})
    out: str = field(metadata={"help": "Folder to write, or to continue."})
    num_proc: int = field(default=1, metadata={"help": "Processes, each with a renderer."})
    seed: int = field(default=0, metadata={"help": "Another seed, other houses."})
    image_size: int = field(default=64, metadata={"help": "Side of the frames, pixels."})
    turn_degrees: int = field(default=15, metadata={"help": "Angle of a turn."})
    step_m: float = field(default=0.25, metadata={"help": "Length of a step, metres."})
    hfov_degrees: float = field(default=90.0, metadata={"help": "Horizontal field of view."})
    expert: str = field(default="searching", metadata={"help": "searching, or shortest_path."})
    perturb: float = field(default=0.0, metadata={"help": "Share of steps with a random action instead."})


def run(args: Arguments):
    """Generate, then report counts and the action histogram."""
    report = generate_episodes(
        args.level,
        args.split,
        args.episodes,
        args.out,
        num_proc=args.num_proc,
        seed=args.seed,
        image_size=args.image_size,
        turn_degrees=args.turn_degrees,
        step_m=args.step_m,
        hfov_degrees=args.hfov_degrees,
        expert=args.expert,
        perturb=args.perturb,
    )
    print(f"{args.out}: {report.episodes} episodes, {report.frames} frames, {report.present} were there already")
    for action, name in action_names(args.turn_degrees).items():
        count = report.actions[action.name.lower()]
        print(f"  {name:<24} {count:>8}  {count / max(report.frames, 1):6.1%}")
    for episode, reason in report.refused.items():
        print(f"  refused {episode}: {reason}")
    print(f"next: pgn episodes validate --dir {args.out}")

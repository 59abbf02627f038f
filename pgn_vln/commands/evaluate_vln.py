"""`pgn evaluate vln`: a checkpoint walks through unseen houses, beside three baselines."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import set_seed

from pgn_vln.evaluation.evaluate_vln import evaluate_policies
from pgn_vln.evaluation.report import format_table
from pgn_vln.navigation.house_env import HouseEnv
from pgn_vln.navigation.rollout import ExpertPolicy, ForwardPolicy, NavigatorPolicy, RandomPolicy, ShuffledPolicy
from pgn_vln.training.loading import load_model


@dataclass
class Arguments:
    """Arguments of `pgn evaluate vln`."""

    model: str = field(metadata={"help": "Folder or Hub name of a PGN checkpoint."})
    level: str = field(default="one_room", metadata={"help": "one_room, two_rooms or house."})
    split: str = field(default="test", metadata={"help": "train, val or test."})
    episodes: int = field(default=100, metadata={"help": "How many, the first ones of the split."})
    radius_m: float = field(default=1.0, metadata={"help": "STOP nearer than this to the goal is a success, metres."})
    out: str | None = field(default=None, metadata={"help": "Report folder; default MODEL/evaluation/LEVEL_SPLIT."})
    seed: int = field(default=0, metadata={"help": "Of the houses and of the random baseline."})
    max_steps: int | None = field(default=None, metadata={"help": "Actions an episode may take; default the level's."})
    pictures: int | None = field(default=None, metadata={"help": "Episodes that get a picture; default all."})
    shuffled: bool = field(
        default=False, metadata={"help": "Drive the model once more, told another episode's instruction each time."}
    )
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU where there is an accelerator."})
    overwrite: bool = field(default=False, metadata={"help": "Start again where a report exists."})


def _weights(model) -> str:
    """A hash of the weights: it tells a checkpoint from one that was trained into the same folder later."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def run(args: Arguments):
    """Roll out, report, print the table."""
    set_seed(args.seed)
    # Unless told so, accelerate does not join the processes of a machine without accelerators.
    state = PartialState(cpu=args.use_cpu or not torch.accelerator.is_available())
    model, processor = load_model(args.model)
    model.to(state.device).eval()
    navigation = model.config.navigation
    env = HouseEnv(
        args.level,
        args.split,
        args.episodes,
        seed=args.seed,
        image_size=model.config.vision_config.image_size,
        turn_degrees=navigation["turn_degrees"],
        step_m=navigation["step_m"],
        hfov_degrees=navigation["hfov_degrees"],
        max_steps=args.max_steps,
    )
    policies = {
        "model": NavigatorPolicy(model.navigator(processor)),
        "random": RandomPolicy(args.seed),
        "forward": ForwardPolicy(),
        "expert": ExpertPolicy(env),
    }
    if args.shuffled:
        instructions = {name: env.episode_info(name).instruction for name in env.episodes()}
        policies["shuffled"] = ShuffledPolicy(policies["model"], instructions)
    out = Path(args.out or Path(args.model) / "evaluation" / f"{args.level}_{args.split}")
    try:
        summary = evaluate_policies(
            env,
            policies,
            env.episodes(),
            out,
            settings={
                "weights": _weights(model),
                "level": args.level,
                "seed": args.seed,
                "max_steps": env.max_steps,
                "navigation": navigation,
            },
            radius_m=args.radius_m,
            split=args.split,
            pictures=args.pictures,
            overwrite=args.overwrite,
        )
    finally:
        env.close()
    if state.is_main_process:
        print(format_table(summary))
        print(f"report: {out / 'report.html'}")
        harder = "two_rooms" if args.level == "one_room" else "house"
        print(f"next: pgn evaluate vln --model {args.model} --level {harder}")
    state.destroy_process_group()

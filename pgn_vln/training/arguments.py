"""Arguments of the train scripts."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from modeling_pgn.prompting_pgn import PROMPT_LAYOUTS
from pgn_vln.data.episodes import read_generation_settings


@dataclass
class ModelArguments:
    """What is trained."""

    model_name_or_path: str = field(metadata={"help": "Folder or Hub name of a whole PGN checkpoint."})
    attn_implementation: str = field(default="sdpa", metadata={"help": "sdpa, eager or flash_attention_2."})


@dataclass
class DataArguments:
    """Episodes, and how they become training samples."""

    train_dir: str = field(metadata={"help": "Folder of trajectories (traj_*.json and ep_*_images/) to train on."})
    eval_dir: str | None = field(default=None, metadata={"help": "Folder of trajectories to validate on."})
    image_root: str | None = field(
        default=None, metadata={"help": "Folder of train_dir's ep_*_images/, where it is another one."}
    )
    eval_image_root: str | None = field(default=None, metadata={"help": "The same for eval_dir."})
    prompt_layout: str = field(default="stream", metadata={"help": f"One of {', '.join(PROMPT_LAYOUTS)}."})
    history_frames: int | None = field(
        default=16, metadata={"help": "Frames of history a window holds; null for all from the start."}
    )
    windows: str = field(
        default="all", metadata={"help": "all: every window; random: one an episode, drawn anew each epoch."}
    )
    history_noise: float = field(
        default=0.0, metadata={"help": "Share of past actions told wrongly in training, so that none is just copied."}
    )
    action_weights: list[str] | None = field(
        default=None, metadata={"help": "What an action's answers count in the loss, as in stop=2; 1 otherwise."}
    )
    max_length: int = field(default=2048, metadata={"help": "Tokens of a sample, image tokens counted."})
    on_bad_episode: str = field(default="raise", metadata={"help": "raise or skip."})
    verify_images: bool = field(default=True, metadata={"help": "Decode every frame once, before training."})
    cache_dir: str | None = field(default=None, metadata={"help": "Cache of the datasets library, e.g. one a node."})
    data_num_proc: int | None = field(default=None, metadata={"help": "Processes that build the window table."})

    def __post_init__(self):
        for name, allowed in (
            ("prompt_layout", PROMPT_LAYOUTS),
            ("windows", ("all", "random")),
            ("on_bad_episode", ("raise", "skip")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is not known; choose one of {', '.join(allowed)}")

    def navigation_settings(self, before: dict) -> dict:
        """``config.navigation`` after this training: how the episodes were made, and what the windows hold.

        Args:
            before: of the model that is trained; it fills in what the episodes do not say.

        Raises:
            ValueError: the validation episodes were made with another turn, step or field of view.
        """
        names = ("turn_degrees", "step_m", "hfov_degrees")
        made = read_generation_settings(self.train_dir) or {}
        validation = (read_generation_settings(self.eval_dir) or {}) if self.eval_dir else {}
        for name in names:
            if name in made and validation.get(name, made[name]) != made[name]:
                raise ValueError(
                    f"{name} is {made[name]} in the episodes of {self.train_dir} and {validation[name]} in those of "
                    f"{self.eval_dir}; generate both alike"
                )
        return {
            **before,
            **{name: made[name] for name in names if name in made},
            "history_frames": self.history_frames,
            "prompt_layout": self.prompt_layout,
        }

    def window_settings(self) -> dict:
        """The arguments that `load_windows` takes for training and validation alike."""
        return {
            "prompt_layout": self.prompt_layout,
            "history_frames": self.history_frames,
            "on_bad_episode": self.on_bad_episode,
            "verify_images": self.verify_images,
            "cache_dir": self.cache_dir,
            "num_proc": self.data_num_proc,
        }


@dataclass
class VLNTrainingArguments(TrainingArguments):
    """The Trainer's arguments, with the defaults that navigation needs."""

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay false: windows carry what the collator reads."}
    )
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])
    save_total_limit: int | None = field(default=2, metadata={"help": "Checkpoints that are kept."})
    report_to: list[str] | None = field(
        default_factory=lambda: ["tensorboard"], metadata={"help": "Trackers, such as tensorboard or wandb."}
    )
    max_nonfinite_batches: int = field(
        default=5, metadata={"help": "Batches in a row whose loss may be NaN or infinite before training ends."}
    )
    resume_from_checkpoint: str | None = field(
        default=None, metadata={"help": "A checkpoint folder, or 'last' for the newest one in output_dir."}
    )

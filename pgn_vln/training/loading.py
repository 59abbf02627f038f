"""What a run starts from: a checkpoint to resume goes before a pretrained one."""

import json
import logging
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from modeling_pgn import PGNConfig, PGNForConditionalGeneration, PGNProcessor

logger = logging.getLogger(__name__)


def find_resume(resume: str | None, output_dir: str) -> str | None:
    """The checkpoint folder to resume from, or None.

    Args:
        resume: a folder, ``"last"`` for the newest complete checkpoint in ``output_dir`` (none there: a fresh start),
            or None.
        output_dir: of the run.

    Raises:
        ValueError: ``resume`` names no checkpoint folder; or the run exists already and ``resume`` was not given.
    """
    complete = [path for path in Path(output_dir).glob("checkpoint-*") if is_complete(path)]
    last = max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)
    if resume is None:
        if last is not None:
            raise ValueError(
                f"output_dir={output_dir!r} holds a run already (newest checkpoint {last.name}); continue it with "
                "--resume_from_checkpoint last, or choose another output_dir"
            )
        return None
    if resume == "last":
        return None if last is None else str(last)
    if not is_complete(Path(resume)):
        raise ValueError(
            f"resume_from_checkpoint={resume!r} is no complete checkpoint folder: it has no whole trainer_state.json; "
            "give one that has, or 'last'"
        )
    return resume


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: its state is what the Trainer writes last."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def load_model(name_or_path: str, resume: str | None = None, **kwargs) -> tuple[PreTrainedModel, PGNProcessor]:
    """Model and processor, from the checkpoint to resume if there is one, else from the pretrained one.

    Args:
        name_or_path: folder or Hub name of a whole PGN checkpoint.
        resume: checkpoint folder that `find_resume` gave, or None.
        kwargs: for ``from_pretrained``, such as ``attn_implementation``.

    Raises:
        ValueError: the folder does not exist, or holds no PGN; processor and model do not belong together.
    """
    source = resume or name_or_path
    looks_local = Path(source).is_absolute() or source.count("/") != 1 or Path(source).parent.is_dir()
    if looks_local and not (Path(source) / "config.json").is_file():
        raise ValueError(
            f"the model {source!r} is no checkpoint: there is no config.json; make a tiny one with 'pgn new --out "
            f"{source}', or give a folder or Hub name that has one"
        )
    model_type = PreTrainedConfig.get_config_dict(source)[0].get("model_type")
    if model_type != PGNConfig.model_type:
        raise ValueError(
            f"the model {source!r} is of type {model_type!r}, expected {PGNConfig.model_type!r}; give a PGN checkpoint"
        )
    zero3 = is_deepspeed_zero3_enabled()
    if zero3:
        import deepspeed

        # ZeRO-3 divides the weights while they are loaded. On a CPU the Trainer's arguments have joined the processes
        # for torch by then, but not yet for DeepSpeed.
        deepspeed.init_distributed()
    model = PGNForConditionalGeneration.from_pretrained(source, **kwargs)
    if zero3:
        # Here transformers (5.23) notes renamings of old checkpoints that it did not use, and would save those names.
        vars(model).pop("_weight_conversions", None)
    processor = PGNProcessor.from_pretrained(source)
    processor.check_model(model.config)
    logger.info("weights: %s %s", "resumed from" if resume else "pretrained, from", source)
    return model, processor


def parameter_table(model: PreTrainedModel) -> str:
    """Trainable and frozen parameters, module by module."""
    rows = []
    for name, module in [*model.model.named_children(), ("lm_head", model.lm_head)]:
        counts = [sum(p.numel() for p in module.parameters() if p.requires_grad is kept) for kept in (True, False)]
        rows.append((name, *counts))
    rows.append(("total", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    lines = [f"{'module':<16} {'trainable':>15} {'frozen':>15}"]
    return "\n".join(lines + [f"{name:<16} {trainable:>15,} {frozen:>15,}" for name, trainable, frozen in rows])


def make_output_dir(args: TrainingArguments):
    """Create the run's folder on the first rank."""
    if args.should_save:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)

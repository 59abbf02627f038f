"""Train PGN to navigate, on a folder of episodes.

    # the tiny model in the built-in houses, on a laptop (after `pgn episodes generate`)
    accelerate launch --cpu train_vln.py recipes/vln_one_room.yaml

    # command-line values win over the recipe
    accelerate launch train_vln.py recipes/vln_one_room.yaml --learning_rate 1e-4 --report_to wandb

    # eight devices with DeepSpeed ZeRO-2
    torchrun --nproc_per_node 8 train_vln.py recipes/vln_one_room.yaml --deepspeed ds_configs/zero2.json

    # go on after an interruption
    accelerate launch train_vln.py recipes/vln_one_room.yaml --resume_from_checkpoint last

The run directory (`output_dir`) then holds the model with its code and processor, checkpoints, `recipe.yaml` (the
arguments as run), `versions.json`, `metrics.jsonl`, TensorBoard events, and a model card.
"""

import logging

import torch
from transformers import set_seed

from pgn_vln.arguments import parse_arguments, plain_errors
from pgn_vln.data.builder import load_windows
from pgn_vln.data.collator import NavigationCollator
from pgn_vln.data.transform import EpochCallback
from pgn_vln.training.accuracy import ActionAccuracy, predicted_ids
from pgn_vln.training.arguments import DataArguments, ModelArguments, VLNTrainingArguments
from pgn_vln.training.loading import find_resume, load_model, make_output_dir, parameter_table
from pgn_vln.training.loss import ActionWeightedLoss, parse_action_weights
from pgn_vln.training.preemption import SaveOnSigterm
from pgn_vln.training.record import MetricsFile, write_run
from pgn_vln.training.trainer import NavigationTrainer

logger = logging.getLogger("train_vln")


def main():
    """Parse, load, train, save."""
    ################
    # Arguments
    ################
    model_args, data_args, training_args = parse_arguments((ModelArguments, DataArguments, VLNTrainingArguments))
    logging.basicConfig(
        level=logging.INFO if training_args.should_log else logging.WARNING, format="%(name)s: %(message)s"
    )
    set_seed(training_args.seed)

    ################
    # Model
    ################
    resume = find_resume(training_args.resume_from_checkpoint, training_args.output_dir)
    model, processor = load_model(
        model_args.model_name_or_path, resume, attn_implementation=model_args.attn_implementation
    )
    model.config.navigation = data_args.navigation_settings(model.config.navigation)
    model.config.check()
    prompt = processor.navigation_prompt(model.config.navigation)
    weights = parse_action_weights(data_args.action_weights) if data_args.action_weights else None

    ################
    # Data
    ################
    with training_args.main_process_first(desc="building windows"):
        settings = data_args.window_settings()
        train_windows = load_windows(
            data_args.train_dir,
            **settings,
            image_root=data_args.image_root,
            windows=data_args.windows,
            history_noise=data_args.history_noise,
            seed=training_args.seed,
        )
        eval_windows = None
        if data_args.eval_dir:
            eval_windows = load_windows(data_args.eval_dir, **settings, image_root=data_args.eval_image_root)

    ################
    # Training
    ################
    logger.info("parameters\n%s", parameter_table(model))
    make_output_dir(training_args)
    sigterm = SaveOnSigterm()
    trainer = NavigationTrainer(
        model=model,
        args=training_args,
        train_dataset=train_windows,
        eval_dataset=eval_windows,
        data_collator=NavigationCollator(processor, prompt, data_args.max_length),
        processing_class=processor,
        compute_loss_func=ActionWeightedLoss(prompt, weights) if weights else None,
        compute_metrics=ActionAccuracy(prompt),
        preprocess_logits_for_metrics=predicted_ids,
        callbacks=[MetricsFile(), sigterm],
        card={
            "base": model_args.model_name_or_path,
            "data": data_args.train_dir,
            "windows": len(train_windows),
            "navigation": model.config.navigation,
        },
    )
    if data_args.windows == "random":
        trainer.add_callback(EpochCallback(train_windows))
    if training_args.should_save:
        write_run(training_args.output_dir, model_args, data_args, training_args)
    trainer.train(resume_from_checkpoint=resume)

    ################
    # Save and push
    ################
    if not sigterm.stopped:
        if eval_windows is not None:
            trainer.evaluate()
        trainer.save_model()
        trainer.create_model_card()
        if training_args.push_to_hub:
            trainer.push_to_hub()
        logger.info("wrote %s; next: pgn evaluate vln --model %s", *2 * [training_args.output_dir])
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with plain_errors():
        main()

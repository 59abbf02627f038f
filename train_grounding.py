"""Teach a PGN, from random weights, what is where: the base that navigation starts from.

    pgn new --out runs/base/new
    accelerate launch --cpu train_grounding.py recipes/grounding_tiny.yaml

    # go on after an interruption
    accelerate launch --cpu train_grounding.py recipes/grounding_tiny.yaml --resume_from_checkpoint last

Views of houses of the training split are rendered while it trains, new ones all the time; validation and test houses
are never seen. ``make base`` does all of it and writes `checkpoints/pgn-tiny-base`.
"""

import logging

from transformers import set_seed

from pgn_vln.arguments import parse_arguments, plain_errors
from pgn_vln.data.grounding import GroundingCollator, GroundingViews
from pgn_vln.navigation.views import HouseViews
from pgn_vln.training.accuracy import predicted_ids
from pgn_vln.training.arguments import ModelArguments, VLNTrainingArguments
from pgn_vln.training.grounding import (
    AnswerAccuracy,
    GroundingArguments,
    GroundingTrainer,
    SaveByTheClock,
    add_heads,
    remove_heads,
    write_card,
)
from pgn_vln.training.loading import find_resume, load_model, make_output_dir, parameter_table
from pgn_vln.training.preemption import SaveOnSigterm
from pgn_vln.training.record import MetricsFile, write_run

logger = logging.getLogger("train_grounding")


def main():
    """Parse, load, train, save."""
    model_args, grounding_args, training_args = parse_arguments(
        (ModelArguments, GroundingArguments, VLNTrainingArguments)
    )
    logging.basicConfig(
        level=logging.INFO if training_args.should_log else logging.WARNING, format="%(name)s: %(message)s"
    )
    set_seed(training_args.seed)

    ################
    # Model
    ################
    resume = find_resume(training_args.resume_from_checkpoint, training_args.output_dir)
    model, processor = load_model(model_args.model_name_or_path, attn_implementation=model_args.attn_implementation)
    model.config.navigation = {**model.config.navigation, "hfov_degrees": grounding_args.hfov_degrees}
    # A checkpoint holds the heads too; the Trainer loads it when it resumes.
    add_heads(model)

    ################
    # Data
    ################
    per_step = (
        training_args.per_device_train_batch_size
        * training_args.gradient_accumulation_steps
        * training_args.world_size
    )
    views = {
        split: GroundingViews(
            HouseViews(
                tuple(grounding_args.levels),
                split,
                grounding_args.views_per_house,
                seed=training_args.seed,
                image_size=model.config.vision_config.image_size,
                hfov_degrees=grounding_args.hfov_degrees,
            ),
            houses,
        )
        for split, houses in (("train", training_args.max_steps * per_step), ("val", grounding_args.eval_houses))
    }

    ################
    # Training
    ################
    logger.info("parameters\n%s", parameter_table(model))
    make_output_dir(training_args)
    metrics, sigterm = MetricsFile(), SaveOnSigterm()
    trainer = GroundingTrainer(
        model=model,
        args=training_args,
        train_dataset=views["train"],
        eval_dataset=views["val"],
        data_collator=GroundingCollator(processor, model.config.vision_config.patch_size),
        processing_class=processor,
        compute_metrics=AnswerAccuracy(processor.tokenizer),
        preprocess_logits_for_metrics=predicted_ids,
        callbacks=[metrics, SaveByTheClock(grounding_args.save_minutes), sigterm],
        patch_loss=grounding_args.patch_loss,
        strip_loss=grounding_args.strip_loss,
    )
    if training_args.should_save:
        write_run(training_args.output_dir, model_args, grounding_args, training_args)
    trainer.train(resume_from_checkpoint=resume)
    if sigterm.stopped:
        return
    trainer.evaluate()

    ################
    # Save
    ################
    remove_heads(model)
    trainer.save_model()
    if training_args.should_save:
        steps = trainer.state.global_step
        minutes = metrics.seconds() / 60
        write_card(model, grounding_args, training_args.output_dir, steps * per_step, steps=steps, minutes=minutes)
    logger.info("wrote %s; next: pgn evaluate grounding --model %s", *2 * [training_args.output_dir])


if __name__ == "__main__":
    with plain_errors():
        main()

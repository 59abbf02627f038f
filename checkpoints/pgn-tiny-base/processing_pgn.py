"""Processor of PGN: image processor, tokenizer, and the expansion of image placeholders."""

from transformers import ProcessorMixin

from .prompting_pgn import IMAGE_TOKEN, SPECIAL_TOKENS, NavigationPrompt


class PGNProcessor(ProcessorMixin):
    r"""Frames and text to model inputs.

    Called like any processor (``processor(images=…, text="<|image|>\nWhat is here?", return_tensors="pt")``); each
    ``<|image|>`` becomes ``num_query_tokens`` placeholders. Navigation prompts come from `navigation_prompt`.

    Args:
        image_processor: a `PGNImageProcessor`.
        tokenizer: any tokenizer; the four special tokens are added where it lacks them.
        num_query_tokens: must equal the model's.

    Raises:
        ValueError: the tokenizer has no eos, or its eos is its pad: a model trained with it could never stop.
    """

    def __init__(self, image_processor=None, tokenizer=None, num_query_tokens: int = 32, chat_template=None, **kwargs):
        if tokenizer is not None:
            _check_eos(tokenizer)
            missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
            if missing:
                tokenizer.add_tokens(missing, special_tokens=True)
            self.image_token = IMAGE_TOKEN
            self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.num_query_tokens = num_query_tokens
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        """What stands in the text for one image: a placeholder per query token."""
        return self.image_token * self.num_query_tokens

    def navigation_prompt(self, navigation: dict) -> NavigationPrompt:
        """The prompt of ``config.navigation``, over this processor's tokenizer."""
        return NavigationPrompt(
            self.tokenizer, self.num_query_tokens, navigation["prompt_layout"], navigation["turn_degrees"]
        )

    def check_model(self, config):
        """Refuse a processor that does not belong to a model.

        Raises:
            ValueError: names the field, both values, and what to do.
        """
        pairs = [
            ("num_query_tokens", self.num_query_tokens, config.num_query_tokens),
            ("image size", self.image_processor.size["height"], config.vision_config.image_size),
        ]
        for token, field in zip(SPECIAL_TOKENS, config.special_token_fields(), strict=True):
            pairs.append((field, self.tokenizer.convert_tokens_to_ids(token), getattr(config, field)))
        for field, ours, theirs in pairs:
            if ours != theirs:
                raise ValueError(
                    f"processor and model do not belong together: {field} is {ours} in the processor and {theirs} "
                    "in the model's config; load both from the same folder, or set them alike"
                )
        eos = config.text_config.eos_token_id
        if self.tokenizer.eos_token_id not in (eos if isinstance(eos, list) else [eos]):
            raise ValueError(
                f"the tokenizer's eos is {self.tokenizer.eos_token!r} (id {self.tokenizer.eos_token_id}), but "
                f"text_config.eos_token_id is {eos}: the model would be trained to end with one and wait for the "
                "other; load the tokenizer with from_pretrained, so that tokenizer_config.json is read"
            )
        if len(self.tokenizer) > config.text_config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(self.tokenizer)} tokens, the model {config.text_config.vocab_size} rows "
                "(text_config.vocab_size); extend the model with resize_token_embeddings"
            )


def _check_eos(tokenizer):
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if eos is None or eos == pad:
        raise ValueError(
            f"the tokenizer's eos is {tokenizer.eos_token!r} (id {eos}), its pad {tokenizer.pad_token!r} (id {pad}): "
            "a model whose eos is missing or masked as padding never learns to stop; load the tokenizer with "
            "from_pretrained, so that tokenizer_config.json is read, and set two different tokens"
        )

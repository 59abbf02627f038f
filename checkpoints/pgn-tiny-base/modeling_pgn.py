"""PGN: frames -> vision tower -> Q-Former -> projector -> the embeddings a causal language model reads.

Shape suffixes: B batch, F frames of the batch, P placeholder groups, N vision tokens of a frame, Q queries of a frame,
L sequence, D width (of the vision tower Dv, of the Q-Former Dq, of the language model D).
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModel, Blip2QFormerModel, Blip2VisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_pgn import PGNConfig
from .modeling_openpangu import OpenPanguModel
from .navigator_pgn import PGNNavigator

REMOTE_CLASS = "modeling_pgn.PGNForConditionalGeneration"
VISUAL_INPUTS = ("pixel_values", "vision_features", "image_features", "frame_index")


@dataclass
class PGNModelOutputWithPast(BaseModelOutputWithPast):
    """Output of `PGNModel`; ``image_features [F, Q, D]`` can be handed back to spare the vision side."""

    image_features: torch.FloatTensor | None = None


@dataclass
class PGNCausalLMOutputWithPast(CausalLMOutputWithPast):
    """Output of `PGNForConditionalGeneration`; ``image_features [F, Q, D]`` can be handed back."""

    image_features: torch.FloatTensor | None = None


class PGNQueryTokens(nn.Module):
    """The learned queries. A module of their own, since a bare parameter is not saved in a PEFT adapter."""

    def __init__(self, num_query_tokens: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, num_query_tokens, width))

    def forward(self, num_frames: int) -> torch.Tensor:
        """The queries of each frame, ``[F, Q, Dq]``."""
        return self.weight.expand(num_frames, -1, -1)


class PGNProjector(nn.Module):
    """``mlp2x_gelu``: Linear, GELU, Linear, with biases, from the Q-Former's width to the language model's."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int):
        super().__init__()
        self.linear_1 = nn.Linear(input_size, hidden_size)
        self.act = nn.GELU()
        self.linear_2 = nn.Linear(hidden_size, output_size)

    def forward(self, query_output_FQD: torch.Tensor) -> torch.Tensor:
        """``[F, Q, Dq]`` to ``[F, Q, D]``."""
        return self.linear_2(self.act(self.linear_1(query_output_FQD)))


class PGNPreTrainedModel(PreTrainedModel):
    """What the PGN models share: initialisation, and what attention and checkpointing they support."""

    config: PGNConfig
    config_class = PGNConfig
    base_model_prefix = "model"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = False

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, PGNQueryTokens):
            # transformers starts them at zero, which no gradient could tell apart.
            init.normal_(module.weight, mean=0.0, std=self.config.initializer_range)


class PGNModel(PGNPreTrainedModel):
    """Vision tower, Q-Former, projector and the language model's backbone; no head."""

    def __init__(self, config: PGNConfig):
        super().__init__(config)
        if str(config.qformer_config._attn_implementation).startswith("flash"):
            config.qformer_config._attn_implementation = "sdpa"  # The Q-Former has no flash attention.
        self.vision_tower = Blip2VisionModel._from_config(config.vision_config)
        # LAVIS normalises the ViT's output with torch's default eps, not with that of the ViT's own layers.
        self.vision_tower.post_layernorm.eps = 1e-5
        self.query_tokens = PGNQueryTokens(config.num_query_tokens, config.qformer_config.hidden_size)
        self.qformer = Blip2QFormerModel._from_config(config.qformer_config)
        sizes = {name: size for name, size in config.projector.items() if name != "type"}
        self.projector = PGNProjector(**sizes)
        if config.text_config.model_type == "PanguEmbedded":
            self.language_model = OpenPanguModel._from_config(config.text_config)
        else:
            self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the language model's token embeddings."""
        self.language_model.set_input_embeddings(value)

    def get_image_features(
        self,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Projected features of frames.

        Args:
            pixel_values: ``[F, 3, H, W]``, as the image processor gives them.
            vision_features: ``[F, N, Dv]``, the vision tower's output, instead of ``pixel_values``.

        Returns:
            ``[F, Q, D]``.
        """
        if vision_features is None:
            vision_features = self.vision_tower(pixel_values=pixel_values).last_hidden_state
        query_FQD = self.query_tokens(vision_features.shape[0])
        output_FQD = self.qformer(query_embeds=query_FQD, encoder_hidden_states=vision_features).last_hidden_state
        return self.projector(output_FQD.to(self.projector.linear_1.weight.dtype))

    def _place(self, inputs_embeds_BLD, input_ids_BL, image_features_FQD, frame_index_P):
        """Put the features of each frame where its placeholders stand."""
        if frame_index_P is not None:
            image_features_FQD = image_features_FQD[frame_index_P]
        mask_BL = input_ids_BL == self.config.image_token_id
        groups, queries = image_features_FQD.shape[:2]
        placeholders = int(mask_BL.sum())
        if placeholders != groups * queries:
            raise ValueError(
                f"input_ids hold {placeholders} image placeholders (id {self.config.image_token_id}), but {groups} "
                f"frame references of {queries} query tokens need {groups * queries}; build the prompt with a "
                "processor of the same num_query_tokens, and pass one frame (or frame_index entry) a placeholder group"
            )
        features = image_features_FQD.to(inputs_embeds_BLD)
        return inputs_embeds_BLD.masked_scatter(mask_BL[..., None], features)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        frame_index: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs,
    ) -> PGNModelOutputWithPast:
        """Hidden states ``[B, L, D]`` of sequences with frames in them.

        Args:
            input_ids: ``[B, L]`` with one image placeholder per query token; or ``inputs_embeds`` without frames.
            pixel_values: ``[F, 3, H, W]``, all frames of the batch in reading order, no padding frames.
            vision_features: ``[F, N, Dv]``, the vision tower's output, instead.
            image_features: ``[F, Q, D]``, projected features, instead.
            frame_index: ``[P]``, the frame of each placeholder group in reading order, so that a frame that several
                windows share is encoded once; by default group p shows frame p.
            attention_mask, position_ids, past_key_values, kwargs: as for the language model.

        Raises:
            ValueError: the number of placeholders is not P * Q; more than one form of frames; frames without ids.
        """
        given = [x for x in (pixel_values, vision_features, image_features) if x is not None]
        if len(given) > 1:
            raise ValueError("give frames as one of pixel_values, vision_features and image_features, not several")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if given and input_ids is None:
            raise ValueError("frames need input_ids, whose placeholders say where they belong; got inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            # Placeholders with no frames at all would be read as text: that is never meant.
            if given or (past_key_values is None and bool((input_ids == self.config.image_token_id).any())):
                if image_features is None:
                    if not given:
                        count = int((input_ids == self.config.image_token_id).sum())
                        raise ValueError(f"input_ids hold {count} image placeholders, but 0 frames were given")
                    image_features = self.get_image_features(pixel_values, vision_features)
                inputs_embeds = self._place(inputs_embeds, input_ids, image_features, frame_index)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        return PGNModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_features=image_features,
        )


class PGNForConditionalGeneration(PGNPreTrainedModel, GenerationMixin):
    """PGN with its language-model head: trains, generates, and gives a navigator."""

    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: PGNConfig):
        super().__init__(config)
        self.model = PGNModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        # Language models call their embeddings by different names.
        embeddings = self.get_input_embeddings()
        name = next(name for name, module in self.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"{name}.weight"}
        self.post_init()
        # An answer ends with eos or, in the midst of a stream, with <|frame_sep|>.
        eos = config.text_config.eos_token_id
        ends = [eos] if isinstance(eos, int) else list(eos or [])
        self.generation_config.eos_token_id = [*ends, config.frame_sep_token_id]
        self.generation_config._from_model_config = False

    def get_input_embeddings(self) -> nn.Module:
        """The language model's token embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the language model's token embeddings."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The head that reads `PGNModel`'s ``last_hidden_state``."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module):
        """Replace the head."""
        self.lm_head = new_embeddings

    def get_image_features(self, pixel_values=None, vision_features=None) -> torch.Tensor:
        """Projected features ``[F, Q, D]``; see `PGNModel.get_image_features`."""
        return self.model.get_image_features(pixel_values, vision_features)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        pixel_values: torch.Tensor | None = None,
        vision_features: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        frame_index: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> PGNCausalLMOutputWithPast:
        """Logits ``[B, L, vocabulary]`` and, with ``labels [B, L]`` (-100 where unsupervised), the mean loss.

        ``logits_to_keep`` computes the head for the last positions (or those of an index tensor) only. The other
        arguments, and the errors, are those of `PGNModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            pixel_values=pixel_values,
            vision_features=vision_features,
            image_features=image_features,
            frame_index=frame_index,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
        hidden = outputs.last_hidden_state[:, kept] if not isinstance(kept, int) else outputs.last_hidden_state
        logits = self.lm_head(hidden)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size, **kwargs
            )
        return PGNCausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_features=outputs.image_features,
        )

    def prepare_inputs_for_generation(
        self, input_ids, past_key_values=None, inputs_embeds=None, is_first_iteration=False, **kwargs
    ):
        """Frames are read once, with the prompt; after that they live in the cache."""
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in VISUAL_INPUTS:
                kwargs.pop(name, None)
        return super().prepare_inputs_for_generation(
            input_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """Beams repeat a *sample's* frames, which the mixin, repeating every row in place, would interleave."""
        visual = {name: model_kwargs.pop(name) for name in VISUAL_INPUTS if name in model_kwargs}
        frame_index = visual.get("frame_index")
        has_frames = any(visual.get(name) is not None for name in VISUAL_INPUTS[:3])
        if expand_size > 1 and has_frames:
            groups_B = (input_ids == self.config.image_token_id).sum(1) // self.config.num_query_tokens
            if frame_index is None:
                frame_index = torch.arange(int(groups_B.sum()), device=input_ids.device)
            by_sample = frame_index.split(groups_B.tolist())
            visual["frame_index"] = torch.cat([index.repeat(expand_size) for index in by_sample])
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **visual}

    def save_pretrained(self, save_directory, **kwargs):
        """Save weights, config and code; every Auto class that fits then finds the code."""
        # register_for_auto_class holds one name only; AutoModelForCausalLM is where TRL looks last.
        names = ("AutoModel", "AutoModelForImageTextToText", "AutoModelForCausalLM")
        auto_map = getattr(self.config, "auto_map", None) or {}
        self.config.auto_map = {**auto_map, **dict.fromkeys(names, REMOTE_CLASS)}
        return super().save_pretrained(save_directory, **kwargs)

    def navigator(self, processor) -> PGNNavigator:
        """An agent that acts with this model: ``reset(instruction)``, then ``act(frame)`` for every frame."""
        return PGNNavigator(self, processor)

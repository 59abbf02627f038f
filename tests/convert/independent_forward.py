"""A whole forward of the original system, written again over its own tensors: no class of ours, none of transformers.

EVA ViT (BEiT-style: no key bias, pre-norm), Q-Former (BERT with queries, post-norm, cross-attention where it has
weights), the projector, and openPangu (Llama with biases on q, k, v and o; grouped keys; rotary positions).
"""

import math

import torch
from torch.nn.functional import cross_entropy, embedding, gelu, layer_norm, linear, silu


def attention(query, key, value, heads, causal=False):
    """``[B, L, D]`` each; keys may have another length, and be fewer heads, each serving several queries'."""
    query, key, value = (x.unflatten(-1, (-1, query.shape[-1] // heads)).transpose(1, 2) for x in (query, key, value))
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def norm(x, state, name, eps):
    return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def dense(x, state, name):
    return linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))


def vit(state, pixels, heads):
    """``[F, 3, H, W]`` to ``[F, N, D]``, the norm behind it included."""
    p = "visual_encoder."
    weight = state[p + "patch_embed.proj.weight"]
    side = weight.shape[-1]
    patches = pixels.unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    x = patches @ weight.flatten(1).T + state[p + "patch_embed.proj.bias"]
    x = torch.cat([state[p + "cls_token"].expand(len(x), -1, -1), x], 1) + state[p + "pos_embed"]
    for i in range(sum(name.endswith("attn.q_bias") for name in state)):
        b = f"{p}blocks.{i}."
        h = norm(x, state, b + "norm1", 1e-6)
        q, k, v = (h @ state[b + "attn.qkv.weight"].T).chunk(3, -1)
        h = attention(q + state[b + "attn.q_bias"], k, v + state[b + "attn.v_bias"], heads)
        x = x + dense(h, state, b + "attn.proj")
        h = gelu(dense(norm(x, state, b + "norm2", 1e-6), state, b + "mlp.fc1"))
        x = x + dense(h, state, b + "mlp.fc2")
    return norm(x, state, "ln_vision", 1e-5)


def qformer(state, tokens, heads):
    """``[F, N, Dv]`` to ``[F, Q, Dq]``."""
    p = "Qformer.bert."
    x = norm(state["query_tokens"].expand(len(tokens), -1, -1), state, p + "embeddings.LayerNorm", 1e-12)
    for i in range(sum(name.endswith("intermediate_query.dense.weight") for name in state)):
        b = f"{p}encoder.layer.{i}."
        for block, seen in (("attention", None), ("crossattention", tokens)):
            if f"{b}{block}.self.query.weight" not in state:
                continue
            seen = x if seen is None else seen
            q, k, v = (
                dense(y, state, f"{b}{block}.self.{n}") for y, n in ((x, "query"), (seen, "key"), (seen, "value"))
            )
            h = dense(attention(q, k, v, heads), state, f"{b}{block}.output.dense")
            x = norm(h + x, state, f"{b}{block}.output.LayerNorm", 1e-12)
        h = dense(gelu(dense(x, state, b + "intermediate_query.dense")), state, b + "output_query.dense")
        x = norm(h + x, state, b + "output_query.LayerNorm", 1e-12)
    return x


def language(state, x, heads, theta, eps=1e-5):
    """Logits ``[B, L, V]`` of embeddings ``[B, L, D]``."""
    half = x.shape[-1] // heads // 2
    angles = torch.arange(x.shape[1])[:, None] * theta ** (-torch.arange(half) / half)
    cos, sin = angles.cos(), angles.sin()

    def rms(x, name):
        return x * (x.pow(2).mean(-1, keepdim=True) + eps).rsqrt() * state[f"{name}.weight"]

    def rotate(x):
        first, second = x.unflatten(-1, (-1, 2, half)).unbind(-2)
        c, s = cos[:, None], sin[:, None]
        return torch.stack([first * c - second * s, second * c + first * s], -2).flatten(-3)

    for i in range(sum(name.endswith("q_proj.weight") for name in state)):
        b = f"model.layers.{i}."
        h = rms(x, b + "input_layernorm")
        q, k, v = (dense(h, state, f"{b}self_attn.{n}_proj") for n in "qkv")
        h = attention(rotate(q), rotate(k), v, heads, causal=True)
        x = x + dense(h, state, b + "self_attn.o_proj")
        h = rms(x, b + "post_attention_layernorm")
        x = x + dense(silu(dense(h, state, b + "mlp.gate_proj")) * dense(h, state, b + "mlp.up_proj"), state,
                      b + "mlp.down_proj")  # fmt: skip
    return dense(rms(x, "model.norm"), state, "lm_head")


def window_loss(state, pixels, pieces, answer, heads, theta):
    """Mean loss of an answer behind a prompt.

    Args:
        state: tensors of the original ``.pth``.
        pixels: ``[F, 3, H, W]``.
        pieces: token ids before, between and behind the frames; ``F + 1`` lists.
        answer: token ids, eos included.
        heads: of ViT, Q-Former and language model.
    """

    def part(prefix):
        return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}

    vision, llm = part("vision_frontend."), part("llm.")
    features = qformer(vision, vit(vision, pixels, heads[0]), heads[1])
    features = dense(gelu(dense(features, state, "pangu_proj.0")), state, "pangu_proj.2")
    table = llm["model.embed_tokens.weight"]
    rows = [embedding(torch.tensor(pieces[0]), table)]
    for frame, ids in zip(features, [*pieces[1:-1], [*pieces[-1], *answer]], strict=True):
        rows += [frame, embedding(torch.tensor(ids), table)]
    logits = language(llm, torch.cat(rows)[None], heads[2], theta)[0]
    return cross_entropy(logits[-len(answer) - 1 : -1], torch.tensor(answer))

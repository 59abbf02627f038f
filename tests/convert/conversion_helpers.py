"""Sizes that the tiny models of these tests share."""

HEADS = ("--vision_heads", "4", "--qformer_heads", "4")
TEXT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}

"""Small encoders written by the torch BERT and MPNet of transformers, each with a tokenizer."""

import json

import numpy as np

# fmt: off
WORDS = [
    "a", "the", "red", "blue", "circle", "square", "dog", "cat", "on", "grass", "above", "##s",
    "##ing", "run", "two", "three", ".", ",", "!", "?", "'", "caf", "##e",
]
# fmt: on
SPECIAL_TOKENS = {
    "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
    "mpnet": ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"],
}
TEXTS = [
    "a red circle above the blue square",
    "two dogs running on grass.",
    "",
    "the cat",
    "Café, zebra!",
    "red " * 40,
]


def sizes(name, **changes):
    """Keyword arguments of both configs; MPNet has two rows of positions more than tokens."""
    return {
        "vocab_size": len(SPECIAL_TOKENS[name]) + len(WORDS),
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 80,
        "max_position_embeddings": 64 + 2 * (name == "mpnet"),
        "layer_norm_eps": 1e-12 if name == "bert" else 1e-5,
    } | changes


def write_encoder(torch, name, folder, with_head=False, **changes):
    """Writes weights, ``config.json`` and ``vocab.txt``; returns torch's model.

    Args:
      name: ``bert`` or ``mpnet``.
      folder: to write to.
      with_head: with the head for masked words, and so with the model's prefix in every name.
      changes: to ``sizes``.
    """
    import transformers

    family = {"bert": "Bert", "mpnet": "MPNet"}[name]
    config = getattr(transformers, f"{family}Config")(**sizes(name, **changes))
    model_class = f"{family}ForMaskedLM" if with_head else f"{family}Model"
    model = getattr(transformers, model_class)(config).eval()

    # Values of such sizes that every part of the network matters.
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, leaf in model.named_parameters():
            values = torch.randn(leaf.shape, generator=generator)
            if "LayerNorm" in path:
                values = 0.1 * values + float(path.endswith("weight"))
            elif leaf.ndim > 1 and "embedding" not in path and "relative" not in path:
                values = values * leaf[0].numel() ** -0.5
            elif leaf.ndim == 1:
                values = 0.1 * values
            leaf.copy_(values)

    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS[name], *WORDS]) + "\n", "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}), "utf-8")
    return model.base_model


def torch_states(torch, model, rows, pad):
    """Last states of each row, without its padding, from one padded batch."""
    width = max(map(len, rows))
    tokens = np.full((len(rows), width), pad, np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = 1

    with torch.no_grad():
        states = model(
            input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask)
        ).last_hidden_state
    return [state[: len(row)].numpy() for state, row in zip(states, rows, strict=True)]

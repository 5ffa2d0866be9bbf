"""A folder with the smallest OWLv2 of random weights, as transformers writes and reads it."""

from __future__ import annotations


def write_tiny_owlv2(folder):
    """Writes model, tokenizer and image processor; returns the folder."""
    import torch
    from transformers import (
        CLIPTokenizer,
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessorPil,
        Owlv2Processor,
    )

    from corl_jax.reward_models.clip.tokenizer import byte_vocabulary

    vocabulary, merges = byte_vocabulary()
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="!",
        model_max_length=64,
    )
    tower = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = Owlv2Config(
        text_config=tower | {"vocab_size": len(tokenizer), "max_position_embeddings": 64},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    images = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    Owlv2Processor(images, tokenizer).save_pretrained(folder)
    return folder

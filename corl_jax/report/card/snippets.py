"""Code of a card: how the folder it lies in is used, by layout."""

from __future__ import annotations

import json

from corl_jax.porting.policy_source import TINY
from corl_jax.report.card.facts import CardFacts
from corl_jax.report.card.markdown import Markdown, code_block

CORL_JAX = """\
from corl_jax import Policy

policy = Policy.load({name})
images = policy.generate(["a red circle left of a blue square"], samples=4, seed=0{guidance})
print(policy.answer([images[0, 0]], ["what colour is the circle?"]))  # uint8 [1, 4, H, W, 3]
"""

TRANSFORMERS = """\
from transformers import JanusForConditionalGeneration, JanusProcessor
{imports}
processor = JanusProcessor.from_pretrained({base})
model = JanusForConditionalGeneration.from_pretrained({base})
{adapters}
# A question about a picture.
parts = [
    {{"type": "image", "url": "picture.jpg"}},
    {{"type": "text", "text": "what colour is the circle?"}},
]
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": parts}}],
    add_generation_prompt=True,
    generation_mode="text",
    tokenize=True,
    return_dict=True,
    return_tensors="pt",
)
output = model.generate(**inputs, generation_mode="text", do_sample=False, max_new_tokens=64)
print(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

# A picture of a caption.
parts = [{{"type": "text", "text": "a red circle left of a blue square"}}]
prompt = processor.apply_chat_template(
    [{{"role": "user", "content": parts}}], add_generation_prompt=True
)
inputs = processor(text=prompt, generation_mode="image", return_tensors="pt")
image_tokens = model.generate(
    **inputs, generation_mode="image", do_sample=True, top_k=0{guidance}
)
pixels = (model.decode_image_tokens(image_tokens) + 1) / 2 * 255
pixels = pixels.clamp(0, 255).byte().numpy()  # uint8 [1, H, W, 3]
"""

CITATION = """\
@misc{jiang2025corl,
  title = {Co-Reinforcement Learning for Unified Multimodal Understanding and Generation},
  author = {Jingjing Jiang and Chongjie Si and Jun Luo and Hanwang Zhang and Chao Ma},
  year = {2025},
  eprint = {2505.17534},
  archivePrefix = {arXiv}
}
"""


def snippets(facts: CardFacts) -> list[tuple[Markdown, Markdown]]:
    """Pairs of a sentence and the code that it introduces."""
    name, scale = json.dumps(facts.name), facts.run.guidance if facts.run else None
    guidance = "" if scale is None else f", guidance={scale}"
    pairs = [("With corl_jax:", CORL_JAX.format(name=name, guidance=guidance))]
    guidance = "" if scale is None else f", guidance_scale={scale}"
    if facts.layout == "transformers":
        code = TRANSFORMERS.format(base=name, imports="", adapters="", guidance=guidance)
        pairs.append(("With transformers:", code))
    elif facts.layout == "adapters":
        # The base that comes with the package is a folder once it is exported.
        base = "base" if facts.base_policy == TINY else facts.base_policy
        first = f" (after `corl export --policy {TINY} --out base`)" if base == "base" else ""
        code = TRANSFORMERS.format(
            base=json.dumps(base),
            imports="from peft import PeftModel\n",
            adapters=f"model = PeftModel.from_pretrained(model, {name})\n",
            guidance=guidance,
        )
        pairs.append((f"With transformers and peft{first}:", code))
    return [
        (Markdown(text.replace("_", r"\_")), code_block(code, "python")) for text, code in pairs
    ]

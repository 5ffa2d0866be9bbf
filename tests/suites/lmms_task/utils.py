"""Functions of the local tasks of lmms-eval; it imports this file by itself."""

import io
import json
import re

from PIL import Image


def pictures(doc):
    return [Image.open(io.BytesIO(picture)).convert("RGB") for picture in doc["pictures"]]


def question(doc):
    return doc["question"]


def choices(doc):
    return json.loads(doc["choices"])


def right_choice(doc):
    return choices(doc).index(doc["answer"])


def score(doc, results):
    """The text in the tags, or all of it, must be the answer."""
    match = re.search(r"<answer>(.*?)</answer>", results[0], re.DOTALL)
    said = match[1] if match else results[0]
    return {"correct": float(said.strip().lower() == doc["answer"].lower())}

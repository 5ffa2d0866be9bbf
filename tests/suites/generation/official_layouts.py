"""What the official judges read of a folder, as far as it does not need their models.

Facts of geneval's ``evaluate_images.py``, ELLA's ``compute_dpg_bench.py``, WISE's ``gpt_eval.py`` and
T2I-CompBench's ``BLIP_vqa.py`` and ``numeracy_eval.py``; they read everything that lies in the folder.
"""

from __future__ import annotations

import json
import os
import re

import numpy as np
from PIL import Image


def geneval_pictures(folder):
    """Metadata and pictures that ``evaluate_images.py`` would judge, by subfolder."""
    found = {}
    for name in os.listdir(folder):
        if not (folder / name).is_dir() or not name.isdigit():
            continue
        metadata = json.loads((folder / name / "metadata.jsonl").read_text("utf-8"))
        pictures = {}
        for picture in os.listdir(folder / name / "samples"):
            # It matches the beginning of a name, so that 0000.png.part would be judged as well.
            if re.match(r"\d+\.png", picture):
                path = folder / name / "samples" / picture
                pictures[picture] = np.asarray(Image.open(path).convert("RGB"))
        found[name] = (metadata, pictures)
    return found


def dpg_pictures(folder, resolution):
    """The four crops of every file of a folder, by ``item_id``."""
    found = {}
    for name in os.listdir(folder):
        image = Image.open(folder / name)
        corners = [(0, 0), (resolution, 0), (0, resolution), (resolution, resolution)]
        crops = [image.crop((x, y, x + resolution, y + resolution)) for x, y in corners]
        found[name.split(".")[0]] = np.stack([np.asarray(crop) for crop in crops])
    return found


def wise_picture(folder, prompt_id):
    """The picture of a prompt."""
    return np.asarray(Image.open(folder / f"{prompt_id}.png"))


def t2i_compbench_pictures(folder):
    """Number, prompt and picture of every file in the order of the numbers."""
    names = os.listdir(folder / "samples")
    names.sort(key=lambda name: int(name.split("_")[-1].split(".")[0]))
    found = []
    for name in names:
        number = int(name.split(".png")[0].split("_")[1])
        pixels = np.asarray(Image.open(folder / "samples" / name))
        found.append((number, name.split("_")[0], pixels))
    return found

"""What every small run reads: an untrained policy, a few records, and where programs are cached."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from helpers import dot_config, write_untrained_policy
from PIL import Image

from corl_jax.data.shapes.examples import example

ROOT = Path(__file__).resolve().parents[2]
"""The checkout that is tested."""

NUM_RECORDS = 24


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Files that the runs share; a run that changes one works on a copy of its own.

    Attributes:
      policy: a Hugging Face folder.
      other_policy: another one of the same size.
      records: a folder with ``train.jsonl`` and images.
      cache: of compiled programs.
    """

    policy: Path
    other_policy: Path
    records: Path
    cache: Path

    def environment(self) -> dict[str, str]:
        """Variables of a process that runs this checkout on one device."""
        return os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            "HF_HUB_OFFLINE": "1",
            # A run is mostly compilation: less effort on it, and every program kept.
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_COMPILATION_CACHE_MAX_SIZE": str(8 * 2**30),  # with a size JAX locks its files
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }


def write_inputs(folder: Path) -> Inputs:
    """Writes the inputs under ``folder``, which must not exist.

    Programs are cached there too, unless ``JAX_COMPILATION_CACHE_DIR`` names a folder that stays.
    """
    folder.mkdir(parents=True)
    policies = [
        write_untrained_policy(dot_config(), folder / f"policy_{seed}", seed) for seed in (0, 1)
    ]
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", folder / "compiled"))
    cache.mkdir(parents=True, exist_ok=True)
    return Inputs(*policies, write_records(folder / "records"), cache)


def write_records(folder: Path) -> Path:
    """The first open questions of the embedded world as a folder of records."""
    (folder / "images").mkdir(parents=True)
    lines: list[str] = []
    index = 0
    while len(lines) < NUM_RECORDS:
        record = example("train", index)
        index += 1
        if record.qa_type != "OE":
            continue
        image = f"images/{record.id}.png"
        Image.fromarray(record.image).save(folder / image)
        row = {
            "id": record.id,
            "prompt": record.prompt,
            "real_image": image,
            "qa_problem": record.question,
            "qa_solution": record.answer,
            "qa_type": record.qa_type,
        }
        lines.append(json.dumps(row) + "\n")
    (folder / "train.jsonl").write_text("".join(lines), "utf-8")
    return folder

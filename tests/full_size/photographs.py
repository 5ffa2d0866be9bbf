"""From photographs to training: prepared, then two steps of RL and of SFT at 384 pixels.

    PYTHONPATH=. python tests/full_size/photographs.py ../shared/data/photos [FOLDER]

The policy is a small random one with the image size of Janus-Pro.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile

from first_step import CONFIG, FLAGS, write_policy

from corl_jax.bench.workloads import DOT, MID

SFT_CONFIG = "from corl_jax.configs.cold_sft import get_config\n"
SFT_FLAGS = {
    "steps": 2,
    "hooks.sample_every": 0,
    "batch_size": 4,
    "sft.understanding_rows": 2,
    "sft.generation_prompt_length": 128,
    "sft.understanding_prompt_length": 1000,
    "sft.target_length": 160,
}
RL_FLAGS = {
    "rl.rollout.image_prompt_length": 128,
    "rl.rollout.text_prompt_length": 1000,
    "steps": 2,
}


def run(*command: object) -> None:
    """Runs a command and ends with it if it fails."""
    print("$", *command, flush=True)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, env=environment)


def main() -> None:
    """Runs everything once."""
    photos, parent = pathlib.Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        folder = pathlib.Path(temporary)
        # Images as large as those of Janus-Pro, everything else small.
        vision = dataclasses.replace(MID.vision, width=32)
        cfg = dataclasses.replace(DOT, vision=vision, image_tokenizer=MID.image_tokenizer)
        policy = write_policy(folder / "policy", cfg)
        rl, sft = folder / "rl.py", folder / "sft.py"
        rl.write_text(CONFIG)
        sft.write_text(SFT_CONFIG)

        for name in ("records.jsonl", "train-00000-of-00001.parquet"):
            data, flags = folder / f"prepared_{name}", {**FLAGS, **RL_FLAGS, "init_from": policy}
            changes = [f"config.{key}={value}" for key, value in flags.items()]
            settings = [word for change in changes for word in ("--set", change)]
            run("corl_jax.commands.cli", "prepare", photos / name, "--out", data)
            checked = (photos / name, "--out", f"{data}_checked", f"--config={rl}", *settings)
            run("corl_jax.commands.cli", "prepare", *checked)

            stages = ((rl, flags), (sft, {**SFT_FLAGS, "init_from": policy}))
            for config, values in stages:
                values = {**values, "data.source": data}
                words = [f"--config.{key}={value}" for key, value in values.items()]
                workdir = folder / f"{config.stem}_{name}"
                run("corl_jax.main", f"--config={config}", f"--workdir={workdir}", *words)
                print((workdir / "metrics.jsonl").read_text()[-400:], flush=True)


if __name__ == "__main__":
    main()

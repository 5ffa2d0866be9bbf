# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own data and your own reward
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/corl_jax/blob/main/notebooks/06_own_data_and_own_reward.ipynb)
#
# What to bring: pictures with captions and questions as one line of JSON each, and a function that gives a number to each
# sample. Here both are made in the notebook, one line is wrong on purpose, and a short training makes the policy do what
# the function pays for. It takes some minutes on two CPU cores.

# %%
# Installs corl_jax for the accelerator of this machine, unless it is installed already.
import glob
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/corl_jax"  # where there is neither checkout nor wheel


def extra_of_this_machine():
    """The extra with JAX for the TPU or GPU that is here, found without starting JAX."""
    if glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"):
        return "[tpu]"
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.partition(".")[0]
    # CUDA 13 needs driver 580. A plug-in of CUDA 12 that is here already is better renewed.
    is_new = driver.isdigit() and int(driver) >= 580
    has_cuda12 = importlib.util.find_spec("jax_cuda12_plugin") is not None
    return "" if not driver.isdigit() else "[cuda]" if is_new and not has_cuda12 else "[cuda12]"


if importlib.util.find_spec("corl_jax") is None:
    extra, wheels = extra_of_this_machine(), sorted(glob.glob("corl_jax*.whl"))
    source = f"corl_jax{extra} @ git+{REPOSITORY}"
    if os.path.isdir("../corl_jax"):
        source = f"{os.path.abspath('..')}{extra}"
    elif wheels:
        source = f"./{wheels[-1]}{extra}"
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "install", "-q", source], check=True)
    if "cuda" not in extra:  # Colab has a plug-in for GPUs without one, and of another jax
        plugins = ["jax-cuda12-plugin", "jax-cuda12-pjrt"]
        subprocess.run([*pip, "uninstall", "-q", "-y", *plugins], check=True)
    importlib.invalidate_caches()

# What was in memory before the installation stays there until the runtime starts again.
for name in ("numpy", "jax", "jaxlib", "flax"):
    version = importlib.metadata.version(name)
    if name in sys.modules and sys.modules[name].__version__ != version:
        raise SystemExit(
            f"{name} {version} is installed, but {sys.modules[name].__version__} is in memory: "
            "choose Runtime > Restart session, then Run all."
        )
print(f"corl_jax is installed, with jax {importlib.metadata.version('jax')}; go on")

# %%
import base64
import html
import io
import json
import os
import pathlib
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from PIL import Image, ImageDraw

STEPS = int(os.environ.get("CORL_NOTEBOOK_STEPS", 30))
FOLDER = pathlib.Path("runs/own")
DATA, WORKDIR = FOLDER / "data", FOLDER / "run"
DATA.mkdir(parents=True, exist_ok=True)


def run(*command):
    """Runs ``python -m COMMAND`` beside the files of this notebook, and shows what it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=FOLDER,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for line in process.stdout:
        print(line.decode().rstrip("\r\n").rpartition("\r")[2])
    return process.wait()


# %% [markdown]
# ## 1. Pictures and a table
#
# A picture is a file of any usual format and size. The shipped policy reads 60 words (colours, shapes, numbers, places), so
# the captions keep to them; a policy of your own, or `corl init`, reads any text.

# %%
COLOURS = {"red": "#d8322b", "green": "#23963a", "blue": "#2a54e0", "purple": "#7e22b4"}
generator = np.random.default_rng(0)
rows = []
for number in range(160):
    colour, shape = generator.choice(list(COLOURS)), generator.choice(["circle", "square"])
    picture = Image.new("RGB", (200, 200), "#f0f0f0")
    x, y = generator.integers(20, 110, 2)
    draw = ImageDraw.Draw(picture)
    corners = (x, y, x + 60, y + 60)
    (draw.ellipse if shape == "circle" else draw.rectangle)(corners, fill=COLOURS[colour])
    picture.save(DATA / f"{number:03}.png")
    rows.append(
        {
            "prompt": f"a {colour} {shape}",
            "real_image": f"{number:03}.png",
            "qa_problem": f"what colour is the {shape}?",
            "qa_solution": f"<answer>{colour}</answer>",
        }
    )


def write_table(rows):
    """One object a line: the columns are explained in docs/data.md."""
    (DATA / "train.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


write_table(rows)
print(json.dumps(rows[0], indent=1))
figure, panels = plt.subplots(1, 5, figsize=(9, 2.2), layout="constrained")
for axes, row in zip(panels, rows, strict=False):
    axes.imshow(Image.open(DATA / row["real_image"]))
    axes.set_title(row["prompt"], fontsize=10)
    axes.axis("off")
plt.show()

# %% [markdown]
# Other layouts give the same records: a folder of pictures with `NAME.txt` beside `NAME.jpg`, CSV, Parquet, and data sets of
# the Hugging Face hub, which are addressed as `hub:OWNER/NAME`. Columns with other names are flags:
#
# ```
# python -m corl_jax.main --config=my_config.py --config.data.source=hub:OWNER/NAME \
#     --config.data.columns.prompt=caption --config.data.columns.image=photo
# ```
#
# ## 2. A reward
#
# A function from the samples of a step to one number each. It sees the picture (`pixels`, uint8) or the `text`, and the
# record. This one pays for colour, whatever the caption. The config beside it starts
# from ours and says what differs.

# %%
(FOLDER / "my_rewards.py").write_text('''
import numpy as np


def colourful(completions, context):
    """How far the channels of a pixel lie apart, mean of all pixels times four, at most 1."""
    pictures = np.stack([completion.pixels for completion in completions]).astype(float) / 255
    return np.minimum(1, 4 * (pictures.max(-1) - pictures.min(-1)).mean((1, 2)))
''')
(FOLDER / "my_config.py").write_text("""
from corl_jax.configs import unified


def get_config(arg=None):
    c = unified.get_config(arg)
    c.data.source = "data"
    c.data.held_out = 0.25
    c.rewards.options.custom = ("my_rewards:colourful",)
    c.rewards.image = {"colourful": 1.0}
    c.evals.scoring = "rewards"
    c.evals.guidance_scales = (2.0,)
    c.evals.num_records = 8
    return c
""")
print((FOLDER / "my_config.py").read_text())

# %% [markdown]
# ## 3. What is wrong is said before the first step
#
# Three rows are broken on purpose: a picture that does not exist, an empty caption, and a question
# without an answer. The run ends before anything is compiled or written, and one message names them all.

# %%
broken = [dict(row) for row in rows]
broken[3]["real_image"] = "missing.png"
broken[12]["prompt"] = " "
del broken[20]["qa_solution"]
write_table(broken)

TRAIN = ("corl_jax.main", "--config=my_config.py", "--workdir=run", f"--config.steps={STEPS}")
code = run(*TRAIN)
print(f"\nexit code {code}; a work directory was written: {WORKDIR.exists()}")
assert code == 2

# %% [markdown]
# `--config.data.on_bad=drop` would take other rows in their place. Here the table is mended.
#
# ## 4. Train

# %%
write_table(rows)
code = run(*TRAIN)
assert code == 0

# %%
metrics = [json.loads(line) for line in (WORKDIR / "metrics.jsonl").read_text().splitlines()]
steps = [row["step"] for row in metrics]
figure, panels = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for axes, column, title, colour in (
    (panels[0], "image/reward/colourful", "the reward of this notebook", "#3f83f8"),
    (panels[1], "text/reward/accuracy", "right answers", "#22a99a"),
):
    axes.plot(steps, [row[column] for row in metrics], color=colour, linewidth=2)
    axes.set(xlabel="step", ylim=(0, 1.02))
    axes.set_title(title, fontsize=10)
panels[0].set_ylabel("mean of the samples of a step")
plt.show()
assert len(metrics) == STEPS

# %% [markdown]
# ## 5. Before and after
#
# Held-out captions, the same random keys. The reward does not read the caption, so nothing keeps the policy from filling
# pictures with shapes that were not asked for: it learns what is paid for, and only that. Whoever writes a reward should look
# at such a sheet first.

# %%
galleries = {
    moment: json.loads((WORKDIR / "samples" / f"gallery_{moment}.json").read_text())["prompts"]
    for moment in ("before", "after")
}
captions = min(4, len(galleries["before"]))
figure = plt.figure(figsize=(8, 1.35 * captions + 0.4), layout="constrained")
for line, caption_figure in enumerate(np.atleast_1d(figure.subfigures(captions, 1))):
    caption_figure.suptitle(galleries["before"][line]["prompt"], fontsize=10)
    panels = caption_figure.subplots(1, 9, width_ratios=[1, 1, 1, 1, 0.3, 1, 1, 1, 1])
    panels[4].axis("off")
    for start, moment in ((0, "before"), (5, "after")):
        for axes, picture in zip(panels[start:], galleries[moment][line]["pictures"], strict=False):
            axes.imshow(Image.open(io.BytesIO(base64.b64decode(picture["png"]))))
            axes.set(xticks=[], yticks=[], xlabel=moment if line == captions - 1 else "")
plt.show()

evaluation = json.loads((WORKDIR / "eval.json").read_text())
for name in evaluation["before"]:
    if "colourful" in name:
        before, after = (evaluation[moment][name]["value"] for moment in ("before", "after"))
        print(f"{name}, held out: {before:.2f} before, {after:.2f} after")

# %% [markdown]
# ## 6. The report
#
# Everything on one page, with the rewards by name. (Run the cell to see it; it is not kept in the notebook.)

# %% tags=["live"]
page = (WORKDIR / "report.html").read_text()
frame = f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:800px"></iframe>'
display({"text/html": frame}, raw=True)

# %% [markdown]
# | next | |
# |---|---|
# | columns, layouts, every kind of row that is refused | `docs/data.md` |
# | rewards by name, and those that need a network | `docs/rewards.md` |
# | several sets of records with weights, stages of a curriculum | `docs/mixtures.md` |
# | rewards of a file, outside training | `corl score --help` |

# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Image tokens
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/corl_jax/blob/main/notebooks/01_image_tokens.ipynb)
#
# A unified model writes pictures as it writes sentences: token by token. What the tokens of a picture are is decided
# before, by an *image tokenizer* (VQ-GAN without its critic): an encoder turns a picture into a small grid of vectors,
# each vector is replaced by the nearest of a fixed list of vectors, the *codebook*, and a decoder turns the grid back
# into pixels. The number of the nearest vector is the image token.
#
# Here: 48 pixels a side, 36 tokens of 256 codes. At the end the same calls with Janus-Pro's sizes: 384 pixels, 576 tokens,
# 16,384 codes. The first run takes about three minutes on two CPU cores, most of it the training of section 4.

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
import os
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np

from corl_jax import ImageCodec
from corl_jax.data.shapes.examples import example

# Steps of the training in section 4. 2000 are the whole recipe, about 5 minutes on two CPU cores.
STEPS = max(10, int(os.environ.get("CORL_NOTEBOOK_STEPS", 400)))
# Janus-Pro's weights for section 5, such as "deepseek-community/Janus-Pro-1B" (downloads 4 GB).
JANUS_PRO = ""

codec = ImageCodec.load("tiny")
cfg = codec.cfg
print(f"{cfg.image_size} px a side, {cfg.image_tokens} tokens, {cfg.image_vocab_size} codes")

# %% [markdown]
# ## 1. A picture to 36 tokens, and back
#
# `encode` takes arrays, files or PIL images. Each token stands for 8 x 8 pixels, and the grid is written row by row.

# %%
records = [example("test", number) for number in range(256)]
pictures = np.stack([record.image for record in records])
tokens = codec.encode(pictures)
decoded = codec.decode(tokens)
print(f"pictures {pictures.shape} {pictures.dtype}, tokens {tokens.shape} {tokens.dtype}")


def show(axes, picture, title=""):
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.axis("off")


def psnr(first, second):
    """Peak signal-to-noise ratio in decibels of pictures ``[N, H, W, 3]``, one each."""
    error = np.square(first.astype(float) - second).mean((1, 2, 3))
    return 10 * np.log10(255**2 / np.maximum(error, 1e-9))


row = int(np.argmax([len(set(picture_tokens)) for picture_tokens in tokens]))
figure, panels = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
figure.suptitle(f'"{records[row].prompt}"')
show(panels[0], pictures[row], "the picture")
show(panels[1], pictures[row] // 2 + 127, "its 36 tokens")
show(panels[2], decoded[row], f"decoded, {psnr(pictures, decoded)[row]:.0f} dB")
side = cfg.image_size // cfg.image_grid
for place, token in enumerate(tokens[row]):
    y, x = divmod(place, cfg.image_grid)
    centre = (x * side + side / 2 - 0.5, y * side + side / 2 - 0.5)
    panels[1].annotate(str(token), centre, ha="center", va="center", fontsize=8)
plt.show()

assert tokens.shape == (256, 36) and decoded.shape == pictures.shape
assert np.array_equal(codec.encode(pictures[row : row + 1])[0], tokens[row])
assert psnr(pictures, decoded).mean() > 25

# %% [markdown]
# Even empty squares have different tokens: the encoder looks beyond a square, so its token also says what is near.
#
# ## 2. What one token decides
#
# Replace one token after the other by the most frequent one, and decode. Below is the token that decides the most. The
# decoder, too, looks beyond a square: this one token decides the colour of a whole object, and most of the change lies
# within one square around the token's own.

# %%
frequent = np.bincount(tokens.reshape(-1)).argmax()
variants = np.repeat(tokens[row][None], cfg.image_tokens, 0)
np.fill_diagonal(variants, frequent)  # variant i has another token at place i
without = codec.decode(variants)
difference = np.abs(without.astype(int) - decoded[row]).max(-1)
place = int(difference.sum((1, 2)).argmax())

y, x = divmod(place, cfg.image_grid)
figure, panels = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
show(panels[0], decoded[row], "all tokens")
show(panels[1], without[place], f"token {tokens[row][place]} replaced by {frequent}")
image = panels[2].imshow(difference[place], cmap="magma")
panels[2].set_title("largest change of a channel (0 to 255)", fontsize=10)
panels[2].axis("off")
figure.colorbar(image, ax=panels[2], shrink=0.8)
for axes in panels:
    corner = (x * side - 0.5, y * side - 0.5)
    axes.add_patch(
        plt.Rectangle(corner, side, side, fill=False, edgecolor="#e2588b", linewidth=1.5)
    )
plt.show()

near = (slice(max(0, y - 1) * side, (y + 2) * side), slice(max(0, x - 1) * side, (x + 2) * side))
share = difference[place][near].sum() / difference[place].sum()
print(f"{share:.0%} of the change lies within one square of the token's own")
assert difference.max() > 50 and share > 0.5

# %% [markdown]
# ## 3. What the codebook holds
#
# A code is a vector that means something to this decoder, beside its neighbours. Pictures that consist of one code alone show
# it: the frequent ones are empty ground, and others, which belong to edges and corners, make no sense without what they are
# the edge of. The codes are sorted by how often they occur in 256 held-out pictures; the tiles are the middles.

# %%
counts = np.bincount(tokens.reshape(-1), minlength=cfg.image_vocab_size)
order = np.argsort(-counts)
used = int((counts > 0).sum())
shown = order[: min(48, used)]
tiles = codec.decode(np.repeat(shown[:, None], cfg.image_tokens, 1))

figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
axes.bar(range(used), counts[order[:used]] / counts.sum(), width=1, color="#3f83f8")
axes.set(yscale="log", xlabel="codes, the most frequent first", ylabel="share of all tokens")
axes.set_title(f"{used} of {cfg.image_vocab_size} codes are used", fontsize=10)
plt.show()

figure, grid = plt.subplots(4, 12, figsize=(9, 3.6), layout="constrained")
for axes in grid.flat:
    axes.axis("off")
for axes, code, tile in zip(grid.flat, shown, tiles, strict=False):
    show(axes, tile[16:32, 16:32], str(code))
plt.show()
assert used > 30

# %% [markdown]
# ## 4. Less and more training
#
# The shipped tokenizer was trained for 2000 steps of the command below. With fewer steps it finds the places
# first, then the edges, and the colours last. One run keeps checkpoints on its way; a folder with one of them is a work directory that
# `ImageCodec.load` opens. It trains on
# the CPU, since this notebook may hold the accelerator.

# %%
every = STEPS // 10
command = [sys.executable, "-m", "corl_jax.main", "--config=configs/tokenizer.py"]
command += ["--workdir=runs/image_tokens", f"--config.steps={STEPS}"]
command += [f"--config.hooks.save_every={every}", "--config.hooks.keep_checkpoints=10"]
subprocess.run(command, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True)

sources = {every * n: f"runs/image_tokens_{every * n}" for n in (1, 4, 10)}
for steps, source in sources.items():
    checkpoint, copy = f"runs/image_tokens/checkpoints/{steps}", f"{source}/checkpoints/{steps}"
    shutil.copytree(checkpoint, copy, dirs_exist_ok=True)
sources[2000] = "tiny"
reconstructions = {}
for steps, source in sources.items():
    trained = ImageCodec.load(source)
    reconstructions[steps] = trained.decode(trained.encode(pictures))
quality = {steps: psnr(pictures, images).mean() for steps, images in reconstructions.items()}

columns = [3, 11, 14, 40, row]
figure, grid = plt.subplots(
    len(sources) + 1, len(columns), figsize=(7.4, 1.55 * len(sources) + 1.6), layout="constrained"
)
rows = [("original", pictures)]
rows += [(f"{steps} steps\n{quality[steps]:.1f} dB", reconstructions[steps]) for steps in sources]
for line, (name, images) in zip(grid, rows, strict=True):
    for axes, column in zip(line, columns, strict=True):
        show(axes, images[column])
    line[0].text(-0.15, 0.5, name, ha="right", va="center", transform=line[0].transAxes)
plt.show()
print("mean over 256 held-out pictures:", {n: f"{value:.1f} dB" for n, value in quality.items()})
assert quality[2000] > quality[every]

# %% [markdown]
# A policy cannot draw what its image tokenizer cannot decode, so the last row bounds every picture that it will ever
# draw. In reinforcement learning the image tokenizer stays frozen.
#
# ## 5. Janus-Pro's 576 tokens
#
# The same calls work for Janus-Pro's image tokenizer, whose weights are inside `Janus-Pro-1B` and `7B`. Set `JANUS_PRO`
# in the second cell to use them. Otherwise the cell makes an image tokenizer with Janus-Pro's sizes but fewer channels
# and random numbers: its encoder still gives equal squares equal tokens, but its decoder has learned nothing, so its
# pictures are not shown.

# %%
from PIL import Image

from corl_jax.models.janus.config import ImageTokenizerConfig, JanusConfig
from corl_jax.models.janus.image_tokenizer import ImageTokenizer
from corl_jax.models.random_params import random_params

if JANUS_PRO:
    large = ImageCodec.load(JANUS_PRO)
else:
    from flax import nnx

    sizes = ImageTokenizerConfig(base_channels=32, latent_channels=64, res_blocks=0)
    module = nnx.eval_shape(lambda: ImageTokenizer(sizes, rngs=nnx.Rngs(0)))
    large = ImageCodec(JanusConfig(image_tokenizer=sizes), random_params(module))

photo = Image.fromarray(pictures[row]).resize((384, 384), Image.Resampling.BICUBIC)
large_tokens = large.encode([photo])
large_decoded = large.decode(large_tokens)
print(f"tokens {large_tokens.shape}, decoded {large_decoded.shape}")

names = ["384 px", "24 x 24 tokens, a colour for each code"] + ["decoded"] * bool(JANUS_PRO)
figure, panels = plt.subplots(1, len(names), figsize=(3.4 * len(names), 3.6), layout="constrained")
palette = np.random.default_rng(0).integers(40, 230, (large.cfg.image_vocab_size, 3), np.uint8)
views = [photo, palette[large_tokens[0].reshape(24, 24)], large_decoded[0]]
for axes, name, view in zip(panels, names, views, strict=False):
    show(axes, view, name)
plt.show()
assert large_tokens.shape == (1, 576) and large_decoded.shape == (1, 384, 384, 3)

# %% [markdown]
# | here | elsewhere |
# |---|---|
# | tokens of a file, and back | `corl tokenize --policy tiny --image PICTURE.png --out codes` |
# | the whole recipe | `python -m corl_jax.main --config=configs/tokenizer.py` |
# | the modules | `corl_jax/models/janus/image_tokenizer.py`, `codebook.py` |
# | the loss | `corl_jax/objectives/reconstruction.py` |
# | next | `02_sample_and_score.ipynb`: a policy writes such tokens |

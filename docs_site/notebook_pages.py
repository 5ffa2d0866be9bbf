"""Notebooks as pages: their texts, code and outputs as they are stored."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docs_site.markdown import indent_lists, without_remote_pictures

Pictures = dict[str, bytes]
"""Name of a file beside the page to its bytes."""


def notebook_page(path: Path) -> tuple[str, Pictures]:
    """The Markdown of a notebook, and its pictures."""
    pictures: Pictures = {}
    parts = []
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(indent_lists(without_remote_pictures(text)))
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{text}\n```")
            for place, output in enumerate(cell["outputs"]):
                name = f"{path.stem}_{number}_{place}.png"
                parts += output_lines(output, name, pictures)
    return "\n\n".join(parts) + "\n", pictures


def output_lines(output: Mapping[str, Any], name: str, pictures: Pictures) -> list[str]:
    """What a page shows of one output; a picture becomes a file of that name."""
    data = output["data"] if "data" in output else {"text/plain": output.get("text", "")}
    if "image/png" in data:
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return [f"![output of the cell above]({name})"]
    text = "".join(data.get("text/plain", "")).rstrip()
    return [f"````text\n{text}\n````"] if text else []

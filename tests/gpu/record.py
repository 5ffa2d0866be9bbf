"""Adds the result of a part of ``check.sh`` to its JSON file, whatever became of that part."""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

# Of a part that failed, as many of its last lines are kept beside its result.
LOG_LINES = 15
# ``timeout`` ends with these codes where it ended the command, by SIGTERM or by SIGKILL.
TIMED_OUT = (124, 137)


def entry(rc: int, seconds: int, limit: int, result: pathlib.Path, log: pathlib.Path) -> Any:
    """A part's entry: ``status``, seconds, the JSON that it wrote, and the end of a failed one's log."""
    status = "ok" if rc == 0 else "out of time" if rc in TIMED_OUT else f"failed with code {rc}"
    values: dict[str, Any] = {"status": status, "seconds": seconds, "limit": limit, "result": None}
    # A part that was ended while it wrote its result has none.
    if result.is_file():
        try:
            values["result"] = json.loads(result.read_text("utf-8"))
        except ValueError:
            values["status"] += ", its result cannot be read"
    if rc != 0 and log.is_file():
        values["log"] = log.read_text("utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return values


def main() -> None:
    """Reads the command line; writes the file anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("name")
    for flag in ("--rc", "--seconds", "--limit"):
        parser.add_argument(flag, type=int, required=True)
    for flag in ("--result", "--log"):
        parser.add_argument(flag, type=pathlib.Path, required=True)
    args = parser.parse_args()

    parts = json.loads(args.file.read_text("utf-8")) if args.file.is_file() else {}
    parts[args.name] = entry(args.rc, args.seconds, args.limit, args.result, args.log)

    # Replaced in one go, so that what is known stays whole wherever the script is ended.
    unfinished = args.file.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(parts, indent=2) + "\n", "utf-8")
    unfinished.replace(args.file)


if __name__ == "__main__":
    main()

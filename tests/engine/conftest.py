"""Makes the toy stage importable, and lets Grain read its absl flags under pytest."""

import sys
from pathlib import Path

from absl import flags

sys.path.insert(0, str(Path(__file__).parent))

if not flags.FLAGS.is_parsed():
    flags.FLAGS(["pytest"])

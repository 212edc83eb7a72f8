"""Makes the sample's weights ready, so that everything after works without a network: python -m readqg.sample

Does nothing where they are there. See `readqg.sample.weights` for whence they come.
"""

import logging
import os
import sys

from readqg import models
from readqg.errors import ReadQGError
from readqg.sample import weights


def main() -> int:
    """Resolve each of the sample's models; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, which transformers imports to save a model, warns that it sees no GPU
    for name in weights.SOURCES:
        try:
            logging.getLogger("readqg").info("%s: %s", name, models.resolve(name))
        except ReadQGError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

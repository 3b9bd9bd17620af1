"""`python -m onnxprune` is the command `onnxprune`."""

import sys

from onnxprune.cli import main

sys.exit(main())

"""Every run can be repeated: a failing example prints the line that replays it, and workers do not fight for cores."""

from __future__ import annotations

import os

from hypothesis import settings

# Two workers with a pool of threads each on two cores are slower than one thread each; set before torch is imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

# No deadline: a shared machine pauses, and a pause is no defect.
settings.register_profile("onnxprune", print_blob=True, deadline=None)
settings.load_profile("onnxprune")

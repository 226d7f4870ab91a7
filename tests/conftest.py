from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does; before torch is imported

# A shared machine may be slow for a moment; a test that hangs is caught by the suite's own limit.
settings.register_profile("recsys", deadline=None, max_examples=50)
settings.load_profile("recsys")

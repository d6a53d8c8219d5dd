"""What nbval leaves out when it compares stored outputs with new ones; it looks here."""

import os

# Bars show only where a table is not stored yet: outputs are stored and compared without.
os.environ["TQDM_DISABLE"] = "1"

LEFT_OUT = (
    "stderr",
    "text/html",
    "image/png",
    "image/svg+xml",
    "application/vnd.jupyter.widget-view+json",
)


def pytest_collectstart(collector):
    """Tell nbval what it need not compare."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += LEFT_OUT

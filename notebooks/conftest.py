"""What nbval leaves out when it compares stored outputs with new ones; it must lie beside the notebooks."""

LEFT_OUT = ("stderr", "text/html", "image/png", "image/svg+xml", "application/vnd.jupyter.widget-view+json")


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += LEFT_OUT

"""The first cell of every notebook runs this on Colab: it installs the project."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "install", "--quiet", "-e", f"{FOLDER}[notebooks]"]

subprocess.run(PIP, check=True)
subprocess.run(
    [sys.executable, "-m", "kn_utils.run.models"], cwd=FOLDER
)  # the study goes on without them
sys.path.insert(0, str(FOLDER))

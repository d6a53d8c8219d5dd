#!/usr/bin/env bash
# What only a GPU can show, in one go (about five minutes on an H100): the tests marked gpu, the kernel beside the published
# procedure, and prompts per second from a table to a file, in float32, TF32 and bfloat16. Writes one JSON.
# usage: tests/gpu_check.sh [result.json]      (packages of requirements.lock; no network)
set -u
result=$(realpath -m "${1:-gpu_check.json}")
cd "$(dirname "$0")/.." || exit 1
parts=$(mktemp -d)
trap 'rm -rf "$parts"' EXIT
python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "gpu_check.sh: torch sees no CUDA device." >&2; exit 1; }
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TQDM_DISABLE=1
status=0
run() {  # name, seconds that it may take, command...
  local name=$1 limit=$2 start=$SECONDS; shift 2
  echo "== $name"
  timeout "$limit" "$@" >"$parts/$name.log" 2>&1 || { status=1; echo "FAILED (exit $?)"; }
  tail -n 4 "$parts/$name.log"
  echo "$name $((SECONDS - start))" >>"$parts/seconds"
}
run tests 120 python -m pytest -q -m gpu tests/attribution/test_gpu.py -p no:cacheprovider --junitxml "$parts/tests.xml"
run kernel 90 python -m kn_utils.attribution.benchmark --model random-mbert --prompts 16 --rounds 2 --exact 1 \
  --precision tf32 --precision bfloat16 --out "$parts/kernel.json"
run throughput 100 python -m kn_utils.attribution.throughput --model random-mbert --steps 4 --prompts 4096 \
  --precision float32 tf32 bfloat16 --out "$parts/throughput.json"
run tolerance 40 python -m kn_utils.attribution.throughput --model random-mbert --prompts 2048 \
  --out "$parts/tolerance.json"
python - "$parts" "$result" <<'PYTHON'
import json, pathlib, sys, xml.etree.ElementTree as xml
parts, result = map(pathlib.Path, sys.argv[1:])
made = {path.stem: json.loads(path.read_text()) for path in sorted(parts.glob("*.json"))}
made["seconds"] = dict(line.split() for line in (parts / "seconds").read_text().splitlines())
made["failed"] = []
if (parts / "tests.xml").is_file():
    suite = xml.parse(parts / "tests.xml").getroot().find("testsuite")
    made["tests"] = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    made["failed"] = [case.get("name") for case in suite if case.find("failure") is not None]
made["logs"] = {path.stem: path.read_text()[-4000:] for path in sorted(parts.glob("*.log"))}
result.write_text(json.dumps(made, indent=1))
print(f"written: {result}")
PYTHON
exit $status

# One rule: a notebook, run by papermill. Which notebooks, for which languages, needing what: GRID in kn_utils/run/plan.py; which models: kn_utils/run/studies.py.
#   ./run_all.sh                  checks the options, shows progress, sums up
#   snakemake --cores 2 -n        the default study straight from here; executor plugins take it to a cluster
import sys

sys.path.insert(0, workflow.basedir)
from kn_utils.run.studies import from_config

STUDIES = from_config(config)


workdir: STUDIES.runs


def job(wildcards):
    return STUDIES.jobs[f"{wildcards.folder}/{wildcards.notebook}.ipynb"]


def plan(wildcards):
    return STUDIES.owners[f"{wildcards.folder}/{wildcards.notebook}.ipynb"]


localrules: all, numbers


rule all:
    input:
        list(STUDIES.jobs), "numbers.csv"


# The named numbers of every run in this folder as one table, whichever jobs on whichever machines made them.
rule numbers:
    input:
        list(STUDIES.jobs),
    output:
        "numbers.csv",
    params:
        python=lambda wildcards, output: sys.executable,
    shell:
        "{params.python:q} -m kn_utils.run.joined {output:q} > logs/numbers.log 2>&1"


rule notebook:
    input:
        lambda wildcards: [need.path for need in plan(wildcards).needs(job(wildcards))],
    output:
        "{folder}/{notebook}.ipynb",
    log:
        "{folder}/logs/{notebook}.log",
    wildcard_constraints:
        notebook="[0-9][^/.]*",
    params:
        # Tracked: when it changes, the notebook runs again.
        key=lambda wildcards: plan(wildcards).key(job(wildcards)),
        # Not tracked (they depend on the output): where things lie on this machine.
        # Braces doubled: papermill fills parameters into them.
        source=lambda wildcards, output: str(plan(wildcards).source(job(wildcards))).replace("{", "{{").replace("}", "}}"),
        cwd=lambda wildcards, output: plan(wildcards).notebooks,
        options=lambda wildcards, output: plan(wildcards).options(job(wildcards)),
        part=lambda wildcards, output: str(output[0]).removesuffix(".ipynb"),
        python=lambda wildcards, output: sys.executable,
    threads: STUDIES.threads
    resources:
        # Executors that know GPUs ask for them where the device says so; mem_mb and runtime: the profile's.
        gpu=lambda wildcards: plan(wildcards).gpus,
    shell:
        # The good name appears only when all went well, so a killed run leaves nothing that looks finished.
        "rm -f {params.part:q}.failed.ipynb && touch {params.part:q}.running.ipynb && "
        "if OMP_NUM_THREADS={threads} {params.python:q} -m papermill {params.source:q} {params.part:q}.running.ipynb "
        "--cwd {params.cwd:q} {params.options} --no-progress-bar > {log:q} 2>&1; "
        "then mv {params.part:q}.running.ipynb {output:q}; "
        "else mv {params.part:q}.running.ipynb {params.part:q}.failed.ipynb; exit 1; fi"

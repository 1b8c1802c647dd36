#!/usr/bin/env bash
# One call on a machine with a GPU and little time: trains faces-64, or measures the speed of all samplers.
#
#   benchmarks/gpu.sh prepare FACES        here: data and wheels into .gpu/, which git ignores and which travels along
#   benchmarks/gpu.sh train [SECONDS ...]  there: at most 540 s, all told; weights in parts of 15 MiB into $OUT
#   benchmarks/gpu.sh speed [SECONDS ...]  there: rows of speed.jsonl into $OUT, most important first
#   benchmarks/gpu.sh peers [...]          there: deepinv's and azula's DPS beside ours, into peers.jsonl
#   benchmarks/gpu.sh join PARTS           here: the parts as one prior with its card
#   benchmarks/gpu.sh miniature            here: all of it on the CPU, small
#
# There it needs Python with torch, numpy, pillow and safetensors, and this checkout; what else is missing lies in
# .gpu/wheels, and for `speed` in .gpu/more. FACES is a folder with train.zip, val.zip and test.zip. OUT is .gpu/out
# where it is not set. What follows SECONDS goes to gpu_train.py or gpu_speed.py.
# `train` needs .gpu/faces and .gpu/wheels, `speed` .gpu/wheels and .gpu/more, `peers` .gpu/peers besides, and there
# torchvision, torchmetrics, einops and h5py: 45, 38 and 40 MiB. Where scipy is there, .gpu/more is not needed.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:?prepare, train, speed, peers, join or miniature}
seconds=${2:-540}
out=${OUT:-.gpu/out}
python=${PYTHON:-python3}
started=$(date +%s)

wheels() {  # what the package imports on these paths, for the Python there
    "$python" -m pip download -q --no-deps --only-binary=:all: --python-version "${THERE:-3.12}" --implementation cp \
        --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_27_x86_64 \
        --platform manylinux_2_28_x86_64 -d ".gpu/$1" "${@:2}"
}

site() {  # installs what is missing there, beside what is there
    local missing=()
    export PYTHONPATH="$PWD/src:$PWD/benchmarks:$PWD/.gpu/site:${PYTHONPATH:-}"
    for wheel in .gpu/wheels/*.whl .gpu/more/*.whl .gpu/peers/*.whl; do
        name=$(basename "$wheel" | cut -d- -f1)
        [ -e "$wheel" ] && ! "$python" -c "import $name" 2> /dev/null && missing+=("$wheel")
    done
    [ ${#missing[@]} = 0 ] && return
    "$python" -m pip install -q --no-index --no-deps --no-compile --upgrade --target .gpu/site "${missing[@]}"
}

case $mode in
    prepare)
        mkdir -p .gpu/wheels .gpu/faces
        cp "$2"/{train,val,test}.zip .gpu/faces/
        wheels wheels pydantic==2.14.3 pydantic_core==2.50.4 typing_extensions typing_inspection annotated_types lazy_loader
        wheels more scipy
        wheels peers deepinv==0.5.0 azula==0.11.1 natsort gdown beautifulsoup4 soupsieve
        du -sh .gpu ;;
    train)
        site
        mkdir -p "$out"
        left=$((seconds - ($(date +%s) - started)))
        exec "$python" -u benchmarks/gpu_train.py train .gpu/faces --work .gpu/work --out "$out" --seconds "$left" \
            "${@:3}" ;;
    speed)
        site
        mkdir -p "$out"
        left=$((seconds - ($(date +%s) - started)))
        exec "$python" -u benchmarks/gpu_speed.py --out "$out" --seconds "$left" "${@:3}" ;;
    peers)
        site
        mkdir -p "$out"
        exec "$python" -u benchmarks/gpu_peers.py --out "$out" "${@:2}" ;;
    join)
        PYTHONPATH="$PWD/src:${PYTHONPATH:-}" exec "$python" benchmarks/gpu_train.py join "$2" --out "$out" ;;
    miniature)
        PYTHONPATH="$PWD/src:${PYTHONPATH:-}" exec "$python" -m pytest -q -p no:cacheprovider tests/training/test_gpu.py ;;
    *)
        echo "unknown mode $mode" >&2
        exit 2 ;;
esac

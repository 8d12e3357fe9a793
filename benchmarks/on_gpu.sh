#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, most valuable first. Results go to $1 (default: results/).
# Each part runs whatever became of the one before; what failed is named at the end.
set -uo pipefail
out=${1:-benchmarks/results}
failed=()
mkdir -p "$out"

part() {
    local name=$1
    shift
    echo "== $name"
    "$@" || failed+=("$name")
}

part doctor srtrt doctor
part tests env SRTRT_REQUIRE_GPU=1 python -m pytest -q -m gpu
part "FP16 throughput" srtrt benchmark throughput --device cuda:0 --precision fp16 \
    --io yuv420p8 --size 480x270 --size 960x540 --out "$out/throughput-fp16-gpu.json"
part "one TensorRT-RTX engine" srtrt export fast --format tensorrt-rtx --precision fp16 \
    --io yuv420p8 --shape 480x270
part "tuning" srtrt tune srresnet --shape 480x270
for precision in fp16 bf16 int8 fp8; do
    part "a clip in $precision" srtrt upscale-video samples/rabbit.webm --backend tensorrt \
        --precision "$precision" -o "/tmp/rabbit-$precision.mp4" --overwrite \
        --json "$out/video-$precision-gpu.json"
done
part "ONNX Runtime on CUDA" srtrt upscale-video samples/rabbit.webm --backend onnxruntime \
    --device cuda:0 -o /tmp/rabbit-onnxruntime.mp4 --overwrite

printf 'failed: %s\n' "${failed[@]:-nothing}"
[ ${#failed[@]} -eq 0 ]

#!/bin/sh
# on_a_gpu.sh PLAN OUT MINUTES JOBS: a sweep on one GPU that is lent for some minutes.
# DDBENCH_DATA, DDBENCH_SHARED and DDBENCH_RUNS are set. OUT/results.jsonl.gz is written anew every 20 seconds, so that
# what was measured is there when the machine goes. CUDA's multi-process service lets the processes share the GPU.
plan=$1 out=$2 end=$(($(date +%s) + 60 * $3)) jobs=$4
mkdir -p "$out"
export OMP_NUM_THREADS=1 CUDA_MPS_PIPE_DIRECTORY=/tmp/mps CUDA_MPS_LOG_DIRECTORY=/tmp/mps
mkdir -p /tmp/mps
control=$(command -v nvidia-cuda-mps-control || echo /usr/local/nvidia/bin/nvidia-cuda-mps-control)
"$control" -d || unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
python3 -m ddbench sweep "$plan" --jobs "$jobs" > "$out/sweep.txt" 2>&1 &
sweep=$!
export_results() {
    python3 -m ddbench export results "$out/new.jsonl.gz" > /dev/null 2>&1 && mv "$out/new.jsonl.gz" "$out/results.jsonl.gz"
}
while kill -0 $sweep 2> /dev/null && [ "$(date +%s)" -lt "$end" ]; do
    sleep 20
    export_results
done
kill $sweep 2> /dev/null
wait $sweep 2> /dev/null
export_results
python3 -m ddbench leaderboard

#!/usr/bin/env bash
# Runs a command of launch/ on every host of a TPU pod slice; docs/clusters.md.
#
#   TPU=my-v5e-32 ZONE=us-west4-a launch/cluster/tpu_pod.sh \
#     launch/train.py --config configs/ag_grpo.py:llada_8b,gsm8k \
#     --workdir /mnt/shared/runs/ag
#
# Environment:
#   TPU, ZONE  name and zone of the slice
#   DIR        the checkout, the same path on every host (default: dllm_jax in
#              the home directory)
#   PYTHON     the interpreter of its environment (default: python3)
set -euo pipefail

: "${TPU:?name of the TPU slice}" "${ZONE:?its zone}"
[[ $# -gt 0 ]] || { echo 'tpu_pod.sh: give a command of launch/' >&2; exit 2; }

command=$(printf '%q ' "${PYTHON:-python3}" "$@" --distributed=auto)
# A path that is not absolute is one of the home directory there.
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all \
  --command="cd $(printf '%q' "${DIR:-dllm_jax}") && exec $command"

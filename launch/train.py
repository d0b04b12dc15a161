"""Trains a policy: base model, RL, evaluation before and after.

  python launch/train.py --config configs/ag_grpo.py --workdir runs/ag_grpo

The same command continues a run that was stopped.
"""

import pathlib

from absl import flags

import cli
import process_flags

WORKDIR = flags.DEFINE_string(
  'workdir', None, 'the directory of the run; default: runs/METHOD'
)


def main(config) -> int:
  cli.setup_jax(config.mesh.cpu_devices)
  process_flags.start()
  from dllm_jax import metric_names  # Late: --help answers at once.
  from dllm_jax.run import train
  from dllm_jax.runtime import console, processes
  from dllm_jax.train import loop

  directory = pathlib.Path(WORKDIR.value or f'runs/{config.method.name}')
  screen = console.Console(
    show=metric_names.LIVE, quiet=not processes.is_first()
  )
  try:
    train.train(config.to_dict(), directory, screen)
  except loop.Interrupted:
    screen.line(f'stopped and saved; rerun to resume {directory}')
    return 3
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    'Trains a policy and evaluates it, or continues an unfinished run.',
    example='launch/train.py --config configs/ag_grpo.py --workdir runs/ag',
  )

"""Shows what a few RL updates on the same prompts teach.

  python launch/probe.py --config configs/ag_grpo.py:equations,variants \
    --config.base.path=runs/equations/base --out probe.json
"""

import pathlib

from absl import flags

import cli

UPDATES = flags.DEFINE_integer(
  'updates', 20, 'updates on the same prompts', lower_bound=0
)
ROUNDS = flags.DEFINE_integer(
  'rounds',
  8,
  'groups of completions of every prompt, sampled before and after',
  lower_bound=1,
)
OUT = flags.DEFINE_string('out', None, 'results as JSON')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'write over the --out file')


def main(config) -> int:
  out = pathlib.Path(OUT.value) if OUT.value else None
  if out is not None:
    cli.check_new(out, OVERWRITE.value)
  values = config.to_dict()
  cli.setup_jax(values['mesh']['cpu_devices'])
  from dllm_jax.run import probe
  from dllm_jax.runtime import console  # Late: --help answers at once.
  from dllm_jax.state import workdir

  screen = console.Console()
  found = probe.probe(
    values, screen, num_updates=UPDATES.value, num_rounds=ROUNDS.value
  )
  probe.show(found, screen)
  if out is not None:
    workdir.write_json(out, found)
  return 0


if __name__ == '__main__':
  cli.run(
    main,
    'Shows what a few RL updates on the same prompts teach.',
    example='launch/probe.py --config configs/ag_grpo.py:equations,variants '
    '--config.base.path=runs/equations/base',
  )

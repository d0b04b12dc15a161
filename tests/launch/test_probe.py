"""launch/probe.py: a table and its numbers, or one line."""

import dataclasses
import json

from dllm_jax.run import setup
from tests import tiny_run


def test_a_probe_is_shown_and_written_once(commands, tmp_path):
  cfg, ctx = tiny_run.parts()
  model = setup.new_model(cfg)
  params = setup.fresh_params(ctx)
  dataclasses.replace(model, params=params).save(tmp_path / 'base')
  out = tmp_path / 'probe.json'
  args = [f'--config.base.path={tmp_path / "base"}', '--updates=1']
  args += ['--config.rollout.num_prompts=4', '--config.data.num_validation=4']
  args += ['--rounds=1', '--out', out]
  command = commands.run('probe.py', *args)
  assert (command.code, command.err) == (0, '')
  assert 'held-out gain' in command.out
  written = json.loads(out.read_text())
  assert written['about']['num_updates'] == written['about']['num_rounds'] == 1
  assert set(written['arms']['rl']) == {'seen', 'held_out', 'updates'}

  out.write_text('kept')
  refused = commands.run('probe.py', *args)
  assert refused.code == 1 and refused.err.count('\n') == 1
  assert '--overwrite' in refused.err and out.read_text() == 'kept'
  refused = commands.run('probe.py', *args, '--overwrite', '--rounds=0')
  assert refused.code == 2 and 'rounds' in refused.err

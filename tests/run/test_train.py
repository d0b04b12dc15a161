"""What a run refuses before it touches its directory, and its outcomes."""

import contextlib
import io
import pathlib

import pytest

from dllm_jax import errors
from dllm_jax.run import checks, settings, setup
from dllm_jax.run import train as run_lib
from dllm_jax.runtime import console
from dllm_jax.state import workdir
from tests import tiny_run


def attempt(directory, **changes):
  """The line with which a run is refused; it must leave nothing behind."""
  screen = console.Console(file=io.StringIO())
  values = tiny_run.values(**({'mesh__data': 2} | changes))
  with pytest.raises(errors.UserError) as caught:
    run_lib.train(values, directory, screen)
  assert not directory.exists()
  return str(caught.value)


@pytest.mark.parametrize(
  'changes, line',
  [
    (
      {'rollout__num_prompts': 3, 'rollout__group_size': 3},
      'rollout.num_prompts * rollout.group_size is 9, which the 2 shards',
    ),
    (
      {'rollout__num_prompts': 3, 'method__guided__num_guided': 1},
      'rollout.num_prompts * method.guided.num_guided is 3',
    ),
    ({'base__batch_size': 3}, 'base.batch_size is 3, which the 2 shards'),
    ({'eval__batch_size': 5}, 'eval.batch_size is 5, which the 2 shards'),
    (
      {'method__policy__num_micro': 3},
      '16 rows do not split into method.policy.num_micro=3',
    ),
    ({'base__num_micro': 3}, '8 rows do not split into base.num_micro=3'),
    ({'mesh__data': 9}, 'mesh.data=9, mesh.fsdp=1, mesh.tensor=1 does not fit'),
    ({'data__num_test': 10**6}, 'data.num_test is 1000000, but there are'),
    ({'data__num_validation': 10**6}, 'data.num_validation is 1000000'),
    ({'data__num_demonstrations': 10**6}, 'data.num_demonstrations is 1000000'),
    ({'data_dir': '/nonexistent'}, 'test file /nonexistent/countdown/'),
    ({'rollout__max_prompt_length': 3}, 'rollout.max_prompt_length=3'),
    (
      {'rollout__gen_length': 8, 'rollout__block_length': 8},
      'rollout.gen_length=8: raise that key',
    ),
    ({'base__path': '/nonexistent/base'}, 'base.path names /nonexistent/base'),
    (
      {'method__reward': {'solved': 1.0}},
      'reward.solved is no reward term of task',
    ),
    ({'model__num_kv_heads': 3}, "config group 'model': num_heads 2"),
    (
      {'model__lora_rank': 2},
      'model.lora_rank is 2, but base.path is empty',
    ),
    ({'rollout__threshold': 1.5}, 'threshold 1.5 is above 1'),
    ({'eval__thresholds': (0.5, 7.0)}, 'threshold 7.0 is not a finite number'),
  ],
)
def test_what_cannot_run_is_refused_before_the_directory_is_made(
  tmp_path, changes, line
):
  assert line in attempt(tmp_path / 'run', **changes)


def test_public_rows_that_do_not_fit_the_lexicon(shared_dir, tmp_path):
  data_dir = str(shared_dir / 'data')
  line = attempt(tmp_path / 'run', data_dir=data_dir)
  assert 'does not fit the lexicon' in line and 'config group task' in line


def wrong_values(value):
  """Values of a type, none of which are huge."""
  if isinstance(value, bool):
    return []
  if isinstance(value, int):
    return [0, -1]
  if isinstance(value, float):
    return [0.0, -1.0, float('nan')]
  if isinstance(value, str):
    return ['', 'zzz']
  if isinstance(value, tuple):
    return [(), (0,), (-1,)]
  return [0, -1]


# A data set is built wherever it is asked for.
KEYS = [k for k in workdir.flatten(tiny_run.values()) if k != 'data.cache_dir']


@pytest.mark.parametrize('group', sorted({k.split('.')[0] for k in KEYS}))
def test_no_single_value_gives_a_traceback(group):
  """Each passes the checks, or is refused by one of them."""
  flat = workdir.flatten(tiny_run.values())
  for key in KEYS:
    if key.split('.')[0] != group:
      continue
    for value in wrong_values(flat[key]):
      changes = {'mesh__data': 1, key.replace('.', '__'): value}
      with contextlib.suppress(errors.UserError):
        check(tiny_run.values(**changes))


def check(values):
  cfg = settings.from_config(values)
  ctx = setup.make_context(cfg, None)
  checks.check_shapes(cfg, ctx)
  rows = setup.load_rows(cfg)
  checks.check_rows(cfg, ctx, rows)
  checks.check_base(cfg, ctx, pathlib.Path('/nonexistent'))
  return cfg, ctx, rows


def test_fused_attention_is_for_gpus():
  values = tiny_run.values(
    mesh__data=1, model__attention='cudnn', model__dtype='bfloat16'
  )
  with pytest.raises(errors.UserError, match='NVIDIA GPUs; use'):
    check(values)


def test_rows_of_a_run():
  _, _, rows = check(tiny_run.values(mesh__data=1))
  _, _, other = check(tiny_run.values(mesh__data=1, seed=1))
  ids = lambda part: [row['id'] for row in part]
  assert len(rows.demonstrations) == 32 and len(rows.prompts) > 400
  assert len(rows.validation) == len(rows.test) == 12
  # Held-out rows are the same for every seed, demonstrations are not.
  assert ids(rows.test) == ids(other.test)
  assert ids(rows.validation) == ids(other.validation)
  assert ids(rows.demonstrations) != ids(other.demonstrations)
  assert set(ids(rows.demonstrations)) <= set(ids(rows.prompts))
  assert not set(ids(rows.prompts)) & set(ids(rows.test + rows.validation))


def test_num_test_takes_what_a_public_file_has(shared_dir):
  values = tiny_run.values(
    data_dir=str(shared_dir / 'data'),
    task__max_number=100,
    task__max_target=100,
    data__num_test=10**6,
    mesh__data=1,
  )
  _, _, rows = check(values)
  assert len(rows.test) == 256


def test_the_mesh_may_be_smaller_than_the_machine():
  _, ctx, _ = check(tiny_run.values(mesh__data=1))
  assert ctx.mesh.size == 1

"""A workdir has one owner and one config."""

import copy
import importlib
import json
import os
import socket
import subprocess
import sys
import textwrap

import pytest

from dllm_jax import errors
from dllm_jax.state import workdir

CONFIG = {'seed': 1, 'train': {'num_steps': 4, 'lr': 0.1}, 'dims': (2, 3)}


def changed(**train):
  return CONFIG | {'train': CONFIG['train'] | train}


def claim_once(path, config=CONFIG, **kwargs):
  with workdir.claim(path, config, extra={}, **kwargs) as resumed:
    return resumed


def test_first_claim_is_new_and_later_ones_resume(tmp_path):
  path = tmp_path / 'a' / 'b'
  assert claim_once(path) is False
  assert claim_once(path) is True


def test_config_json_says_what_ran(tmp_path):
  with workdir.claim(tmp_path, CONFIG, extra={'command': 'x'}):
    record = json.loads((tmp_path / 'config.json').read_text())
  assert record['config'] == CONFIG | {'dims': [2, 3]}
  assert record['command'] == 'x'
  assert record['versions']['jax'] and record['versions']['python']
  assert record['devices'] == ['cpu'] * 8
  assert 'git' in record


def test_another_config_is_refused_naming_the_keys(tmp_path):
  claim_once(tmp_path)
  before = (tmp_path / 'config.json').read_bytes()
  with pytest.raises(errors.UserError) as caught:
    claim_once(tmp_path, changed(lr=0.2, extra=1))
  message = str(caught.value)
  assert str(tmp_path) in message and '\n' not in message
  assert 'train.lr: 0.1 -> 0.2' in message
  assert 'train.extra: absent -> 1' in message
  assert 'use another --workdir' in message
  assert (tmp_path / 'config.json').read_bytes() == before


def test_at_most_eight_keys_are_named(tmp_path):
  claim_once(tmp_path, {c: 0 for c in 'abcdefghij'})
  with pytest.raises(errors.UserError, match='g: 0 -> 1, h: .* and 2 more;'):
    claim_once(tmp_path, {c: 1 for c in 'abcdefghij'})


def test_what_explains_the_other_changes_comes_first(tmp_path):
  many = {f'a{i}': i for i in range(9)}
  claim_once(tmp_path, {**many, 'task': {'name': 'sudoku'}})
  changed = {**dict.fromkeys(many, -1), 'task': {'name': 'gsm8k'}}
  with pytest.raises(errors.UserError) as refused:
    claim_once(tmp_path, changed)
  assert 'config: task.name: "sudoku" -> "gsm8k", a0' in str(refused.value)
  assert 'and 2 more' in str(refused.value)


def test_free_keys_may_change_and_are_recorded(tmp_path):
  claim_once(tmp_path)
  assert claim_once(tmp_path, changed(num_steps=9), free=('train.num_steps',))
  record = json.loads((tmp_path / 'config.json').read_text())
  assert record['config']['train']['num_steps'] == 9
  assert claim_once(tmp_path, changed(lr=3.0), free=('train',))


def test_a_directory_of_something_else_is_refused(tmp_path):
  (tmp_path / 'thesis.tex').write_text('x')
  with pytest.raises(errors.UserError, match='thesis.tex.*another --workdir'):
    claim_once(tmp_path)
  assert not (tmp_path / 'config.json').exists()


def test_a_claim_that_died_before_its_config_does_not_stand_in_the_way(
  tmp_path,
):
  (tmp_path / '.lock').touch()
  (tmp_path / 'config.json.123.tmp').touch()
  assert claim_once(tmp_path) is False


def test_a_broken_config_json_is_refused(tmp_path):
  (tmp_path / 'config.json').write_text('{"config": ')
  with pytest.raises(errors.UserError, match='cannot read .*config.json'):
    claim_once(tmp_path)


def test_a_path_that_is_a_file_is_refused(tmp_path):
  (tmp_path / 'x').touch()
  with pytest.raises(errors.UserError, match='cannot write to workdir'):
    claim_once(tmp_path / 'x')


def test_a_second_trainer_is_refused_until_the_first_ends(tmp_path):
  with workdir.claim(tmp_path, CONFIG, extra={}):
    holder = f'in use by process {os.getpid()} on {socket.gethostname()};'
    with pytest.raises(errors.UserError, match=holder):
      claim_once(tmp_path)
  assert claim_once(tmp_path) is True


def test_the_lock_of_a_killed_process_is_gone(tmp_path):
  code = f"""
    import time
    from dllm_jax.state import workdir
    with workdir.claim({str(tmp_path)!r}, {CONFIG!r}, extra={{}}):
      print('claimed', flush=True)
      time.sleep(60)
  """
  with subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(code)], stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == b'claimed\n'
    # Signals of another run's own leave its half-written files alone.
    partial = tmp_path / 'checkpoints' / 'rl' / '7.partial'
    partial.mkdir(parents=True)
    with pytest.raises(errors.UserError, match=f'process {process.pid} on'):
      claim_once(tmp_path)
    assert partial.exists()
    process.kill()
    process.wait()
  assert str(process.pid) in (tmp_path / '.lock').read_text()
  assert claim_once(tmp_path) is True
  assert not partial.exists()


def test_what_a_killed_run_left_half_written_is_removed(tmp_path):
  claim_once(tmp_path)
  stale = [
    'config.json.123.tmp',
    'eval.json.123.tmp',
    'metrics.jsonl.tmp',
    'base.partial/arrays/x',
    'checkpoints/rl/7.partial/meta.json',
    '.base.0a1b2c3d/config.json',
  ]
  stays = ['checkpoints/rl/6/meta.json', 'notes.tmp', 'rl/7.partial', '.x.json']
  for name in stale + stays:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
  assert claim_once(tmp_path) is True
  assert [name for name in stale if (tmp_path / name).exists()] == []
  assert [name for name in stays if (tmp_path / name).exists()] == stays


def test_changed_data_are_refused(tmp_path):
  data = {'train': 'a1', 'test': 'b2'}
  workdir.check_data(tmp_path / 'none', data)
  workdir.check_data(tmp_path, data)
  with workdir.claim(tmp_path, CONFIG, extra={'data': data}):
    pass
  workdir.check_data(tmp_path, data | {'more': 'c3'})
  for now in (data | {'test': 'c3'}, {'train': 'a1'}):
    with pytest.raises(
      errors.UserError, match=r'the data .*\(test\)'
    ) as caught:
      workdir.check_data(tmp_path, now)
    assert '\n' not in str(caught.value)


def test_another_config_is_seen_without_a_claim(tmp_path):
  workdir.check_resumable(tmp_path / 'none', CONFIG, free=())
  workdir.check_resumable(tmp_path, CONFIG, free=())
  assert list(tmp_path.iterdir()) == []
  claim_once(tmp_path)
  workdir.check_resumable(tmp_path, CONFIG, free=())
  workdir.check_resumable(tmp_path, changed(lr=0.2), free=('train',))
  with pytest.raises(errors.UserError, match='train.lr: 0.1 -> 0.2;'):
    workdir.check_resumable(tmp_path, changed(lr=0.2), free=())


def test_what_may_cost_the_last_bits_is_said_once(tmp_path):
  said = []
  config = CONFIG | {'mesh': {'data': 2}}
  claim_once(tmp_path, config, say=said.append)
  claim_once(tmp_path, config, say=said.append)
  assert said == []
  record = json.loads((tmp_path / 'config.json').read_text())
  record['versions'] |= {'jax': '0.1', 'a-package-that-went': '1'}
  record['devices'] = ['TPU v5'] * 4
  workdir.write_json(tmp_path / 'config.json', record)
  now = CONFIG | {'mesh': {'data': 4}}
  assert claim_once(tmp_path, now, free=('mesh',), say=said.append) is True
  assert len(said) == 1 and '\n' not in said[0]
  assert 'mesh.data: 2 -> 4, jax 0.1 -> 0.' in said[0]
  assert 'devices 4 TPU v5 -> 8 cpu' in said[0] and 'went' not in said[0]
  claim_once(tmp_path, now, free=('mesh',), say=said.append)
  assert len(said) == 1


def test_a_place_that_cannot_be_written_is_one_line(mounted):
  place = mounted('ro')
  with pytest.raises(errors.UserError) as caught:
    claim_once(place / 'run')
  assert str(caught.value).startswith(f'cannot write to workdir {place}/run')
  assert 'Read-only file system' in str(caught.value)


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path):
  path = tmp_path / 'a.json'
  workdir.write_json(path, {'a': 1})
  with pytest.raises(TypeError):
    workdir.write_json(path, {'a': object()})
  assert json.loads(path.read_text()) == {'a': 1}
  assert os.listdir(tmp_path) == ['a.json']


def test_nonfinite_values_are_strings_and_resume(tmp_path):
  config = {'clip': float('inf'), 'dims': (float('nan'), 1)}
  claim_once(tmp_path, config)
  text = (tmp_path / 'config.json').read_text()
  record = json.loads(text, parse_constant=pytest.fail)
  assert record['config'] == {'clip': 'inf', 'dims': ['nan', 1]}
  assert claim_once(tmp_path, config) is True


@pytest.mark.parametrize('method', ['ta_grpo_d', 'ag_grpo', 'sft'])
def test_a_run_of_an_older_version_is_refused(tmp_path, method):
  """It lacks the newest keys, free ones too, and has some that are no more."""
  module = importlib.import_module(f'configs.{method}')
  now = module.get_config().to_dict()
  old = copy.deepcopy(now)
  del old['rollout']['cache']
  del old['model']['unroll']
  old['method']['group'] = {'delta': 0.5}
  with workdir.claim(tmp_path, old, extra={}):
    pass
  with pytest.raises(errors.UserError) as refused:
    workdir.check_resumable(tmp_path, now, free=('model.unroll',))
  assert str(refused.value) == (
    f'workdir {tmp_path} was begun with another config or by another version '
    'of this program: method.group.delta: 0.5 -> absent, model.unroll: absent '
    '-> 4, rollout.cache: absent -> "none"; use another --workdir'
  )


def test_data_with_digests_of_other_names_are_refused(tmp_path):
  with workdir.claim(tmp_path, CONFIG, extra={'data': {'rows.array': 'aa'}}):
    pass
  with pytest.raises(errors.UserError, match=r'have changed .*\(rows.array\)'):
    workdir.check_data(tmp_path, {'train': 'bb', 'test': 'cc'})

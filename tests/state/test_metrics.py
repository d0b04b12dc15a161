"""metrics.jsonl: all digits, no gaps, no repeats."""

import json
import math
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from dllm_jax import errors
from dllm_jax.state import metrics


def lines(workdir):
  return (workdir / 'metrics.jsonl').read_text().splitlines()


def write_run(workdir, steps, *, resume_step=None, phase='rl', scale=1.0):
  log = metrics.MetricsLog(workdir, resume_step=resume_step)
  for step in steps:
    log.write(phase, step, {'reward/mean': scale * step})
  log.close()


def test_a_row_is_as_documented_with_all_its_digits(tmp_path):
  log = metrics.MetricsLog(tmp_path, resume_step=None)
  log.write(
    'rl', 3, {'task/b': 0.1 + 0.2, 'task/c': np.float32(0.1), 'task/d': 2}
  )
  assert lines(tmp_path) == [
    '{"phase": "rl", "step": 3, "task/b": 0.30000000000000004, '
    '"task/c": 0.10000000149011612, "task/d": 2.0}'
  ]
  log.close()


def test_nonfinite_values_are_null_and_named(tmp_path):
  log = metrics.MetricsLog(tmp_path, resume_step=None)
  log.write('rl', 0, {'task/x': math.nan, 'task/y': -math.inf, 'task/z': 1.0})
  log.close()
  row = json.loads(lines(tmp_path)[0], parse_constant=pytest.fail)
  assert row['task/x'] is None and row['task/y'] is None
  assert row['nonfinite'] == {'task/x': 'nan', 'task/y': '-inf'}
  (back,) = metrics.read(tmp_path)
  assert math.isnan(back['task/x']) and back['task/y'] == -math.inf
  assert back.keys() == {'phase', 'step', 'task/x', 'task/y', 'task/z'}


@pytest.mark.parametrize('name', ['step', 'reward/men', 'task/', 'reward/'])
def test_unknown_names_are_refused_and_nothing_is_written(tmp_path, name):
  log = metrics.MetricsLog(tmp_path, resume_step=None)
  with pytest.raises(ValueError, match=f'unknown metric {name!r}'):
    log.write('rl', 0, {'reward/mean': 1.0, name: 1.0})
  log.close()
  assert lines(tmp_path) == []


def test_a_resumed_file_equals_an_uninterrupted_one(tmp_path):
  whole, cut = tmp_path / 'whole', tmp_path / 'cut'
  whole.mkdir()
  cut.mkdir()
  write_run(whole, range(8))
  write_run(cut, range(6), scale=1.0)
  write_run(cut, range(4, 8), resume_step={'rl': 3})
  assert lines(cut) == lines(whole)


def test_phases_are_resumed_separately(tmp_path):
  write_run(tmp_path, range(5), phase='sft')
  write_run(tmp_path, range(5), phase='rl', resume_step={'sft': 9})
  write_run(tmp_path, [], phase='eval', resume_step={'sft': 9, 'rl': 1})
  steps = [(r['phase'], r['step']) for r in metrics.read(tmp_path)]
  assert steps == [('sft', s) for s in range(5)] + [('rl', 0), ('rl', 1)]
  write_run(tmp_path, [], resume_step={'rl': 1})
  assert [r['phase'] for r in metrics.read(tmp_path)] == ['rl', 'rl']
  write_run(tmp_path, [], resume_step=None)
  assert metrics.read(tmp_path) == []


@pytest.mark.parametrize('cut', [1, 5, 20])
def test_a_truncated_last_line_is_dropped(tmp_path, cut):
  write_run(tmp_path, range(3))
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(path.read_bytes()[:-cut])
  assert [r['step'] for r in metrics.read(tmp_path)] == [0, 1]
  write_run(tmp_path, [2], resume_step={'rl': 2})
  assert [r['step'] for r in metrics.read(tmp_path)] == [0, 1, 2]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
  write_run(tmp_path, range(3))
  path = tmp_path / 'metrics.jsonl'
  path.write_text(path.read_text().replace('"step": 1', '"step": '))
  with pytest.raises(errors.UserError, match='line 2'):
    metrics.read(tmp_path)
  before = path.read_bytes()
  with pytest.raises(errors.UserError, match='line 2'):
    metrics.MetricsLog(tmp_path, resume_step={'rl': 2})
  assert path.read_bytes() == before


def test_reading_a_missing_file_is_an_error(tmp_path):
  with pytest.raises(errors.UserError, match='metrics.jsonl is missing'):
    metrics.read(tmp_path)


def test_rows_survive_a_killed_process(tmp_path):
  code = f"""
    import os, signal
    from dllm_jax.state import metrics
    log = metrics.MetricsLog({str(tmp_path)!r}, resume_step=None)
    for step in range(3):
      log.write('rl', step, {{'task/b': 1.0}})
    os.kill(os.getpid(), signal.SIGKILL)
  """
  subprocess.run([sys.executable, '-c', textwrap.dedent(code)], check=False)
  assert [r['step'] for r in metrics.read(tmp_path)] == [0, 1, 2]


def scalars(workdir):
  """(tag, step, value) of all TensorBoard files: length, crc, event, crc."""
  found = []
  for path in sorted(workdir.glob('tensorboard/*/events*')):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], 'little')
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      for v in event.summary.value:
        found.append((v.tag, event.step, v.simple_value))
  return found


def test_tensorboard_gets_the_same_scalars(tmp_path):
  write_run(tmp_path, range(3))
  write_run(tmp_path, range(2), phase='sft', resume_step={'rl': 2})
  assert scalars(tmp_path) == [
    ('rl/reward/mean', 0, 0.0),
    ('rl/reward/mean', 1, 1.0),
    ('rl/reward/mean', 2, 2.0),
    ('sft/reward/mean', 0, 0.0),
    ('sft/reward/mean', 1, 1.0),
  ]


def test_tensorboard_rows_are_on_disk_and_those_written_again_hidden(tmp_path):
  log = metrics.MetricsLog(tmp_path, resume_step={'rl': 4})
  log.write('rl', 5, {'reward/mean': 0.5})
  assert scalars(tmp_path) == [('rl/reward/mean', 5, 0.5)]
  (path,) = tmp_path.glob('tensorboard/rl/events*')
  data, events = path.read_bytes(), []
  while data:
    size = int.from_bytes(data[:8], 'little')
    events.append(event_pb2.Event.FromString(data[12 : 12 + size]))
    data = data[16 + size :]
  assert events[0].file_version == 'brain.Event:2'
  assert events[1].session_log.status == event_pb2.SessionLog.START
  assert events[1].step == 5
  log.close()


class _FakeWandb:
  """Stands for the wandb module: remembers what it was given."""

  def __init__(self):
    self.started, self.rows, self.finished = [], [], 0

  def init(self, **kwargs):
    self.started.append(kwargs)
    return self

  def log(self, row):
    self.rows.append(row)

  def finish(self):
    self.finished += 1


def test_wandb_gets_the_rows_and_a_resumed_run_its_id(tmp_path, monkeypatch):
  fake = _FakeWandb()
  monkeypatch.setitem(sys.modules, 'wandb', fake)
  for _ in range(2):
    log = metrics.MetricsLog(tmp_path, resume_step=None, wandb_project='p')
    log.write('rl', 3, {'reward/mean': 0.5})
    log.close()
  assert fake.rows[0] == {'rl/reward/mean': 0.5, 'rl/step': 3}
  assert fake.started[0]['id'] == fake.started[1]['id']
  assert fake.finished == 2


def test_wandb_that_is_not_installed_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(errors.UserError, match='wandb is not installed'):
    metrics.MetricsLog(tmp_path, resume_step=None, wandb_project='p')


def test_rewind_removes_later_rows_of_its_phase_only(tmp_path):
  log = metrics.MetricsLog(tmp_path, resume_step=None)
  for phase, step in (('sft', 1), ('sft', 2), ('rl', 1), ('rl', 2), ('rl', 3)):
    log.write(phase, step, {'task/b': step})
  log.close()
  log = metrics.MetricsLog(tmp_path, resume_step={'sft': 2, 'rl': 3})
  log.write('eval', 0, {'task/b': 0})  # of this process, and not of the phase
  log.rewind('rl', 1)
  log.write('rl', 2, {'task/b': 20})
  log.rewind('rl', 1)  # what was written since stays
  log.rewind('sft', 5)
  log.close()
  rows = [(r['phase'], r['step'], r['task/b']) for r in metrics.read(tmp_path)]
  assert rows == [
    ('sft', 1, 1),
    ('sft', 2, 2),
    ('rl', 1, 1),
    ('eval', 0, 0),
    ('rl', 2, 20),
  ]


def test_a_full_disk_is_one_line(tmp_path):
  """/dev/full is a disk without room."""
  log = metrics.MetricsLog(tmp_path, resume_step=None)
  log.write('rl', 0, {'task/b': 0})
  full = os.open('/dev/full', os.O_WRONLY)
  os.dup2(full, log._file.fileno())
  os.close(full)
  with pytest.raises(errors.UserError) as caught:
    log.write('rl', 1, {'task/b': 1})
  line = str(caught.value)
  assert 'metrics.jsonl: No space left on device; free some space' in line
  assert '\n' not in line
  with pytest.raises(OSError):
    log.close()
  assert [row['step'] for row in metrics.read(tmp_path)] == [0]

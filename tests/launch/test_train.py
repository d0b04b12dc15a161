"""launch/train.py: a refused command is one line, and leaves all as it was."""

import json
import shutil

import pytest
from array_record.python import array_record_module

from dllm_jax.state import metrics
from tests import tiny_run

SHORT = tiny_run.flags(train__num_steps=3)


def digests(directory):
  """Bytes of every file but those that say who ran last."""
  return {
    str(path.relative_to(directory)): path.read_bytes()
    for path in sorted(directory.rglob('*'))
    if path.is_file() and path.name not in ('config.json', '.lock')
  }


def refuse(commands, *args, code=1):
  """The one line of a command that must fail."""
  command = commands.run('train.py', *args)
  assert command.code == code, command.err
  assert command.err.count('\n') == 1 and command.err.endswith('\n')
  assert command.err.startswith('train.py: ')
  return command.err


@pytest.fixture(scope='module')
def finished(commands, tmp_path_factory):
  """The workdir of a finished run."""
  run = tmp_path_factory.mktemp('finished') / 'run'
  command = commands.run('train.py', *SHORT, '--workdir', run)
  assert (command.code, command.err) == (0, '')
  return run


@pytest.fixture
def unfinished(finished, tmp_path):
  """The same run as it was after its last RL step, before its results."""
  run = tmp_path / 'run'
  shutil.copytree(finished, run)
  (run / 'eval.json').unlink()
  shutil.rmtree(run / 'final')
  log = run / 'metrics.jsonl'
  lines = log.read_text().splitlines(keepends=True)
  log.write_text(''.join(x for x in lines if '"eval", "step"' not in x))
  return run


def test_a_run_ends_with_a_report(commands, finished, unfinished):
  page = (finished / 'report.html').read_text('utf-8')
  assert '<h1>AG-GRPO on Countdown</h1>' in page
  # Without the page, and with nowhere to put it, the results are the same.
  (unfinished / 'report.html').unlink()
  (unfinished / 'report.html').mkdir()
  command = commands.run('train.py', *SHORT, '--workdir', unfinished)
  assert (command.code, command.err) == (0, '')
  assert command.out.splitlines()[-1].startswith('warning: no report.html: ')
  found, want = (
    json.loads((run / 'eval.json').read_text())
    for run in (unfinished, finished)
  )
  for name in ('base', 'final'):
    assert found[name]['accuracy'] == want[name]['accuracy']
  same = (run / 'trajectories.jsonl' for run in (unfinished, finished))
  assert len({path.read_bytes() for path in same}) == 1
  verdicts = json.loads((finished / 'verdicts.json').read_text())
  for name in ('base', 'final'):
    for steps, digits in verdicts[name]['fixed'].items():
      right = want[name]['sweep'][steps]['accuracy'] * want['num']
      assert digits.count('1') == round(right) and len(digits) == want['num']


WRONG = [
  (['--config.rollout.gen_lenght=3'], 2, "did you mean 'rollout.gen_length'?"),
  (['--config=configs/ag_grpo.py:huge'], 2, "unknown preset 'huge'; there are"),
  (
    ['--config=configs/ag_grpo.py:llada_8b,gsm8'],
    2,
    "'llada_8b,gsm8'; did you mean 'llada_8b,gsm8k'? there are",
  ),
  (['--config=configs/none.py'], 2, 'config file configs/none.py is missing'),
  (tiny_run.flags(data_dir='/nonexistent'), 1, '/nonexistent'),
  (
    tiny_run.flags(rollout__num_prompts=3, rollout__group_size=3),
    1,
    'rollout.group_size is 9, which the 2 shards of mesh.data * mesh.fsdp do',
  ),
  (
    tiny_run.flags(method__guided__num_guided=5),
    1,
    'method.guided.num_guided is 5, more than rollout.group_size 4',
  ),
  (tiny_run.flags(rollout__max_prompt_length=3), 1, 'max_prompt_length=3'),
  (tiny_run.flags(base__path='/nonexistent'), 1, 'base.path names /nonexis'),
  (tiny_run.flags(data__num_test=10**6), 1, 'data.num_test is 1000000'),
  (tiny_run.flags(train__optim__learning_rate='nan'), 1, 'must be finite'),
  (tiny_run.flags(eval__num_steps='(0,)'), 1, "config group 'eval'"),
]


def test_refused_commands_leave_the_workdir_to_the_right_one(
  commands, tmp_path, finished
):
  run = tmp_path / 'run'
  for args, code, line in WRONG:
    assert line in refuse(commands, *args, '--workdir', run, code=code)
    assert not run.exists(), args
  right = tiny_run.flags(train__num_steps=3, base__path=finished / 'base')
  command = commands.run('train.py', *right, '--workdir', run)
  assert (command.code, command.err) == (0, '')
  assert 'base model from' in command.out
  # The base is taken over as it is.
  tiny_run.assert_same(
    tiny_run.kept(run / 'final'), tiny_run.kept(finished / 'final')
  )
  found = json.loads((run / 'eval.json').read_text())
  want = json.loads((finished / 'eval.json').read_text())
  for name in ('base', 'final'):
    assert found[name]['accuracy'] == want[name]['accuracy']


def test_refused_commands_change_nothing_in_an_unfinished_run(
  commands, unfinished
):
  before = digests(unfinished)
  config = (unfinished / 'config.json').read_bytes()
  for args, code, line in WRONG[:1] + WRONG[3:5]:
    assert line in refuse(commands, *args, '--workdir', unfinished, code=code)
  line = refuse(
    commands, *SHORT, '--config.seed=1', '--workdir', unfinished, code=1
  )
  assert 'begun with another config: seed: 0 -> 1;' in line
  assert digests(unfinished) == before
  assert (unfinished / 'config.json').read_bytes() == config


def damage(folder):
  """Flips a bit in the middle of the largest file."""
  file = max(
    (p for p in folder.rglob('*') if p.is_file()),
    key=lambda p: p.stat().st_size,
  )
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  file.write_bytes(content)


def test_a_damaged_checkpoint_is_set_aside_and_the_older_one_used(
  commands, finished, unfinished
):
  """Of RL the newest; of the base the kept parameters, to be made again."""
  saved = unfinished / 'checkpoints' / 'rl'
  damage(saved / '3')
  damage(unfinished / 'base')
  command = commands.run('train.py', *SHORT, '--workdir', unfinished)
  assert (command.code, command.err) == (0, '')
  assert f'checkpoint {saved}/3 is damaged: ' in command.out
  assert 'kept as 3.damaged, going on from step 2' in command.out
  assert f'model folder {unfinished}/base is damaged: ' in command.out
  assert 'kept as base.damaged, and restored from its checkpoint' in command.out
  assert sorted(p.name for p in saved.iterdir()) == ['2', '3', '3.damaged']
  for name in ('base', 'final'):
    tiny_run.assert_same(
      tiny_run.kept(unfinished / name), tiny_run.kept(finished / name)
    )
  # The rows of the step that was done again are there once.
  rows = [(row['phase'], row['step']) for row in metrics.read(unfinished)]
  assert len(set(rows)) == len(rows)
  assert [s for phase, s in rows if phase == 'rl'] == [1, 2, 3]


def test_without_any_whole_checkpoint_the_run_ends(commands, unfinished):
  saved = unfinished / 'checkpoints' / 'rl'
  for step in ('2', '3'):
    damage(saved / step)
  line = refuse(commands, *SHORT, '--workdir', unfinished)
  assert f'no whole checkpoint is left in {saved}' in line
  names = sorted(p.name for p in saved.iterdir())
  assert names == ['2.damaged', '3.damaged']


def test_run_resumes_with_a_rebuilt_cache_and_refuses_other_data(
  commands, tmp_path, finished
):
  """Another mesh is only reported: it changes the last bits."""
  cache = tmp_path / 'cache'
  ours = tiny_run.flags(data__cache_dir=cache)
  run = tmp_path / 'first'
  begun = tiny_run.flags(base__path=finished / 'base', train__num_steps=1)
  command = commands.run('train.py', *ours, *begun, '--workdir', run)
  assert (command.code, command.err) == (0, '')
  (run / 'eval.json').unlink()
  record = json.loads((run / 'config.json').read_text())
  assert set(record['data']) == {'train', 'validation', 'test'}
  (file,) = cache.rglob('*train.array_record*')
  records = array_record_module.ArrayRecordReader(str(file)).read_all()
  writer = array_record_module.ArrayRecordWriter(str(file), 'group_size:1')
  for record in reversed(records):
    writer.write(record)
  writer.close()
  line = refuse(commands, *ours, *begun, '--workdir', run)
  assert 'have changed since the run began (train): ' in line
  shutil.rmtree(cache)
  less = tiny_run.flags(mesh__cpu_devices=1)
  command = commands.run('train.py', *ours, *begun, *less, '--workdir', run)
  assert (command.code, command.err) == (0, '')
  assert 'mesh.cpu_devices: 2 -> 1, devices 2 cpu -> 1 cpu; ' in command.out
  assert 'may differ in its last bits' in command.out


def test_a_strangers_directory_is_not_touched(commands, tmp_path):
  (tmp_path / 'thesis.tex').write_text('years of work')
  line = refuse(commands, '--workdir', tmp_path)
  assert 'has files (such as thesis.tex)' in line
  assert (tmp_path / 'thesis.tex').read_text() == 'years of work'


def test_a_directory_that_cannot_be_written(commands, tmp_path):
  (tmp_path / 'file').write_text('')
  line = refuse(commands, '--workdir', tmp_path / 'file' / 'run')
  assert 'cannot write to workdir' in line


def test_a_learning_rate_that_blows_up_is_named(commands, tmp_path, finished):
  run = tmp_path / 'run'
  wild = tiny_run.flags(
    base__path=finished / 'base',
    train__optim__learning_rate=1e30,
    train__optim__warmup_steps=0,
    train__num_steps=50,
    train__eval_every=0,
  )
  line = refuse(commands, *wild, '--workdir', run)
  assert 'not finite in the last 10 steps; the last' in line
  step = int(line.split('rl step ')[1].split(':')[0])
  saved = [
    int(p.parent.name) for p in run.glob('checkpoints/rl/*/manifest.json')
  ]
  assert max(saved) == step - 1
  # Not one of the ten changed a bit of what is saved.
  older, newest = (
    tiny_run.kept(run / 'checkpoints' / 'rl' / str(number))
    for number in sorted(saved)
  )
  tiny_run.assert_same(newest, older)
  assert all(abs(leaf).max() < float('inf') for leaf in newest.values())
  assert len(list((run / 'skipped').glob('rl-*.npz'))) == 10
  # The same command stops at the same place.
  assert refuse(commands, *wild, '--workdir', run) == line


def test_the_control_is_part_of_the_results(commands, tmp_path, finished):
  run = tmp_path / 'run'
  args = tiny_run.flags(
    base__path=finished / 'base', train__num_steps=1, train__control=True
  )
  command = commands.run('train.py', *args, '--workdir', run)
  assert (command.code, command.err) == (0, '')
  found = json.loads((run / 'eval.json').read_text())
  assert {'base', 'control', 'final'} <= set(found)
  assert set(found['seconds']) == {'base', 'rl', 'control', 'eval'}
  lines = (run / 'metrics.jsonl').read_text().splitlines()
  phases = {json.loads(line)['phase'] for line in lines}
  assert phases == {'rl', 'control', 'eval'}
  assert 'control' in command.out and (run / 'control').exists()


@pytest.mark.parametrize('wrong', ['workdir', 'damaged', 'older'])
def test_a_wrong_base_is_refused_before_the_workdir_is_made(
  commands, tmp_path, finished, wrong
):
  run, path = tmp_path / 'run', tmp_path / 'base'
  shutil.copytree(finished / 'base', path)
  if wrong == 'workdir':
    path = finished
  elif wrong == 'damaged':
    damage(path)
  else:
    (path / 'manifest.json').write_text('{}')
  before = digests(path)
  line = refuse(commands, '--workdir', run, *tiny_run.flags(base__path=path))
  assert digests(path) == before
  assert not run.exists()
  if wrong == 'workdir':
    assert 'did you mean' in line and str(finished / 'base') in line


@pytest.mark.parametrize(
  'text', ['{"task": "countdown"}', '{"task": "countd', '[]']
)
def test_results_that_are_none_are_one_line(commands, tmp_path, finished, text):
  run = tmp_path / 'run'
  shutil.copytree(finished, run)
  (run / 'eval.json').write_text(text)
  line = refuse(commands, *SHORT, '--workdir', run)
  assert 'is not the results of a run any more' in line
  assert (run / 'eval.json').read_text() == text
  (run / 'eval.json').unlink()
  assert commands.run('train.py', *SHORT, '--workdir', run).code == 0


def test_a_cache_that_cannot_be_written(commands, tmp_path):
  blocked = tmp_path / 'file'
  blocked.write_text('')
  run = tmp_path / 'run'
  line = refuse(
    commands,
    '--workdir',
    run,
    *tiny_run.flags(data__cache_dir=blocked / 'cache'),
  )
  assert 'change data.cache_dir' in line and not run.exists()

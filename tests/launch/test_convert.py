"""launch/convert.py: a folder that is whole, or one line and none."""

import os

import pytest
from safetensors.numpy import load_file


@pytest.fixture(scope='module')
def source(shared_dir):
  return shared_dir / 'golden' / 'dream_tiny'


def convert(commands, *args):
  return commands.run('convert.py', *args, config=False)


def test_there_and_back(commands, source, tmp_path):
  ours, theirs = tmp_path / 'deep' / 'ours', tmp_path / 'theirs'
  command = convert(commands, '--from', source, '--to', ours)
  assert (command.code, command.err) == (0, '')
  assert 'reading' in command.out and 'auto_map' in command.out
  assert f'written: {ours}' in command.out
  command = convert(commands, '--from', ours, '--to', theirs)
  assert (command.code, command.err) == (0, '')
  assert 'writing  27/27' in command.out
  want = load_file(source / 'model.safetensors')
  found = load_file(theirs / 'model.safetensors')
  assert set(found) == set(want)
  assert all(found[k].tobytes() == want[k].tobytes() for k in want)
  assert sorted(os.listdir(tmp_path)) == ['deep', 'theirs']


def test_dtype(commands, source, tmp_path):
  ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
  args = ['--from', source, '--to', ours, '--dtype=bfloat16']
  assert convert(commands, *args).code == 0
  assert convert(commands, '--from', ours, '--to', theirs).code == 0
  for array in load_file(theirs / 'model.safetensors').values():
    assert array.dtype.name == 'bfloat16'


@pytest.mark.parametrize(
  'args, code, line',
  [
    ([], 2, '--from DIR and --to DIR are needed'),
    (['--from={source}'], 2, '--from DIR and --to DIR are needed'),
    (['--from=/nonexistent', '--to={new}'], 1, 'there is no folder /nonexist'),
    (['--from=a/b@main', '--to={new}'], 1, "'main' is not a commit of a/b"),
    (['--from={source}', '--to={old}'], 1, 'is there already'),
    (['--from={source}', '--to=/proc/x'], 1, 'cannot write to /proc'),
    (['--from={source}', '--to={old}/file/x'], 1, 'cannot write to'),
    (['--from={old}', '--to={new}'], 1, 'config.json is missing'),
    (['--from={source}', '--to={new}', '--merge_lora'], 1, 'no adapters to'),
    (
      ['--from={source}', '--to={new}', '--lora={old}'],
      1,
      'adapter_config.json is missing',
    ),
    (['--from={source}', '--to={new}', '--dtype=int8'], 2, '--dtype'),
    (['--from={source}', '--too={new}'], 2, "did you mean '--to'"),
    (['--from={source}', '--to={new}', 'x'], 2, "unexpected argument 'x'"),
  ],
)
def test_a_wrong_command_is_one_line(
  commands, source, tmp_path, args, code, line
):
  old, new = tmp_path / 'old', tmp_path / 'new'
  old.mkdir()
  (old / 'file').write_text('mine')
  args = [arg.format(source=source, old=old, new=new) for arg in args]
  command = convert(commands, *args)
  assert command.code == code, command.err
  assert line in command.err and command.err.startswith('convert.py: ')
  assert command.err.count('\n') == 1
  assert sorted(os.listdir(tmp_path)) == ['old']


def test_help_has_an_example(commands):
  command = convert(commands, '--help')
  assert command.code == 0
  assert 'launch/convert.py --from' in command.out and '--merge_lora' in (
    command.out
  )

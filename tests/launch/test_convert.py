"""launch/convert.py: a folder that is whole, or one line and none."""

import os

import pytest
from safetensors.numpy import load_file


@pytest.fixture(scope='module')
def source(shared_dir):
  return shared_dir / 'golden' / 'dream_tiny'


def convert(commands, *args):
  return commands.run('convert.py', *args, config=False)


def test_a_folder_is_written_anew(commands, source, tmp_path):
  target = tmp_path / 'deep' / 'new'
  command = convert(commands, '--from', source, '--to', target)
  assert (command.code, command.err) == (0, '')
  assert 'reading  27/27' in command.out and 'auto_map' in command.out
  assert 'writing  27/27' in command.out and f'written: {target}' in command.out
  want = load_file(source / 'model.safetensors')
  got = load_file(target / 'model.safetensors')
  assert set(got) == set(want)
  assert all(got[k].tobytes() == want[k].tobytes() for k in want)
  assert sorted(os.listdir(tmp_path)) == ['deep']


def test_dtype(commands, source, tmp_path):
  target = tmp_path / 'new'
  args = ['--from', source, '--to', target, '--dtype=bfloat16']
  assert convert(commands, *args).code == 0
  for array in load_file(target / 'model.safetensors').values():
    assert array.dtype.name == 'bfloat16'


@pytest.mark.parametrize(
  'args, code, line',
  [
    ([], 2, '--from DIR and --to DIR are needed'),
    (['--from={source}'], 2, '--from DIR and --to DIR are needed'),
    (['--from=/nonexistent', '--to={new}'], 1, 'there is no folder /nonexist'),
    (['--from=a/b@main', '--to={new}'], 1, "'main' is not a commit of a/b"),
    (['--from={source}', '--to={old}'], 1, 'already exists'),
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

"""launch/bench.py: plans and measurements, or one line."""

import json
import pathlib

import pytest

CONFIG = pathlib.Path(__file__).resolve().parents[1] / 'tiny_run.py'
PLAN = ('--plan=diffu_grpo', f'--config={CONFIG}')


def test_help(commands):
  ran = commands.run('bench.py', '--help', config=False)
  assert ran.code == 0
  assert '--plan llada_8b --mesh data=8,fsdp=8' in ran.out


@pytest.mark.parametrize(
  'args, code, fault',
  [
    (['--suite=speed'], 2, "unknown --suite 'speed'"),
    (['--plan=llama'], 2, "unknown preset 'llama'"),
    ([*PLAN, '--device=cray'], 2, "unknown --device 'cray'"),
    ([*PLAN, '--mesh=data=x'], 2, "'data=x' is not data=N"),
    ([*PLAN, '--rows=3'], 1, 'num_micro=2'),
    ([*PLAN, '--config.rollout.lenght=3'], 2, 'unknown config key'),
    ([*PLAN, '--out=nowhere/a.json'], 1, 'its folder does not exist'),
    (['--suite=speculative'], 2, 'needs --model DIR'),
    (['--suite=speculative,decode', '--model=x'], 2, 'measured alone'),
    (['--suite=decode', '--model=x'], 2, 'speculative and caches alone'),
    (['--suite=caches,decode'], 2, '--suite caches is measured alone'),
    (['--suite=end_to_end', '--kernels=3'], 2, 'by --suite decode and update'),
    ([*PLAN, '--kernels=3'], 2, '--kernels is not read by --plan'),
    (['--suite=caches', '--model=x'], 2, 'both --model DIR and --prompts'),
    (['--suite=caches', '--threshold=0.9'], 2, 'with --model DIR alone'),
    (['--suite=caches', '--caches=all'], 2, "unknown --caches 'all'"),
    (['--suite=caches', '--cases=x'], 2, "match no case of suite 'caches'"),
    (
      ['--suite=caches', '--model=x', '--prompts=y', '--cache=dual'],
      2,
      '--cache is what --suite caches compares',
    ),
  ],
)
def test_bad_input_is_one_line(commands, args, code, fault):
  ran = commands.run('bench.py', *args, config=False)
  assert ran.code == code
  assert fault in ran.err and len(ran.err.splitlines()) == 1


@pytest.mark.slow
def test_a_plan(commands, tmp_path):
  out = tmp_path / 'plan.json'
  ran = commands.run(
    'bench.py',
    *PLAN,
    '--mesh=data=2,fsdp=2',
    '--rows=4',
    '--device=a100',
    f'--out={out}',
    config=False,
  )
  assert ran.code == 0, ran.err
  assert 'fits a100' in ran.out
  (found,) = json.loads(out.read_text())
  assert (found['devices'], found['rows'], found['fits']) == (4, 16, True)
  names = [row['program'] for row in found['programs']]
  assert names == ['rollout', 'read', 'inner_step']


@pytest.mark.slow
def test_a_suite(commands, tmp_path):
  out = tmp_path / 'bench.json'
  ran = commands.run(
    'bench.py',
    '--suite=decode,update',
    '--largest=3e5',
    '--rounds=2',
    '--notorch',
    '--kernels=3',
    f'--out={out}',
    config=False,
  )
  assert ran.code == 0, ran.err
  assert 'Block/mlp' in ran.out
  found = json.loads(out.read_text())
  for row in (*found['decode'], *found['update']):
    assert 'products' in {kernel['kind'] for kernel in row['kernels']}
    assert row['tokens_per_second'] > 0
    assert 1 <= row['flops_over_minimum'] < 1.2
    assert row['speedup'] == {}
